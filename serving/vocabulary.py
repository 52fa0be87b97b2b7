"""What the numbers mean: a folder's tokens, its languages and tasks, and the prompt that starts a transcript.

Decision: read once from the folder's own JSON files, for whichever back end computes, so that both write the same
prompt and read the same text out of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from serving.errors import UserError
from serving.model_folder import GENERATION, TOKENIZER, ModelError, read_object

SECONDS_A_TIMESTAMP = 0.02


class LanguageError(UserError):
    """The model does not know the language, or cannot translate."""


@dataclass(frozen=True)
class Vocabulary:
    """A Whisper folder's tokens."""

    tokenizer: Tokenizer
    start: int
    """Starts every transcript (`<|startoftranscript|>`)."""
    end: int
    """Ends it; every special token and timestamp follows this one in Whisper's vocabulary."""
    no_timestamps: int
    """Asks for text without times; the timestamps 0.00, 0.02 … follow it."""
    languages: dict[str, int]
    """Token of each language by its code; empty where the model knows but one and is not asked."""
    tasks: dict[str, int]
    language: str | None
    """The language the folder is for, as a code."""
    suppressed: tuple[int, ...]
    """Never written."""
    suppressed_first: tuple[int, ...]
    """Not written first: the blank and the end."""
    first_timestamp: int | None
    """Highest index of a timestamp that may come first."""
    alignment_heads: tuple[tuple[int, int], ...]
    """Layer and head of the cross-attention that follows the words."""

    @property
    def no_speech(self) -> int:
        """Says that nobody speaks (`<|nospeech|>`, of old `<|nocaptions|>`): in every Whisper the token before."""
        return self.no_timestamps - 1

    def prompt(self, language: str, task: str, timestamps: bool) -> list[int]:
        """What the model is given before it writes. Raises `LanguageError`."""
        asked = []
        if self.languages:
            if language not in self.languages:
                raise LanguageError(
                    f"language {language!r}: not one of this model's; it knows {', '.join(sorted(self.languages))}"
                )
            asked = [self.languages[language], self.tasks[task]]
        elif language != self.language or task != "transcribe":
            raise LanguageError(f"{task} in {language!r}: this model only transcribes {self.language!r}")
        return [self.start, *asked, *([] if timestamps else [self.no_timestamps])]

    def text(self, tokens: list[int]) -> str:
        """The words alone."""
        return self.tokenizer.decode([token for token in tokens if token < self.end])

    def seconds(self, token: int) -> float | None:
        """The time a timestamp says; None for any other token."""
        index = token - self.no_timestamps - 1
        return round(index * SECONDS_A_TIMESTAMP, 2) if index >= 0 else None


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a Hugging Face Whisper folder. Raises a `ModelError` that names the file."""
    config_path, path = folder / "config.json", folder / GENERATION
    config, generation = read_object(config_path), read_object(path)
    size = _number(config_path, config, "vocab_size")
    _check_tokens(config_path, size, {name: [config.get(name)] for name in ("decoder_start_token_id", "eos_token_id")})
    heads = [_number(config_path, config, name) for name in ("decoder_layers", "decoder_attention_heads")]
    _number(path, generation, "no_timestamps_token_id")
    if generation.get("max_initial_timestamp_index") is not None:
        _number(path, generation, "max_initial_timestamp_index")
    tokenizer = _tokenizer(folder / TOKENIZER)
    try:
        found = _vocabulary(tokenizer, config, generation, *heads)
        tokens: dict[str, Iterable[Any]] = {"lang_to_id": found.languages.values(), "task_to_id": found.tasks.values()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: has a setting of another kind than Whisper's ({error}); export it again") from error
    tokens |= {"suppress_tokens": found.suppressed, "begin_suppress_tokens": found.suppressed_first}
    _check_tokens(path, size, tokens | {"no_timestamps_token_id": [found.no_timestamps]})
    if generation.get("is_multilingual") and not (found.languages and "transcribe" in found.tasks):
        raise ModelError(f"{path}: is multilingual but lacks lang_to_id or task_to_id; export it again")
    if found.languages and found.language is not None and found.language not in found.languages:
        raise ModelError(f"{path}: language {found.language!r} is none of those in its lang_to_id; export it again")
    return found


def _vocabulary(
    tokenizer: Tokenizer, config: dict[str, Any], generation: dict[str, Any], layers: int, heads: int
) -> Vocabulary:
    multilingual = bool(generation.get("is_multilingual", False))
    languages = {name.strip("<|>"): token for name, token in (generation.get("lang_to_id") or {}).items()}
    named = [(layer, head) for layer, head in generation.get("alignment_heads") or ()]
    # Where a folder names none that it has: all of the upper half, OpenAI's own default (openai/whisper, model.py).
    upper = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    return Vocabulary(
        tokenizer=tokenizer,
        start=config["decoder_start_token_id"],
        end=config["eos_token_id"],
        no_timestamps=generation["no_timestamps_token_id"],
        languages=languages if multilingual else {},
        tasks=generation.get("task_to_id") or {},
        language=_code(generation.get("language") or (None if multilingual else "en")),
        suppressed=tuple(generation.get("suppress_tokens") or ()),
        suppressed_first=tuple(generation.get("begin_suppress_tokens") or ()),
        first_timestamp=generation.get("max_initial_timestamp_index"),
        alignment_heads=tuple((layer, head) for layer, head in named if 0 <= layer < layers and 0 <= head < heads)
        or tuple(upper),
    )


def _code(language: str | None) -> str | None:
    """`it` of `it`, `italian` or `<|it|>`."""
    if language is None:
        return None
    name = language.lower().strip("<|>")
    return TO_LANGUAGE_CODE.get(name, name)


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers has no class of its own
        raise ModelError(f"{path}: is no tokenizer ({error}); export the model again") from error


def _number(path: Path, content: dict[str, Any], name: str) -> int:
    """A setting that is a whole number from 0. Raises `ModelError`."""
    found = content.get(name)
    if type(found) is not int or found < 0:
        raise ModelError(f"{path}: {name} is {found!r}, expected a whole number; export the model again")
    return found


def _check_tokens(path: Path, size: int, tokens: Mapping[str, Iterable[Any]]) -> None:
    """Raises `ModelError` for a setting that names what is no token of the model's."""
    for name, found in tokens.items():
        wrong = [token for token in found if type(token) is not int or not 0 <= token < size]
        if wrong:
            raise ModelError(
                f"{path}: {name} has {wrong[0]!r}, the model's tokens are 0 to {size - 1}; export the model again"
            )
