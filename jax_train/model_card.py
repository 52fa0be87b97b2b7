"""The README.md of an export, a model card: written from the run's files alone, so that it says what was measured.

Decision: a score is in the card only if `evaluate` wrote it for the very step that is exported. Nothing in it tells
where things lay on the machine. It names the folder until it is published; then `renamed` puts the repository's name in
its place, so that what is shown works for whoever reads it there. The licence, which people state, outlives an export.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from data.errors import UserError
from jax_train.card_scores import eval_results, score_table, scores_of
from jax_train.checkpoints import run_model_folder
from jax_train.config import WhisperConfig, learning_rate_for
from jax_train.corpus import corpus_name
from jax_train.export_folder import read_object
from jax_train.run_folder import DATA, MAY_CHANGE
from jax_train.run_settings import SETTINGS, read_settings

FILE = "README.md"
LICENCE = ("license", "license_name", "license_link")
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


class Sources(NamedTuple):
    """What a card is made of, besides the export's own record."""

    settings: dict[str, Any]
    """The run's, with what was used where it took the default."""
    manifest: dict[str, Any]
    """Of the shards it was trained on."""
    measured: list[dict[str, Any]]
    """The scores of the exported step."""


def sources(run: Path, step: int) -> Sources:
    """What the run's files say of `step`. Raises `UserError` for a file that is missing or cannot be read."""
    settings = read_settings(run)
    if not settings:
        raise UserError(f"{run / SETTINGS}: not there; put the run's own back, or give another RUN")
    manifest = read_object(run / DATA, "the model card needs it; export a run that this version trained")
    return Sources(_used(settings, run, step), manifest, scores_of(run, step))


def _used(settings: dict[str, Any], run: Path, step: int) -> dict[str, Any]:
    """The settings with the learning rate and the number of steps that a 0 stood for."""
    used = dict(settings)
    if settings.get("learning_rate") == 0:
        architecture = WhisperConfig.from_folder(run_model_folder(run))
        used["learning_rate"] = learning_rate_for(architecture, settings["optimizer"])
    if settings.get("steps") == 0:
        used["steps"] = step
    return used


def model_card(run: Path, record: Mapping[str, Any], name: str, licence: Mapping[str, Any] | None = None) -> str:
    """The card of the export `name`; `record` is its export.json, `licence` what an earlier card said of it."""
    settings, manifest, measured = sources(run, record["step"])
    form, language = record["format"], settings["language"]
    stored_as_trained = (form, record["dtype"]) == ("huggingface", "float32")
    parts = {
        f"# {name}": _what(settings, record["step"]),
        "## How to use it": how_to_use(form, language, name),
        "## Scores": score_table(measured, "" if stored_as_trained else f"{form}, {record['dtype']}"),
        "## Data": _data(manifest, settings.get("fold") or {}),
        "## Training": _settings_table(settings),
        "## What was checked": _checks(record),
    }
    body = "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items())
    metadata = card_data(name, settings, measured, form, licence or {})
    return f"---\n{metadata.to_yaml(line_break=None)}\n---\n\n{body}\n"


def card_data(
    name: str, settings: Mapping[str, Any], measured: list[dict[str, Any]], form: str, licence: Mapping[str, Any]
) -> ModelCardData:
    """What the hub reads: language, licence, library, base model, and the scores as `model-index`."""
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
        **licence,
    )


def licence_of(card: Path) -> dict[str, Any]:
    """What the metadata of a card says of the licence; nothing where there is no card.

    Raises `UserError` for metadata that cannot be read.
    """
    text = card.read_text(encoding="utf-8-sig") if card.is_file() else ""
    found = _metadata(text, yaml.safe_load)[1]
    return {name: found[name] for name in LICENCE if name in found} if isinstance(found, dict) else {}


def how_to_use(form: str, language: str, name: str) -> str:
    """How to use the export in the folder `name`; of a repository (ORGANISATION/NAME) also how to get it."""
    folder = name.rpartition("/")[2]
    fetched = DOWNLOAD if "/" in name and "{folder}" in USES[form] else ""
    return (fetched + USES[form]).format(name=name, folder=folder, language=language)


def renamed(card: str, record: Mapping[str, Any], old: str, repository: str) -> str:
    """The `card` of the export `old` as that of a repository of the hub; what people changed in it stays.

    Raises `UserError` for metadata that cannot be read.
    """
    language = record.get("language", "")
    before, after = (how_to_use(record["format"], language, name) for name in (old, repository))
    card = card.replace(before, after)
    card = re.sub(rf"^# {re.escape(old)}$", lambda _: f"# {repository}", card, count=1, flags=re.MULTILINE)
    for place in reversed(_names(card, old)):
        card = card[: place.start] + repository + card[place.stop :]
    return card


def _names(card: str, old: str) -> list[slice]:
    """Where the metadata call the model `old`: in `model-index`, or as `model_name` where there are no scores."""
    begin, root = _metadata(card, lambda text: yaml.compose(text, yaml.SafeLoader))
    found = []
    for key, value in _pairs(root):
        models = value.value if isinstance(value, yaml.SequenceNode) and key == "model-index" else []
        found += [name for model in models for at, name in _pairs(model) if at == "name"]
        found += [value] if key == "model_name" else []
    own = [name for name in found if name.value == old]
    return [slice(begin + name.start_mark.index, begin + name.end_mark.index) for name in own]


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    """Key and node of each value, of a YAML mapping."""
    return [(key.value, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _metadata(card: str, parsed: Callable[[str], Any]) -> tuple[int, Any]:
    """Where a card's metadata begin, and what they are when `parsed`; None of a card without them."""
    block = REGEX_YAML_BLOCK.search(card)
    if block is None:
        return 0, None
    try:
        return block.start(2), parsed(block[2])
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise UserError(f"{FILE}: the model card's metadata, between its --- lines, are no YAML ({said})") from error


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


def _data(manifest: Mapping[str, Any], fold: Mapping[str, Any]) -> str:
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
    if fold.get("of"):
        lines.append(
            f"- fold {fold['number']} of {fold['of']} (by {fold['by']}, drawn with seed {fold['seed']}) was left out of"
            " training; the clips and hours above are the whole split's"
        )
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
