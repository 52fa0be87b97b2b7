"""Which of our languages a visitor reads, by the browser's own wish."""

from collections.abc import Collection

FALLBACK = "en"


def preferred(accept_language: str, languages: Collection[str]) -> str:
    """The first language of an `Accept-Language` header that is one of `languages`; English otherwise."""
    for wish in accept_language.split(","):
        language = wish.strip().split(";")[0].split("-")[0].lower()
        if language in languages:
            return language
    return FALLBACK
