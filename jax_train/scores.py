"""WER and CER of transcripts, as written and normalised, always both and always named; and the edits behind them.

Decision: Whisper's basic normaliser keeping the accents, in both scores' name. The English normaliser rewrites other
languages' words, and stripping accents flatters: `è` (is) and `e` (and) are different words. A normalised score alone
hides what the reader sees: case and punctuation are worth about five points in Italian. What no reader sees is taken
out even as written: whether è is one code point or two, and which spaces stand between words. Alignments come from the
metric that gives the scores (jiwer, through `evaluate`), so every finer figure adds up to them.

Shapes: C clips.
"""

import dataclasses
import importlib
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from data.errors import UserError

NORMALISER = "transformers BasicTextNormalizer(remove_diacritics=False)"
METRIC = Path(__file__).parent / "wer.py"
PIPELINES = "transformers.pipelines"
SCORES = ("wer", "cer", "wer_normalised", "cer_normalised")


@dataclasses.dataclass(frozen=True, eq=False)
class Edits:
    """What turns each reference into its hypothesis, in words and in characters."""

    reference_words: list[list[str]]
    hypothesis_words: list[list[str]]
    alignments: list[list[Any]]
    """jiwer's chunks of each clip: `type` (equal, substitute, insert, delete) and the words' places on both sides."""
    words: Int[np.ndarray, "C"]
    substitutions: Int[np.ndarray, "C"]
    deletions: Int[np.ndarray, "C"]
    insertions: Int[np.ndarray, "C"]
    characters: Int[np.ndarray, "C"]
    character_errors: Int[np.ndarray, "C"]
    wer: float
    """In percent, of the whole corpus."""
    cer: float

    @property
    def errors(self) -> Int[np.ndarray, "C"]:
        """Word errors of each clip."""
        return self.substitutions + self.deletions + self.insertions


def as_seen(text: str) -> str:
    """`text` with what looks alike made alike: Unicode's composed form (NFC), words one plain space apart."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normaliser() -> Callable[[str], str]:
    """`NORMALISER`: a sentence in lower case, without punctuation and without what stands in brackets."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer  # takes seconds to import

    basic = BasicTextNormalizer(remove_diacritics=False)
    return lambda text: basic(text).strip()


def edits(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[Edits, Edits]:
    """The edits as written (both `as_seen`), and normalised.

    A hypothesis may be empty, and so may be what the normaliser leaves of a reference (a lone «…»): its words are then
    insertions.

    Raises:
        UserError: nothing to score, unequal numbers, or a reference that is empty as written.
    """
    if not references:
        raise UserError("no clips to score")
    if len(references) != len(hypotheses):
        raise UserError(f"{len(references)} references and {len(hypotheses)} hypotheses: one of each per clip")
    for number, reference in enumerate(references):
        if not reference.strip():
            raise UserError(
                f"reference {number} is empty: there is nothing to measure errors against; leave the clip out"
            )
    references, hypotheses = [as_seen(text) for text in references], [as_seen(text) for text in hypotheses]
    normalise = normaliser()
    normal_references = [normalise(text) for text in references]
    if not any(normal_references):
        raise UserError("the references hold no letter or digit: there is nothing to measure errors against")
    return aligned(references, hypotheses), aligned(normal_references, [normalise(text) for text in hypotheses])


def load_metric() -> Any:
    """Our metric, by `evaluate`, which takes seconds to import.

    Decision: it is imported as where transformers has no pipelines. For its evaluators, of which nothing here makes
    use, it would import those, and with them PyTorch: three more seconds and a quarter of a gigabyte for everyone who
    scores, a run that evaluates too. Pipelines themselves work as ever.
    """
    if "evaluate" not in sys.modules and PIPELINES not in sys.modules:
        sys.modules[PIPELINES] = None  # type: ignore[assignment]  # an ImportError for who asks
        try:
            importlib.import_module("evaluate")
        finally:
            del sys.modules[PIPELINES]
    return importlib.import_module("evaluate").load(str(METRIC), keep_in_memory=True)


def aligned(references: Sequence[str], hypotheses: Sequence[str]) -> Edits:
    """The edits between texts as they are given, by our metric."""
    found = load_metric().compute(references=list(references), predictions=list(hypotheses), alignments=True)
    words, characters = found["words"], found["characters"]
    return Edits(
        reference_words=words.references,
        hypothesis_words=words.hypotheses,
        alignments=words.alignments,
        words=np.array([len(text) for text in words.references], np.int64),
        substitutions=_counted(words.alignments, "substitute"),
        deletions=_counted(words.alignments, "delete"),
        insertions=_counted(words.alignments, "insert"),
        characters=np.array([len(text) for text in characters.references], np.int64),
        character_errors=_counted(characters.alignments, "substitute", "delete", "insert"),
        wer=100 * found["wer"],
        cer=100 * found["cer"],
    )


def _counted(alignments: list[list[Any]], *kinds: str) -> Int[np.ndarray, "C"]:
    """How many edits of `kinds` each alignment has."""
    return np.array([sum(_size(chunk) for chunk in chunks if chunk.type in kinds) for chunks in alignments], np.int64)


def _size(chunk: Any) -> int:
    return int(max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx))


def headline(written: Edits, normal: Edits) -> dict[str, Any]:
    """`wer`, `cer` (as written), `wer_normalised`, `cer_normalised`, in percent, and `normaliser`."""
    return {
        "wer": written.wer,
        "cer": written.cer,
        "wer_normalised": normal.wer,
        "cer_normalised": normal.cer,
        "normaliser": NORMALISER,
    }


def scores(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """The `headline` of transcripts; errors as for `edits`."""
    return headline(*edits(references, hypotheses))
