"""The scores in a model card: every one of the exported step, each with its corpus and how it was made.

Decision: the card's table shows all of them, but the hub's `model-index` gets a split's score alone: neither one of
thinned windows nor one of some of the clips, nor one that does not say of which corpus it is, as in earlier versions.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from data.errors import UserError
from jax_train.conditions import decoding, lacks
from jax_train.corpus import corpus_name, dataset_fields
from jax_train.export_folder import read_object

RATES = {
    "wer": "WER, as written",
    "wer_normalised": "WER, normalised",
    "cer": "CER, as written",
    "cer_normalised": "CER, normalised",
}
NEEDED = ("model", "split", *RATES, "normaliser", "clips", "speech_seconds", "settings")
USUAL = decoding({})


def scores_of(run: Path, step: int) -> list[dict[str, Any]]:
    """Each scores.json of the run that is of this step, by its folder's name.

    Raises `UserError` for one that cannot be read.
    """
    found = (_scores(path, step) for path in sorted(run.glob("evaluate-*/scores.json")))
    return [scores for scores in found if scores and _finite(scores)]


def _scores(path: Path, step: int) -> dict[str, Any]:
    """The scores in a file, if they are of this step."""
    again = "evaluate again, or move it away"
    scores = read_object(path, again)
    if not str(scores.get("model", f" step {step}")).endswith(f" step {step}"):
        return {}
    if missing := [name for name in NEEDED if name not in scores]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {again}")
    return scores


def _finite(scores: Mapping[str, Any]) -> bool:
    return all(math.isfinite(scores[rate]) for rate in RATES)


def eval_results(measured: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """The scores of whole splits, as the hub reads them."""
    return [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Automatic speech recognition",
            **dataset_fields(found["data"]),
            metric_type=rate.split("_")[0],
            metric_name=_metric_name(found, rate),
            metric_value=round(found[rate], 2),
        )
        for found in measured
        if "data" in found and not lacks(found["settings"])
        for rate in RATES
    ]


def _metric_name(found: Mapping[str, Any], rate: str) -> str:
    name = f"{RATES[rate]} ({found['normaliser']})" if "normalised" in rate else RATES[rate]
    return name if _how(found) == USUAL else f"{name}; {_how(found)}"


def score_table(measured: Sequence[Mapping[str, Any]], converted: str) -> str:
    """All scores as Markdown, and what there is to know of each; `converted` says into what, if not left as it was."""
    if not measured:
        return "None was measured of this step: `make evaluate`, then `make export` again."
    lines = ["| data | " + " | ".join(RATES.values()) + " |", "| --- |" + " --- |" * len(RATES)]
    notes = []
    for found in measured:
        intervals = found.get("intervals", {}).get("over_clips", {})
        cells = [f"{found[rate]:.2f} %{_interval(intervals.get(rate))}" for rate in RATES]
        lines.append(f"| {_title(found)} | {' | '.join(cells)} |")
        notes.append(f"- {_title(found)}: {_note(found)}")
    said = sorted({found["normaliser"] for found in measured})
    notes.append(f"- normalised: {'; '.join(said)}, on references and transcripts alike")
    if "[" in "".join(lines):
        notes.append("- in brackets: 95 % bootstrap intervals over clips")
    if converted:
        notes.append(f"- measured on the checkpoint, before conversion to {converted}")
    return "\n".join([*lines, "", *notes])


def _title(found: Mapping[str, Any]) -> str:
    """Corpus and split, marked where the score is not that split's."""
    corpus = corpus_name(found["data"]) if "data" in found else "corpus not recorded"
    return f"{corpus}, {found['split']}" + (" (in part or thinned)" if lacks(found["settings"]) else "")


def _note(found: Mapping[str, Any]) -> str:
    parts = [f"{found['clips']} clips, {found['speech_seconds'] / 3600:.2f} hours", _how(found)]
    parts.append(f"computed in {found['settings']['compute_dtype']}")
    if missing := lacks(found["settings"]):
        parts.append(f"not the split's score: {', '.join(missing)}")
    if checksum := found.get("data", {}).get("index_sha256"):
        parts.append(f"SHA-256 of the clips' index {checksum[:16]}…")
    return "; ".join(parts)


def _how(found: Mapping[str, Any]) -> str:
    """How it was decoded, and into which language if not the clips'."""
    asked, spoken = found["settings"].get("language"), found.get("data", {}).get("language")
    return decoding(found["settings"]) + (f", written in {asked}" if asked and spoken and asked != spoken else "")


def _interval(found: Sequence[float] | None) -> str:
    return f" [{found[0]:.2f}, {found[1]:.2f}]" if found else ""
