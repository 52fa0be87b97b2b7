"""Everything there is to say of a corpus of transcripts: predictions.parquet, scores.json and report.html.

Decision: one place for transcripts of any origin (a run, a model, a file made elsewhere), so that their figures are
made alike. The predictions are written first, before they are scored and again with their counts: whatever fails
later, the decoding is kept, and scores can be made of the file (`--predictions`). scores.json comes last, so where it
is, the rest is too.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from data.records import Shards
from data.snr import snr_db
from data.storage import write_text
from jax_train.breakdown import SECONDS, SNR_DB, by_range, by_speaker, counts, intervals
from jax_train.mishearings import clip_signs, confusions, counted_signs
from jax_train.predictions import PREDICTIONS, clip_table, write_predictions
from jax_train.scores import Edits, edits, headline
from jax_train.scores_folder import SCORES_FILE


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A corpus of transcripts with its scores."""

    result: dict[str, Any]
    """What scores.json holds of them."""
    clips: pa.Table
    """What predictions.parquet holds."""
    written: Edits
    normal: Edits


def score(shards: Shards, rows: np.ndarray, references: Sequence[str], hypotheses: Sequence[str]) -> Scored:
    """The scores of `hypotheses` for the clips at `rows` of the shards' index.

    Raises:
        UserError: nothing to score, or a reference without text.
    """
    written, normal = edits(references, hypotheses)
    signs = clip_signs(references, hypotheses, normal)
    facts = _heard(shards, rows, references, hypotheses)
    snr_db_C = np.array([snr_db(shards[row].log_mel_q) for row in rows], np.float32)
    counts_CK = counts(written, normal)
    result = {
        **headline(written, normal),
        "clips": len(rows),
        "speech_seconds": round(float(facts["seconds"].sum(dtype=np.float64)), 3),
        "intervals": intervals(counts_CK, facts["speaker"]),
        "edits": {"as_written": _totals(written), "normalised": _totals(normal)},
        "signs": counted_signs(signs, normal),
        "by_seconds": by_range(counts_CK, facts["seconds"], SECONDS),
        "by_snr_db": by_range(counts_CK, snr_db_C, SNR_DB),
        "by_speaker": by_speaker(counts_CK, facts["speaker"]),
        "confusions_normalised": confusions(normal),
    }
    return Scored(result, clip_table(facts | {"snr_db": snr_db_C}, written, normal, signs), written, normal)


def _heard(shards: Shards, rows: np.ndarray, references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """What there is to say of the clips before they are scored, by column."""
    said = {"id": shards.index["id"][rows], "reference": list(references), "hypothesis": list(hypotheses)}
    return said | {name: shards.index[name][rows] for name in ("speaker", "seconds")}


def _totals(found: Edits) -> dict[str, int]:
    names = ("words", "substitutions", "deletions", "insertions", "characters", "character_errors")
    return {name: int(getattr(found, name).sum()) for name in names}


def write_heard(
    out: Path, shards: Shards, rows: np.ndarray, references: Sequence[str], hypotheses: Sequence[str]
) -> None:
    """The predictions without their counts into the folder `out`."""
    write_clips(out, pa.table(_heard(shards, rows, references, hypotheses)))


def write_clips(out: Path, clips: pa.Table) -> None:
    """The predictions into the folder `out`, and away with the scores of earlier ones."""
    out.mkdir(parents=True, exist_ok=True)
    (out / SCORES_FILE).unlink(missing_ok=True)
    write_predictions(out / PREDICTIONS, clips)


def write_scores(out: Path, result: dict[str, Any]) -> None:
    """`result` as the folder's scores.json, in one step."""
    write_text(UPath(out / SCORES_FILE), json.dumps(result, indent=2, ensure_ascii=False) + "\n")
