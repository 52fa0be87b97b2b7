"""The README.md of an export, a model card: written from the run's files alone, so that it says what was measured.

Decision: a score is in the card only if `evaluate` wrote it for the very step that is exported. Nothing in it tells
where things lay on the machine. It names the folder until it is published; then `renamed` puts the repository's name in
its place, so that what is shown works for whoever reads it there.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from data.errors import UserError
from jax_train.card_scores import eval_results, score_table, scores_of
from jax_train.corpus import corpus_name
from jax_train.run_folder import DATA, MAY_CHANGE, SETTINGS

FILE = "README.md"
LIBRARIES = {"huggingface": "transformers", "ctranslate2": "ctranslate2", "ggml": "whisper.cpp"}
USES = {
    "huggingface": """```python
from transformers import pipeline

print(pipeline("automatic-speech-recognition", model="{name}")("recording.mp3")["text"])
```

It writes `{language}` without being told. For recordings longer than 30 s add `return_timestamps=True`.""",
    "ctranslate2": """```python
from faster_whisper import WhisperModel

segments, _ = WhisperModel("{folder}").transcribe("recording.mp3", language="{language}")
print("".join(segment.text for segment in segments))
```""",
    "ggml": """```sh
whisper-cli -m {folder}/ggml-model.bin -l {language} -f recording.wav
```

```python
from pywhispercpp.model import Model

model = Model("{folder}/ggml-model.bin", language="{language}")
print("".join(segment.text for segment in model.transcribe("recording.wav")))
```""",
}
DOWNLOAD = """```sh
hf download {name} --local-dir {folder}
```

"""


def model_card(run: Path, record: Mapping[str, Any], name: str) -> str:
    """The card of the export `name`; `record` is its export.json."""
    settings, manifest, measured = _read(run / SETTINGS), _read(run / DATA), scores_of(run, record["step"])
    form, language = record["format"], settings["language"]
    stored_as_trained = (form, record["dtype"]) == ("huggingface", "float32")
    parts = {
        f"# {name}": _what(settings, record["step"]),
        "## How to use it": how_to_use(form, language, name),
        "## Scores": score_table(measured, "" if stored_as_trained else f"{form}, {record['dtype']}"),
        "## Data": _data(manifest),
        "## Training": _settings_table(settings),
        "## What was checked": _checks(record),
    }
    body = "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items())
    metadata = card_data(name, settings, measured, form)
    return f"---\n{metadata.to_yaml(line_break=None)}\n---\n\n{body}\n"


def card_data(name: str, settings: Mapping[str, Any], measured: list[dict[str, Any]], form: str) -> ModelCardData:
    """What the hub reads: language, library, base model, and the scores as `model-index`."""
    results = eval_results(measured)
    return ModelCardData(
        language=settings["language"],
        library_name=LIBRARIES[form],
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "sussurro"],
        base_model=base_model(settings),
        metrics=["wer", "cer"],
        model_name=name,
        eval_results=results or None,
    )


def how_to_use(form: str, language: str, name: str) -> str:
    """How to use the export in the folder `name`; of a repository (ORGANISATION/NAME) also how to get it."""
    folder = name.rpartition("/")[2]
    fetched = DOWNLOAD if "/" in name and "{folder}" in USES[form] else ""
    return (fetched + USES[form]).format(name=name, folder=folder, language=language)


def renamed(card: str, record: Mapping[str, Any], old: str, repository: str) -> str:
    """The `card` of the export `old` as that of a repository of the hub; what people changed in it stays."""
    language = record.get("language", "")
    before, after = (how_to_use(record["format"], language, name) for name in (old, repository))
    card = card.replace(before, after)
    card = re.sub(rf"^# {re.escape(old)}$", lambda _: f"# {repository}", card, count=1, flags=re.MULTILINE)
    index = rf"^(model-index:\n- name: )['\"]?{re.escape(old)}['\"]?$"
    return re.sub(index, lambda found: found[1] + repository, card, count=1, flags=re.MULTILINE)


def base_model(settings: Mapping[str, Any]) -> str | None:
    """The hub's name of the model a run started from; None if that was a folder.

    Runs of earlier versions did not note which it was: of them OpenAI's own alone are known to be the hub's.
    """
    if "base_model" in settings:
        return settings["base_model"] or None
    return settings["model"] if re.fullmatch(r"openai/whisper-[\w.-]+", settings["model"]) else None


def _what(settings: Mapping[str, Any], step: int) -> str:
    base = base_model(settings) or Path(settings["model"]).name
    averaged = settings.get("averaged_steps")
    steps = f"the mean of the weights after steps {', '.join(map(str, averaged))}" if averaged else f"{step} steps"
    return f"Whisper, fine-tuned for `{settings['language']}` from {base}, {steps}."


def _data(manifest: Mapping[str, Any]) -> str:
    recipe, copies = manifest["recipe"], manifest["copies"]
    told = "; ".join(f"{key} {json.dumps(value)}" for key, value in recipe.items() if key != "name" and value)
    clips = f"{manifest['records'] // (1 + copies)} clips"
    if not copies or "clean_seconds" in manifest:
        clips += f", {manifest.get('clean_seconds', manifest['seconds']) / 3600:.2f} hours"
    with_copies = f"{manifest['records']} recordings, {manifest['seconds'] / 3600:.2f} hours"
    dataset = manifest.get("dataset") or {}
    version = "".join(f", {key} `{dataset[key]}`" for key in ("config", "revision") if dataset.get(key))
    lines = [
        f"- {corpus_name(manifest)}{version}, split `{manifest['split']}`, language `{manifest['language']}`",
        f"- {clips}",
        f"- {sum(manifest['rejected'].values())} more were left out",
    ]
    if copies:
        lines.insert(2, f"- augmented copies: {copies} of each clip; with them {with_copies}")
        lines.append(f"- augmentation recipe `{recipe['name']}`{f': {told}' if told else ''}")
    return "\n".join(lines)


def _settings_table(settings: Mapping[str, Any]) -> str:
    """Every setting that decides what a run computes; of an average, those of the run behind it."""
    hidden = {*MAY_CHANGE, "data", "architecture", "averaged_run", "averaged_recipe"}
    shown = {**settings, **settings.get("averaged_recipe", {})}
    rows = [f"| {key} | {json.dumps(value)} |" for key, value in shown.items() if key not in hidden]
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


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there, and the model card needs it; export a run that this version trained")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
