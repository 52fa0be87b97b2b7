"""The README.md of an export, a model card: written from the run's files alone, so that it says what was measured.

Decision: a score is in the card only if `evaluate` wrote it for the very step that is exported; its normaliser, clips
and intervals stand beside it. The hub reads the same scores from the card's metadata (`model-index`).
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data.errors import UserError
from jax_train.run_folder import DATA, MAY_CHANGE, SETTINGS

FILE = "README.md"
LIBRARIES = {"huggingface": "transformers", "ctranslate2": "ctranslate2", "ggml": "whisper.cpp"}
RATES = {
    "wer": "WER, as written",
    "wer_normalised": "WER, normalised",
    "cer": "CER, as written",
    "cer_normalised": "CER, normalised",
}
USES = {
    "huggingface": """```python
from transformers import pipeline

print(pipeline("automatic-speech-recognition", model="{name}")("recording.mp3")["text"])
```

It writes `{language}` without being told. For recordings longer than 30 s add `return_timestamps=True`.""",
    "ctranslate2": """```python
from faster_whisper import WhisperModel

segments, _ = WhisperModel("{name}").transcribe("recording.mp3", language="{language}")
print("".join(segment.text for segment in segments))
```""",
    "ggml": """```sh
whisper-cli -m {name}/ggml-model.bin -l {language} -f recording.wav
```

```python
from pywhispercpp.model import Model

model = Model("{name}/ggml-model.bin", language="{language}")
print("".join(segment.text for segment in model.transcribe("recording.wav")))
```""",
}


def model_card(run: Path, record: Mapping[str, Any], name: str) -> str:
    """The card of the export `name`; `record` is its export.json."""
    settings, manifest, measured = _read(run / SETTINGS), _read(run / DATA), scores_of(run, record["step"])
    form, language = record["format"], settings["language"]
    base = _model_name(settings["model"])
    parts = {
        f"# {name}": f"Whisper, fine-tuned for `{language}` from {base}, {record['step']} steps.",
        "## How to use it": USES[form].format(name=name, language=language),
        "## Scores": _score_table(measured),
        "## Data": _data(manifest),
        "## Training": _settings_table(settings),
        "## What was checked": _checks(record),
    }
    body = "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items())
    metadata = card_data(name, settings, manifest, measured, form)
    return f"---\n{metadata.to_yaml(line_break=None)}\n---\n\n{body}\n"


def card_data(
    name: str, settings: Mapping[str, Any], manifest: Mapping[str, Any], measured: list[dict[str, Any]], form: str
) -> ModelCardData:
    """What the hub reads: language, library, base model, and the scores as `model-index`."""
    data = _source_name(manifest)
    results = [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Automatic speech recognition",
            dataset_type=re.sub(r"[^\w.-]+", "-", data).strip("-").lower() or "corpus",
            dataset_name=data,
            dataset_config=settings["language"],
            dataset_split=found["split"],
            metric_type=rate.split("_")[0],
            metric_name=f"{RATES[rate]} ({found['normaliser']})" if "normalised" in rate else RATES[rate],
            metric_value=round(found[rate], 2),
        )
        for found in measured
        for rate in RATES
    ]
    base = settings["model"]
    return ModelCardData(
        language=settings["language"],
        library_name=LIBRARIES[form],
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "sussurro"],
        base_model=base if base == _model_name(base) and not Path(base).exists() else None,
        metrics=["wer", "cer"],
        model_name=name,
        eval_results=results or None,
    )


def scores_of(run: Path, step: int) -> list[dict[str, Any]]:
    """Each scores.json of the run that is of this step, by split."""
    found = [_read(path) for path in sorted(run.glob("evaluate-*/scores.json"))]
    return [scores for scores in found if scores["model"].endswith(f" step {step}") and _finite(scores)]


def _finite(scores: Mapping[str, Any]) -> bool:
    return all(math.isfinite(scores[rate]) for rate in RATES)


def _score_table(measured: list[dict[str, Any]]) -> str:
    if not measured:
        return "None was measured of this step: `make evaluate`, then `make export` again."
    lines = ["| split | " + " | ".join(RATES.values()) + " |", "| --- |" + " --- |" * len(RATES)]
    notes = []
    for found in measured:
        intervals = found.get("intervals", {}).get("over_clips", {})
        cells = [f"{found[rate]:.2f} %{_interval(intervals.get(rate))}" for rate in RATES]
        lines.append(f"| {found['split']} | {' | '.join(cells)} |")
        notes.append(
            f"- {found['split']}: {found['clips']} clips, {found['speech_seconds'] / 3600:.2f} hours; "
            f"computed in {found['settings']['compute_dtype']}"
        )
    said = sorted({found["normaliser"] for found in measured})
    notes.append(f"- normalised: {'; '.join(said)}, on references and transcripts alike")
    if any("intervals" in found for found in measured):
        notes.append("- in brackets: 95 % bootstrap intervals over clips")
    return "\n".join([*lines, "", *notes])


def _interval(found: list[float] | None) -> str:
    return f" [{found[0]:.2f}, {found[1]:.2f}]" if found else ""


def _data(manifest: Mapping[str, Any]) -> str:
    recipe = manifest["recipe"]
    told = "; ".join(f"{key} {json.dumps(value)}" for key, value in recipe.items() if key != "name" and value)
    return "\n".join(
        [
            f"- {_source_name(manifest)}, split `{manifest['split']}`, language `{manifest['language']}`",
            f"- {manifest['records']} recordings, {manifest['seconds'] / 3600:.2f} hours, augmented copies among them "
            f"({manifest['copies']} of each clip)",
            f"- augmentation recipe `{recipe['name']}`{f': {told}' if told else ''}",
            f"- {sum(manifest['rejected'].values())} clips left out",
        ]
    )


def _settings_table(settings: Mapping[str, Any]) -> str:
    """Every setting that decides what a run computes."""
    hidden = {*MAY_CHANGE, "data", "architecture"}
    rows = [f"| {key} | {json.dumps(value)} |" for key, value in settings.items() if key not in hidden]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def _checks(record: Mapping[str, Any]) -> str:
    parity, clips = record["parity"], record["transcripts"]["clips"]
    lines = [
        f"- PyTorch computes the trainer's logits: they differ by at most {parity['max_abs_logit_difference']:.1e}"
        f" (the largest is {parity['max_abs_logit']:.1f})",
        f"- `transformers` transcribes {clips} of {clips} real clips token for token as the trainer",
        f"- weights are stored in {record['dtype']}",
    ]
    if rounding := record["rounding"]:
        lines.append(
            f"- which changed logits by at most {rounding['max_abs_logit_difference']:.1e}, and"
            f" {rounding['changed_transcripts']} of those transcripts"
        )
    if other := record.get("program"):
        lines.append(
            f"- {other['program']} transcribes {clips - other['different']} of them alike;"
            f" {other['token_error_rate']:.1%} of the tokens differ"
        )
    return "\n".join(lines)


def _source_name(manifest: Mapping[str, Any]) -> str:
    """The corpus, without the folders of the machine it lay on."""
    source = str(manifest["source"])
    return source.rstrip("/").rsplit("/", 1)[-1] if source.startswith(("/", "~", ".")) else source


def _model_name(model: str) -> str:
    """The base model: its name on the hub, or that of the folder it lay in."""
    return model if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) else Path(model).name


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there, and the model card needs it; export a run that this version trained")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
