"""The command `make daily-inference`: what the champion hears in a day's speech, before anything is trained on it.

Decision: the champion is heard through `serving`, as people hear it, and a day is written once: a second run changes
nothing, so the history says what was known then. The confidence model estimates before it has seen the day, too. A
transcript is right if at most `bound` of its words are wrong, by the bound of the confidence model that there is; words
are compared as the project's normalised WER does.
"""

import csv
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rapidfuzz.distance import Levenshtein

from daily.alone import alone
from daily.champion import champion_of
from daily.commands import module, run
from daily.leftovers import is_whole
from daily.registry_files import CONFIDENCE_FILE
from daily.store import PREDICTIONS, connect, open_store, parse_day, write_table
from data.errors import UserError, command

RIGHT = 0.0  # share of wrong words up to which a transcript is right, while no confidence model names another
MOST_REFUSED = 0.5  # of a day's clips: beyond, it is not the clips
NOT_SIGNALS = ("file_name", "text", "language", "problem", "confidence", "trusted")


@dataclass(frozen=True)
class InferenceConfig:
    """Writes what the champion hears in a day's speech into the store; a second run changes nothing."""

    store: Path = Path("store")
    """The store's folder."""
    day: str = ""
    """The day, as 2026-11-23; default: today, UTC."""


def infer(config: InferenceConfig) -> None:
    """Do what `config` says. Raises `UserError`."""
    store, day = open_store(config.store), parse_day(config.day)
    target = store.predictions(day)
    if is_whole(store, PREDICTIONS, day):
        print(f"{target} is already there: a day is heard once")
        return
    if not store.features(day).exists():
        there = ", ".join(store.days()[-3:]) or "none"
        raise UserError(f"{store.features(day)} is not there: run daily-features for {day} first; there are: {there}")
    folder, version = champion_of(store)
    bound = _bound(folder)
    with connect(store) as connection:
        clips = connection.execute("select id, file, sentence from features where day = ? order by id", [day])
        rows = [dict(zip(("id", "file", "reference"), row, strict=True)) for row in clips.fetchall()]
    files = [store.folder.resolve() / row["file"] for row in rows]
    if gone := [file for file in files if not file.is_file()]:
        raise UserError(f"{gone[0]} is not there, though {store.features(day)} says so: bring it back from a copy")
    heard = _hear(folder, store.language, files) if files else []
    normalise, number = normaliser(), str(version.number)
    predictions = [
        {"id": row["id"], "day": day, "model_version": number, **scored(row["reference"], said, bound, normalise)}
        for row, said in zip(rows, heard, strict=True)
        if "problem" not in said
    ]
    write_table(PREDICTIONS, target, predictions)
    print(say(day, number, predictions))


def _bound(champion: Path) -> float:
    """Share of wrong words up to which a transcript is right."""
    path = champion / CONFIDENCE_FILE
    return float(json.loads(path.read_text(encoding="utf-8"))["bound"]) if path.is_file() else RIGHT


def _hear(champion: Path, language: str, files: list[Path]) -> list[dict[str, Any]]:
    """What the champion writes of each file, with its signals, or its `problem`; in the order of the files."""
    with tempfile.TemporaryDirectory(prefix="sussurro-inference-") as folder:
        clips, out = Path(folder) / "clips.csv", Path(folder) / "heard.jsonl"
        with clips.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["file_name"], *([str(path)] for path in files)])
        options = {"--model": champion, "--clips": clips, "--out": out, "--language": language}
        run(module("serving.batch", *(str(part) for option in options.items() for part in option)))
        with out.open(encoding="utf-8") as file:
            heard = [json.loads(line) for line in file]
    problems = [row["problem"] for row in heard if "problem" in row]
    if len(problems) > max(1, MOST_REFUSED * len(files)):
        raise UserError(f"{len(problems)} of {len(files)} clips cannot be heard; the first: {problems[0]}")
    for problem in problems:
        print(f"left out, it cannot be heard: {problem}")
    return heard


def scored(reference: str, said: Mapping[str, Any], bound: float, normalise: Callable[[str], str]) -> dict[str, Any]:
    """A prediction's columns from what `serving.batch` says of a clip: texts, errors, signals, estimate, outcome."""
    wanted, got = normalise(reference).split(), normalise(said["text"]).split()
    errors = Levenshtein.distance(wanted, got)
    return {
        "reference": reference,
        "hypothesis": said["text"],
        "words": len(wanted),
        "errors": errors,
        "confidence": said.get("confidence"),
        "trusted": said.get("trusted"),
        "right": errors <= bound * len(wanted),
        "bound": bound,
        **{name: value for name, value in said.items() if name not in NOT_SIGNALS},
    }


def normaliser() -> Callable[[str], str]:
    """That of the project's normalised WER (`jax_train.scores`): lower case, no punctuation, accents kept."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer  # takes seconds to import

    basic = BasicTextNormalizer(remove_diacritics=False)
    return lambda text: str(basic(text)).strip()


def say(day: str, version: str, predictions: list[dict[str, Any]]) -> str:
    """The day's figures in a line."""
    words, errors = (sum(row[name] for row in predictions) for name in ("words", "errors"))
    right = sum(row["right"] for row in predictions)
    trusted = [row for row in predictions if row["trusted"]]
    wer = f"WER {100 * errors / words:.1f}" if words else "no words"
    line = f"{day}: version {version}, {wer} over {len(predictions)} clips, {right} right"
    return line + (f"; {len(trusted)} trusted, {sum(row['right'] for row in trusted)} of them right" if trusted else "")


@command
def main() -> None:
    config = tyro.cli(InferenceConfig, prog="python -m daily.inference")
    with alone(config.store, "inference", config.day):
        infer(config)


if __name__ == "__main__":
    main()
