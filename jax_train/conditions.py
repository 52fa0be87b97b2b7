"""How a score was made, in words, so that unlike scores are not taken for like ones.

Decision: a split's score is that of all its clips, each alone in a whole window with room for its transcript. Whatever
lacks one of these is told to in tables, pages and model cards, and is not given to the hub. How the transcripts were
decoded (beams, timestamps, fallback) is another matter: it makes another score, not less of one, and is told beside it.

The settings are those in scores.json; one that a file lacks had its default when the file was written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

ASKED_TOKENS = "asked_new_tokens"  # --max-new-tokens; `max_new_tokens` in scores.json is what the model has room for
LEFT_OUT = "clips_left_out"  # by --limit, which may be as large as the split


def lacks(settings: Mapping[str, Any], fold_told: bool = False) -> list[str]:
    """What keeps a score with these settings from being its split's; or, where the fold is told, its fold's."""
    found = []
    fold = settings.get("fold") or {}
    if settings.get("windows", "whole") != "whole":
        found.append(f"{settings['windows']} windows, so not the score of whole windows")
    if settings.get("limit") and settings.get(LEFT_OUT, 1):
        found.append(f"the {'fold' if fold.get('of') else 'split'}'s first {settings['limit']} clips alone")
    if fold.get("of") and not fold_told:
        found.append(f"fold {fold['number']} of {fold['of']} alone")
    if settings.get(ASKED_TOKENS):
        found.append(f"transcripts cut after {settings[ASKED_TOKENS]} tokens")
    return found


def lacks_of_two(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """What two scores lack, each named with its letter unless both lack the same."""
    if a == b:
        return list(a)
    return [f"{side}: {missing}" for side, found in (("A", a), ("B", b)) for missing in found]


def decoding(settings: Mapping[str, Any]) -> str:
    """How the transcripts were decoded, for example «greedy, whole windows»."""
    if settings.get("predictions"):
        return "transcripts made elsewhere"
    beams, temperatures = settings.get("num_beams", 1), _temperatures(settings)
    words = ["greedy" if beams == 1 else f"{beams} beams", f"{settings.get('windows', 'whole')} windows"]
    if settings.get("timestamps"):
        words.append("with timestamps")
    if len(temperatures) > 1:
        words.append(f"fallback to temperatures {', '.join(f'{value:g}' for value in temperatures[1:])}")
    return ", ".join(words)


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what A and B were not transcribed alike, with both values; nothing of transcripts made elsewhere."""
    if a.get("predictions") or b.get("predictions"):
        return []
    pairs = ((name, _told(a)[name], _told(b)[name]) for name in _told(a))
    return [f"{name}: {ours} in A, {theirs} in B" for name, ours, theirs in pairs if ours != theirs and ours and theirs]


def _told(settings: Mapping[str, Any]) -> dict[str, str]:
    """What may make two models' scores differ that is not the models; empty where it is not known."""
    return {
        "windows": str(settings.get("windows", "whole")),
        "beams": str(settings.get("num_beams", 1)),
        "timestamps": "yes" if settings.get("timestamps") else "no",
        "temperatures": " ".join(f"{value:g}" for value in _temperatures(settings)),
        "language": str(settings.get("language") or ""),
        "most new tokens": _most_new_tokens(settings),
        "computed in": str(settings.get("compute_dtype") or ""),
    }


def _most_new_tokens(settings: Mapping[str, Any]) -> str:
    """As asked for: what a model has room for is its own."""
    return str(settings[ASKED_TOKENS] or "all there is room for") if ASKED_TOKENS in settings else ""


def _temperatures(settings: Mapping[str, Any]) -> list[float]:
    return list((settings.get("fallback") or {}).get("temperatures", (0.0,)))
