"""The command that compares two models on the same clips: compare.json and compare.html.

Decision: what is compared are transcripts, so anything that evaluate can score; a model or run is evaluated first. All
counts are made again from the transcripts, by one normaliser. Each resample takes the same clips of both (paired): most
of what makes a clip hard makes it so for both, so two intervals that overlap may well hide a clear difference.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from upath import UPath

from data.errors import UserError, command
from data.pages import write_page
from data.records import Shards
from data.storage import write_text
from jax_train.bootstrap import FEWEST_CLIPS, FEWEST_SPEAKERS, LEVEL, RESAMPLES, SEED, compared, per_speaker
from jax_train.breakdown import counts
from jax_train.conditions import lacks, lacks_of_two, unlike
from jax_train.config import compilation_cache
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.predictions import PREDICTIONS, read_predictions, say_ids
from jax_train.recordings import Recordings, find_recordings
from jax_train.report import ClipPicture, clip_picture
from jax_train.scores import SCORES, Edits, edits, headline, normaliser
from jax_train.scores_folder import check_writable, scores_in
from jax_train.word_pairs import WordPair, word_pairs

TEMPLATE = Path(__file__).with_name("compare.html.jinja")
COMPARISON, PAGE = "compare.json", "compare.html"
COLUMNS = ("id", "reference", "hypothesis", "speaker")


@dataclass(frozen=True)
class CompareConfig:
    """How B differs from A on the same clips: paired bootstrap intervals and p-values, and the clips that changed."""

    a: str
    """A predictions.parquet, a folder with one (evaluate's results), a run, a Whisper folder or a name on the hub."""
    b: str
    """The same; differences are B less A, so negative is better."""
    shards: Path | None = None
    """Folder written by featurize: what a model or run is evaluated on, and what the page's pictures are of."""
    split: str = "test"
    """Split of the shards."""
    out: Path = Path("scores/compare")
    """Folder for the results; a model's or a run's own evaluation goes to its a or b, and is not made again."""
    recordings: str = ""
    """Corpus whose recordings the page plays; by default the one the shards are of, if it is on this machine."""
    report_clips: int = 50
    """Clips on the page, those that changed most; 0: none."""
    batch_size: int = 8
    """For a model or run: 30 s windows at a time on each device."""
    limit: int = 0
    """For a model or run: only the split's first clips; 0: all."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """For a model or run: type it is computed in."""

    def __post_init__(self) -> None:
        if not (self.a and self.b):
            raise UserError("name what to compare: make compare A=… B=… (--a and --b)")
        if self.report_clips < 0:
            raise UserError(f"--report-clips {self.report_clips}: 0 or more")


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two, its transcripts in A's order."""

    name: str
    lacks: list[str]
    """What keeps its scores from being the split's, as far as it is known."""
    hypotheses: list[str]
    written: Edits
    normal: Edits

    def scores(self) -> dict[str, Any]:
        """What compare.json holds of it."""
        return {"name": self.name} | headline(self.written, self.normal) | {"lacks": self.lacks}


@dataclass(frozen=True, eq=False)
class Pair:
    """Both, and what they share."""

    ids: list[str]
    references: list[str]
    speakers: np.ndarray
    unlike: list[str]
    """In what they were not transcribed alike, as far as it is known."""
    a: Side
    b: Side


@dataclass(frozen=True)
class ChangedClip:
    """A clip whose transcript changed, for the page."""

    id: str
    errors_a: int
    errors_b: int
    pairs_a: list[WordPair]
    pairs_b: list[WordPair]
    picture: ClipPicture | None


def predictions_of(name: str, config: CompareConfig, out: Path) -> Path:
    """The predictions that `name` means; a model or run is evaluated for them, into the folder `out`.

    Raises:
        UserError: shards are needed and not given, or what evaluate raises.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (path / PREDICTIONS).is_file():
        return path / PREDICTIONS
    if config.shards is None:
        raise UserError(f"{name} holds no {PREDICTIONS}: evaluate it first, or give --shards to evaluate it on")
    is_run = (path / "checkpoints").is_dir()
    settings = EvaluateConfig(
        shards=config.shards,
        model="" if is_run else name,
        run=path if is_run else None,
        split=config.split,
        out=out,
        recordings=config.recordings,
        batch_size=config.batch_size,
        limit=config.limit,
        compute_dtype=config.compute_dtype,
    )
    evaluate(settings, again=False)
    return out / PREDICTIONS


def read_pair(config: CompareConfig) -> Pair:
    """Both sides' transcripts of the same clips, scored.

    Raises:
        UserError: they are not of the same clips, or these have other references.
    """
    named = (("a", config.a), ("b", config.b))
    paths = [predictions_of(name, config, config.out / side) for side, name in named]
    a, b = (read_predictions(path, *COLUMNS) for path in paths)
    only_a, only_b = sorted(set(a["id"]) - set(b["id"])), sorted(set(b["id"]) - set(a["id"]))
    if only_a or only_b:
        parts = [f"{name} alone has {say_ids(ids)}" for name, ids in ((config.a, only_a), (config.b, only_b)) if ids]
        raise UserError(f"not the same clips: {'; '.join(parts)}; evaluate both on one split with one --limit")
    place = {clip: number for number, clip in enumerate(b["id"])}
    order = [place[clip] for clip in a["id"]]
    b = {name: [column[number] for number in order] for name, column in b.items()}
    others = [clip for clip, x, y in zip(a["id"], a["reference"], b["reference"], strict=True) if x != y]
    if others:
        raise UserError(f"{say_ids(others)} have other references in {config.a} and {config.b}: evaluate both again")
    settings = [settings_of(path) for path in paths]
    sides = [
        Side(name, lacks(made), found["hypothesis"], *edits(a["reference"], found["hypothesis"]))
        for name, made, found in zip((config.a, config.b), settings, (a, b), strict=True)
    ]
    return Pair(a["id"], a["reference"], np.array(a["speaker"]), unlike(*settings), *sides)


def settings_of(predictions: Path) -> dict[str, Any]:
    """How evaluate made the file `predictions`, from the scores beside it; as made elsewhere if there are none."""
    scores = scores_in(predictions.parent) if predictions.name == PREDICTIONS else {}
    settings: dict[str, Any] = scores.get("settings", {}) if scores else {"predictions": str(predictions)}
    return settings


def compare(config: CompareConfig) -> dict[str, Any]:
    """The comparison, as written to compare.json.

    Raises:
        UserError: as `read_pair`; shards without these clips; a folder that cannot be written.
    """
    check_writable(config.out)
    pair = read_pair(config)
    counts_a, counts_b = (counts(side.written, side.normal) for side in (pair.a, pair.b))
    speakers_a, speakers_b = (per_speaker(found, pair.speakers) for found in (counts_a, counts_b))
    change_C = pair.b.normal.errors - pair.a.normal.errors
    other_C = np.array([x != y for x, y in zip(pair.a.hypotheses, pair.b.hypotheses, strict=True)])
    result = {
        "a": pair.a.scores(),
        "b": pair.b.scores(),
        "clips": len(pair.ids),
        "unlike": pair.unlike,
        "method": {"name": "paired bootstrap, B less A", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "over_clips": _differences(counts_a, counts_b),
        "over_speakers": None if speakers_a is None or speakers_b is None else _differences(speakers_a, speakers_b),
        "changed": {
            "better": int(np.sum(change_C < 0)),
            "worse": int(np.sum(change_C > 0)),
            "otherwise": int(np.sum(other_C & (change_C == 0))),
            "not": int(np.sum(~other_C)),
        },
    }
    config.out.mkdir(parents=True, exist_ok=True)
    order = np.lexsort([~other_C, -change_C, -np.abs(change_C)])
    changed = order[(other_C | (change_C != 0))[order]]
    _write(config, result, pair, changed.tolist())
    return result


def _differences(counts_a: np.ndarray, counts_b: np.ndarray) -> dict[str, Any]:
    """Each score's comparison, of units whose counts are those of `breakdown.counts`."""
    found = {}
    for place, name in enumerate(SCORES):
        errors, length = 2 * place, 2 * place + 1
        found[name] = compared(counts_a[:, errors], counts_b[:, errors], counts_a[:, length]).as_json()
    return found


def _write(config: CompareConfig, result: dict[str, Any], pair: Pair, changed: list[int]) -> None:
    shards = Shards.open(config.shards, config.split) if config.shards else None
    recordings = find_recordings(shards, config.recordings) if shards else None
    shown = changed[: config.report_clips]
    write_page(
        config.out / PAGE,
        TEMPLATE,
        result=result,
        fewest_speakers=FEWEST_SPEAKERS,
        fewest_clips=FEWEST_CLIPS,
        language=shards.manifest["language"] if shards else "",
        missing="" if recordings is None else recordings.missing,
        lacks=lacks_of_two(pair.a.lacks, pair.b.lacks),
        has_shards=shards is not None,
        changed=len(changed),
        shown=len(shown),
        clips=_changed_clips(pair, shown, shards, recordings) if shown else iter(()),
    )
    write_text(UPath(config.out / COMPARISON), json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def _changed_clips(
    pair: Pair, places: list[int], shards: Shards | None, recordings: Recordings | None
) -> Iterator[ChangedClip]:
    references, normalise = [pair.references[place] for place in places], normaliser()
    pairs_a, pairs_b = (
        word_pairs(references, [side.hypotheses[place] for place in places], normalise) for side in (pair.a, pair.b)
    )
    rows = _rows(shards, [pair.ids[place] for place in places]) if shards else {}
    for number, place in enumerate(places):
        clip = pair.ids[place]
        picture = clip_picture(shards[rows[clip]], recordings) if shards and recordings else None
        errors_a, errors_b = int(pair.a.normal.errors[place]), int(pair.b.normal.errors[place])
        yield ChangedClip(clip, errors_a, errors_b, pairs_a[number], pairs_b[number], picture)


def _rows(shards: Shards, ids: list[str]) -> dict[str, int]:
    """Where the clean copies of `ids` stand in the shards."""
    clean = np.flatnonzero(shards.index["copy"] == 0)
    rows = dict(zip(shards.index["id"][clean].tolist(), clean.tolist(), strict=True))
    if missing := [clip for clip in ids if clip not in rows]:
        raise UserError(
            f"{shards.folder} has not {say_ids(missing)} of the compared clips: name their shards and split"
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """The comparison for people."""
    lines = [f"A {result['a']['name']}", f"B {result['b']['name']}", f"{result['clips']} clips of both"]
    lines.append(f"{'':16}{'A %':>8}{'B %':>8}{'B − A':>8}{'95 %':>18}{'p':>8}")
    for name in SCORES:
        found = result["over_clips"][name]
        rates = f"{result['a'][name]:8.2f}{result['b'][name]:8.2f}{found['difference']:+8.2f}"
        ends = "–" if found["interval"] is None else "{:+.2f} to {:+.2f}".format(*found["interval"])
        p_value = "–" if found["p_value"] is None else f"{found['p_value']:.4f}"
        lines.append(f"{name.replace('_', ' '):16}{rates}{ends:>18}{p_value:>8}")
    if result["over_clips"]["wer"]["interval"] is None:
        lines.append(f"no interval and no p: fewer than {FEWEST_CLIPS} clips say nothing of others")
    changed = result["changed"]
    lines.append(
        f"{changed['better']} clips better, {changed['worse']} worse, {changed['not']} with the same transcript"
    )
    if missing := lacks_of_two(result["a"]["lacks"], result["b"]["lacks"]):
        lines.append(f"not the split's scores: {'; '.join(missing)}")
    if result["unlike"]:
        lines.append(f"not the models alone: they were not transcribed alike ({'; '.join(result['unlike'])})")
    return "\n".join([*lines, f"normalised: {result['a']['normaliser']}"])


def main() -> None:
    """Compares two models, runs or results."""
    config = tyro.cli(CompareConfig)
    compilation_cache()
    result = compare(config)
    print(f"{table(result)}\n{config.out / PAGE}\n{config.out / COMPARISON}")


if __name__ == "__main__":
    command(main)()
