"""WER and CER of transcripts, as written and normalised, always both and always named.

Decision: Whisper's basic normaliser keeping the accents, in both scores' name. The English normaliser rewrites other
languages' words, and stripping accents flatters: `è` (is) and `e` (and) are different words. A normalised score alone
hides what the reader sees: case and punctuation are worth about five points in Italian.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError

NORMALISER = "transformers BasicTextNormalizer(remove_diacritics=False)"
METRIC = Path(__file__).parent / "wer.py"


def scores(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """`wer`, `cer` (as written), `wer_normalised`, `cer_normalised`, in percent of the whole corpus, and `normaliser`.

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
    # Imported here because `evaluate` takes seconds to import (with torch there, it imports that too).
    import evaluate
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalise = BasicTextNormalizer(remove_diacritics=False)
    normal_references = [normalise(text).strip() for text in references]
    if not any(normal_references):
        raise UserError("the references hold no letter or digit: there is nothing to measure errors against")
    metric = evaluate.load(str(METRIC), keep_in_memory=True)
    written = metric.compute(references=list(references), predictions=list(hypotheses))
    normal = metric.compute(references=normal_references, predictions=[normalise(text).strip() for text in hypotheses])
    return {
        "wer": 100 * written["wer"],
        "cer": 100 * written["cer"],
        "wer_normalised": 100 * normal["wer"],
        "cer_normalised": 100 * normal["cer"],
        "normaliser": NORMALISER,
    }
