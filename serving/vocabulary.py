"""What the numbers mean: a folder's tokens, its languages and tasks, and the prompt that starts a transcript.

Decision: read once from the folder's own JSON files, for whichever back end computes, so that both write the same
prompt and read the same text out of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from serving.errors import UserError
from serving.model_folder import GENERATION, TOKENIZER, ModelError

SECONDS_A_TIMESTAMP = 0.02
UNSPACED = {"zh", "ja", "th", "lo", "my", "yue"}  # written without spaces between words


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
    """The vocabulary of a Hugging Face Whisper folder. Raises `ModelError`."""
    generation = _read(folder / GENERATION)
    config = _read(folder / "config.json")
    if generation.get("no_timestamps_token_id") is None:
        raise ModelError(f"{folder}: {GENERATION} lacks no_timestamps_token_id; export the model again")
    multilingual = bool(generation.get("is_multilingual", False))
    languages = {name.strip("<|>"): token for name, token in (generation.get("lang_to_id") or {}).items()}
    tasks = generation.get("task_to_id") or {}
    if multilingual and not (languages and "transcribe" in tasks):
        raise ModelError(f"{folder}: {GENERATION} is multilingual but lacks lang_to_id or task_to_id; export it again")
    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    named = [(layer, head) for layer, head in generation.get("alignment_heads") or ()]
    # Where a folder names none that it has: all of the upper half, OpenAI's own default (openai/whisper, model.py).
    upper = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    return Vocabulary(
        tokenizer=Tokenizer.from_file(str(folder / TOKENIZER)),
        start=config["decoder_start_token_id"],
        end=config["eos_token_id"],
        no_timestamps=generation["no_timestamps_token_id"],
        languages=languages if multilingual else {},
        tasks=tasks,
        language=_code(generation.get("language") or (None if multilingual else "en")),
        suppressed=tuple(generation.get("suppress_tokens") or ()),
        suppressed_first=tuple(generation.get("begin_suppress_tokens") or ()),
        first_timestamp=generation.get("max_initial_timestamp_index"),
        alignment_heads=tuple((layer, head) for layer, head in named if layer < layers and head < heads)
        or tuple(upper),
    )


def _code(language: str | None) -> str | None:
    """`it` of `it`, `italian` or `<|it|>`."""
    if language is None:
        return None
    name = language.lower().strip("<|>")
    return TO_LANGUAGE_CODE.get(name, name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); export the model again") from error
