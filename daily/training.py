"""The command `daily-train`: a challenger from the champion and the day's speech, and whether it takes its place.

Decision: the commands a user would run, each in a process of its own, meeting in STORE/runs/DAY: train, evaluate,
export, compare. What a killed day has finished is not done again; its last act is decision.json with the version's
number, and with that there the day is over for good. Then the weights in the run's folder go, as the registry has
them, and so do the registry's weights of challengers that never were champion but the newest.

The day starts from a copy of the champion, and its challenger takes the place of that one alone: if a person rolls back
meanwhile, nobody compared the challenger with the model that is there now.
"""

import dataclasses
import json
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal

import tyro
from upath import UPath

from daily.alone import alone
from daily.champion import champion_of
from daily.commands import module, run
from daily.decision import Decision, Difference, decide
from daily.registry import MODEL, Registry, Version, open_registry
from daily.replay import mix
from daily.store import FIXED, GUARD, TEST, Store, open_store, parse_day
from data.errors import UserError, command
from data.set_files import MANIFEST
from data.storage import read_json, write_text

DECISION, START = "decision.json", "start.json"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Trains the day's challenger and promotes it if it is better. Options it does not know go to the train command."""

    store: Path = Path("store")
    """The daily loop's folder."""
    day: str = ""
    """The day whose partition is learned, like 2026-11-23; today in UTC."""
    replay: float = 1.0
    """Clips of older days, drawn at random, for each new one."""
    steps: int = 8
    """Steps of the challenger, from the champion."""
    batch_size: int = 2
    """30 s windows per step."""
    learning_rate: float = 1e-5
    """Peak learning rate: below the usual ones, as the champion is to stay what it is but for what is new."""
    margin: float = 0.0
    """Points of normalised WER by which a challenger may be worse on the guard split."""
    score_windows: Literal["whole", "thinned"] = "thinned"
    """How champion and challenger alike are scored; thinned: several times as fast, not the padded score."""
    score_batch_size: int = 8
    """30 s windows at a time when scoring."""
    seed: int = 0
    """With the day, the seed of everything drawn."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.score_batch_size < 1:
            raise UserError("--steps, --batch-size and --score-batch-size: at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning-rate {self.learning_rate}: a number above 0")
        if not 0 <= self.replay < math.inf or not 0 <= self.margin < math.inf:
            raise UserError(f"--replay {self.replay} --margin {self.margin}: numbers of 0 or more")


def train_day(config: TrainingConfig, train_options: list[str]) -> dict[str, Any]:
    """The decision of the day, as in its decision.json; done at once if it was made before, empty of a quiet day.

    Raises:
        UserError: no such store, day or fixed split; or what a command ended with.
    """
    store, day = open_store(config.store), parse_day(config.day)
    out = store.run(day)
    if "version" in (found := _read(out / DECISION, day) if (out / DECISION).is_file() else {}):
        print(f"{day}: already decided; a day is trained once")
        _tidy(store, out)
        return found
    if store.is_quiet(day):
        print(f"{day}: nothing new was said, so there is nothing to learn")
        return {}
    if not store.predictions(day).is_file():
        raise UserError(
            f"{day} was not heard yet, and is not learned before: run `make daily-inference DAY={day}` first"
        )
    for split in (day, *FIXED):
        if not (store.shards / split / MANIFEST).is_file():
            raise UserError(f"{store.shards} has no {split}: run `make daily-features DAY={day}` first")
    champion, start = _start(store, out)
    mix(store, day, config.replay, config.seed)
    _train(config, out, day, start, train_options)
    registry = open_registry(store.folder)
    champion_run, challenger_run = store.run(champion.key) / "run", out / "run"
    for split in FIXED:
        _score(config, store, split, champion_run, ["--model", str(start)])
        _score(config, store, split, challenger_run, ["--run", str(challenger_run)])
    _measure(registry, champion, champion_run)
    run(module("jax_train.curves", "--run", str(challenger_run)))
    if not (out / "model").is_dir():
        shards = ["--shards", str(out / "shards")]
        run(module("jax_train.export", "--run", str(challenger_run), "--model-dir", str(out / "model"), *shards))
    differences = {split: _compare(out, split, champion_run, challenger_run) for split in FIXED}
    decision = decide(differences[TEST], differences[GUARD], config.margin)
    return _conclude(registry, store, day, champion, decision, differences)


def _start(store: Store, out: Path) -> tuple[Version, Path]:
    """The champion that the day's challenger starts from, and its copy; the same however often the day is run."""
    if not (out / START).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(UPath(out / START), json.dumps({"champion": champion_of(store)[1].number}) + "\n")
    registry = open_registry(store.folder)
    champion = registry.version(MODEL, int(_read(out / START, out.name)["champion"]))
    folder = out / f"{MODEL}-{champion.number}"  # the challenger's model card names it
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=out, prefix=".start-") as place:
            registry.copy(champion, Path(place) / "model")
            os.sync()  # a power failure must not leave the folder without its weights
            (Path(place) / "model").rename(folder)
    return champion, folder


def _train(config: TrainingConfig, out: Path, day: str, start: Path, train_options: list[str]) -> None:
    """The challenger's run, to its end. Raises `UserError` where it was asked to stop before."""
    seed = zlib.crc32(f"{config.seed} {day} train".encode()) % 2**31
    settings: dict[str, object] = {
        "--shards": out / "shards",
        "--split": f"train-{day}",
        "--model": start,
        "--run": out / "run",
        "--steps": config.steps,
        "--batch-size": config.batch_size,
        "--learning-rate": config.learning_rate,
        "--seed": seed,
        "--keep": 1,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    run(module("jax_train.train", *words, *train_options))
    if not (out / "run" / "summary.json").is_file():
        raise UserError(f"{out / 'run'}: the training was stopped; run the same command again to continue")


def _score(config: TrainingConfig, store: Store, split: str, run_folder: Path, model: list[str]) -> None:
    """Scores of a model on a fixed split, beside its run; kept for as long as it is scored in the same way."""
    out = run_folder / f"evaluate-{split}"
    if (out / "scores.json").is_file() and _windows(out) == config.score_windows:
        return
    place = ["--shards", str(store.shards), "--split", split, "--out", str(out), "--report-clips", "0"]
    way = ["--windows", config.score_windows, "--batch-size", str(config.score_batch_size)]
    run(module("jax_train.evaluate", *model, *place, *way))


def _windows(scored: Path) -> str:
    return str(_read(scored / "scores.json")["settings"]["windows"])


def _compare(out: Path, split: str, champion_run: Path, challenger_run: Path) -> Difference:
    """The challenger less the champion on a fixed split."""
    sides = [str(folder / f"evaluate-{split}") for folder in (champion_run, challenger_run)]
    target = out / f"compare-{split}"
    run(module("jax_train.compare", "--a", sides[0], "--b", sides[1], "--out", str(target), "--report-clips", "0"))
    return Difference.of(_read(target / "compare.json"))


def _metrics(run_folder: Path) -> dict[str, float]:
    """The scores on the fixed splits, with the bounds of their intervals: test_wer, test_wer_low, guard_cer, …"""
    found: dict[str, float] = {}
    for split in FIXED:
        scores = _read(run_folder / f"evaluate-{split}" / "scores.json")
        for rate in ("wer", "cer"):
            name = f"{rate}_normalised"
            found[f"{split}_{rate}"] = scores[name]
            if interval := scores["intervals"]["over_clips"][name]:  # too few clips have none
                found |= {f"{split}_{rate}_low": interval[0], f"{split}_{rate}_high": interval[1]}
    return found


def _measure(registry: Registry, version: Version, run_folder: Path) -> None:
    """Note the scores of a version that was registered before it was scored: the pretrained one."""
    if f"{TEST}_wer" not in version.metrics:
        registry.measure(version, _metrics(run_folder))


def _conclude(
    registry: Registry,
    store: Store,
    day: str,
    champion: Version,
    decision: Decision,
    differences: dict[str, Difference],
) -> dict[str, Any]:
    """Register the challenger, promote it if so decided, write decision.json, make room."""
    out, now = store.run(day), registry.champion(MODEL)
    own = next((version for version in registry.versions(MODEL) if version.key == day), None)
    expected = {champion.number, own.number if own else champion.number}
    was_promoted = own is not None and bool(own.promoted)
    if decision.promoted and not was_promoted and (now is None or now.number not in expected):
        reason = (
            f"not promoted: the champion was changed while this ran, from version {champion.number}; {decision.reason}"
        )
        decision = Decision(False, reason)
    record: dict[str, Any] = {"day": day, "champion": champion.number, **dataclasses.asdict(decision)}
    record |= {split: dataclasses.asdict(difference) for split, difference in differences.items()}
    _write(out, record)
    changes = {f"{split}_difference": difference.difference for split, difference in differences.items()}
    version = registry.register(
        MODEL,
        day,
        out / "model",
        parameters=_read(out / "run" / "config.json"),
        metrics=_metrics(out / "run") | changes,
        files=[out / "run" / "curves.png", out / DECISION],
        note=decision.reason,
    )
    if decision.promoted and not was_promoted:
        registry.promote(MODEL, version.number)
    record["version"] = version.number
    _write(out, record)
    _tidy(store, out)
    return _read(out / DECISION, day)


def _read(path: Path, day: str = "…") -> dict[str, Any]:
    """The object in a file of a day's run; `UserError` if there is none, which says how to have it made again."""
    return read_json(UPath(path), f"delete this file and run `make daily-train DAY={day}`")


def _write(out: Path, record: dict[str, Any]) -> None:
    write_text(UPath(out / DECISION), json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _tidy(store: Store, out: Path) -> None:
    """Remove what the registry now holds, and what can be made again."""
    for folder in (out / "run" / "checkpoints", out / "shards", out / "model", *out.glob(f"{MODEL}-*")):
        shutil.rmtree(folder, ignore_errors=True)
    open_registry(store.folder).drop_weights(MODEL)


@command
def main() -> None:
    config, train_options = tyro.cli(TrainingConfig, return_unknown_args=True)
    with alone(config.store, "training", config.day):
        record = train_day(config, train_options)
    if not record:
        return
    print(f"version {record['version']} of {record['day']}, from version {record['champion']}\n{record['reason']}")


if __name__ == "__main__":
    main()
