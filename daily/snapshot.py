"""The command `python -m daily.snapshot`: what the monitor shows of a store, as a folder of its own.

Decision: the monitor has no access to the store; it gets a folder with figures, one clip and some pictures, which may
be copied anywhere. monitor.json appears last, by rename, and names the other files, whose names hold their day: a
reader sees one snapshot or the one before it. Whatever is drawn (the clip, resamples) is drawn by (`SEED`, day).

What is not as it should be is told: stages that failed or were killed, a loop that stands still, a registry that does
not answer. A rise of the word error rate is told where the 95 % interval of the difference between the newest day and
the `DAYS_BEFORE` days before it lies above zero: chance alone does that on about one day in
forty. Of fewer than `FEWEST_TO_TELL` clips, on either side, nothing is told: their interval is too narrow for that.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import tyro
from upath import UPath

from daily.aligned import aligned
from daily.alone import alone
from daily.drift import KINDS, MEASURES, drift
from daily.intervals import excess, rate
from daily.lock import LockedError
from daily.registry import CHAMPION, MODEL, open_registry
from daily.store import FIXED, Store, connect, open_store, parse_day
from daily.tracking import server
from daily.undone import SNAPSHOT, left_undone, open_stages, stale
from data.errors import UserError, command
from data.storage import new_file, writing_to

FORMAT = 1
MONITOR = "monitor.json"
DAYS_BEFORE = 14
"""Days with speech that the newest is compared with."""
FEWEST_TO_TELL = 10
DAYS_SHOWN, PREDICTIONS_SHOWN, VERSIONS_SHOWN, STAGES_SHOWN = 90, 4, 12, 12
PICTURES = {"calibration": "calibration.png"}
SEED = 0
HIDDEN = ("file", "bound")  # columns that the page has no use for
HEARD = """
select id, day, voice, recipe, seconds, file, model_version as version, reference, hypothesis, errors,
  prediction_words as words, confidence, trusted, "right", {bound} as bound
from history where day <= ? and prediction_words > 0 order by day, id
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class SnapshotConfig:
    """Writes what the monitor shows of a store into STORE/monitor; `make monitor` serves it."""

    store: Path = Path("store")
    """The daily loop's folder."""
    day: str = ""
    """The last day to show, such as 2026-11-23; by default today, UTC."""


def snapshot(store: Store, day: str) -> tuple[Row, dict[str, Path]]:
    """What monitor.json says of the store up to `day`, and where the files that it names come from."""
    rng = _generator(day)
    with connect(store) as connection:
        heard = _heard(connection, day)
        spoken = [row["day"] for row in _rows(connection, "select distinct day from features where day <= ?", day)]
        changed = _drift(connection, sorted(spoken), rng)
    by_day = _grouped(heard, "day")
    stages = open_stages(store, day)
    clip, files = _clip(store, by_day)
    pictures, more = _pictures(store, day)
    versions, unanswered = _versions(store)
    content = {
        "format": FORMAT,
        "day": day,
        "language": store.language,
        "clips": len(heard),
        "warnings": [
            *stale(store, day),
            *_rise(by_day, rng),
            *({"kind": "no_predictions", "day": lost} for lost in spoken if lost == max(spoken) and lost not in by_day),
            *left_undone(stages, day),
            *unanswered,
            *_drifted(changed),
        ],
        "clip": clip,
        "last": [
            {name: row[name] for name in row if name not in HIDDEN} for row in heard[: -PREDICTIONS_SHOWN - 1 : -1]
        ],
        "confusion": _confusion(heard),
        "days": [
            {"day": shown, "version": rows[0]["version"], **_rate(rows, rng)}
            for shown, rows in list(by_day.items())[-DAYS_SHOWN:]
        ],
        "voices": [{"name": name, **_rate(rows, rng)} for name, rows in sorted(_grouped(heard, "voice").items())],
        "recipes": [{"name": name, **_rate(rows, rng)} for name, rows in sorted(_grouped(heard, "recipe").items())],
        "drift": changed,
        "versions": versions,
        "stages": stages[:STAGES_SHOWN],
        "pictures": pictures,
    }
    return content, files | more


def _generator(day: str) -> np.random.Generator:
    """What draws for `day`."""
    return np.random.default_rng([SEED, date.fromisoformat(day).toordinal()])


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[Row]:
    found = connection.execute(sql, parameters)
    names = [column[0] for column in found.description]
    return [dict(zip(names, values, strict=True)) for values in found.fetchall()]


def _heard(connection: duckdb.DuckDBPyConnection, day: str) -> list[Row]:
    """What was heard up to `day`; days before predictions had their bound have None for it."""
    there = {column[0] for column in connection.execute("from history limit 0").description}
    return _rows(connection, HEARD.format(bound="bound" if "bound" in there else "null"), day)


def _grouped(rows: list[Row], key: str) -> dict[str, list[Row]]:
    """The rows by what they have under `key`, in the order they come."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _counts(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row["errors"] for row in rows]), np.array([row["words"] for row in rows])


def _rate(rows: list[Row], rng: np.random.Generator) -> Row:
    return asdict(rate(*_counts(rows), rng))


def _rise(by_day: dict[str, list[Row]], rng: np.random.Generator) -> list[Row]:
    """A warning, if the newest day's word errors lie above those of the days before it by more than chance."""
    *earlier, newest = by_day.items() if by_day else [("", [])]
    earlier = earlier[-DAYS_BEFORE:]
    day, rows = newest
    heard = [row for _, others in earlier for row in others]
    if min(len(rows), len(heard)) < FEWEST_TO_TELL:
        return []
    before = _counts(heard)
    difference, low, high = excess(_counts(rows), before, rng)
    if low <= 0:
        return []
    wer = {"wer": 100.0 * _share(_counts(rows)), "before": 100.0 * _share(before)}
    found = {"difference": difference, "low": low, "high": high}
    return [{"kind": "wer_rose", "day": day, "days": len(earlier), **wer, **found}]


def _share(counts: tuple[np.ndarray, np.ndarray]) -> float:
    return float(counts[0].sum() / counts[1].sum())


def _drift(connection: duckdb.DuckDBPyConnection, days: list[str], rng: np.random.Generator) -> Row | None:
    """Every input feature of the newest day against the days before it; None where there are none."""
    *earlier, day = days or [""]
    earlier = earlier[-DAYS_BEFORE:]
    if not earlier:
        return None
    columns = ", ".join(MEASURES + KINDS)
    today, before = (
        connection.execute(f"select {columns} from features where day in (select unnest(?))", [listed]).fetchnumpy()
        for listed in ([day], earlier)
    )
    return {"day": day, "days": len(earlier), "rows": [asdict(found) for found in drift(today, before, rng)]}


def _drifted(changed: Row | None) -> list[Row]:
    names = [row["feature"] for row in changed["rows"] if row["differs"]] if changed else []
    return [{"kind": "drifted", "features": names}] if names else []


def _clip(store: Store, by_day: dict[str, list[Row]]) -> tuple[Row | None, dict[str, Path]]:
    """One of the newest day's clips, drawn by that day, with its words aligned; None before the first day."""
    if not by_day:
        return None, {}
    day, rows = list(by_day.items())[-1]
    row = rows[int(_generator(day).integers(len(rows)))]
    name = f"clip-{day}{Path(row['file']).suffix}"
    pairs = aligned(row["reference"], row["hypothesis"])
    shown = {key: row[key] for key in row if key not in (*HIDDEN, "reference", "hypothesis")}
    return shown | {"audio": name, "pairs": pairs}, {name: store.folder / row["file"]}


def _confusion(heard: list[Row]) -> Row:
    """How many of the trusted and of the other transcripts are right; and what right means, None if not always the
    same."""
    table: Row = {name: {"right": 0, "wrong": 0} for name in ("trusted", "doubted")}
    estimated = [row for row in heard if row["trusted"] is not None]
    for row in estimated:
        table["trusted" if row["trusted"] else "doubted"]["right" if row["right"] else "wrong"] += 1
    bounds = {row["bound"] for row in estimated}
    return table | {
        "unestimated": len(heard) - len(estimated),
        "bound": bounds.pop() if len(bounds) == 1 else None,
    }


def _versions(store: Store) -> tuple[list[Row], list[Row]]:
    """The newest versions and the champion, the newest first; a warning if the registry does not answer."""
    if not (store.registry.is_dir() or server()):
        return [], []
    try:
        versions = open_registry(store.folder).versions(MODEL)
    except UserError as error:
        return [], [{"kind": "no_registry", "error": str(error)}]
    champion = [version for version in versions[:-VERSIONS_SHOWN] if CHAMPION in version.aliases]
    shown = [
        {
            "number": version.number,
            "day": version.day,
            "aliases": version.aliases,
            "is_champion": CHAMPION in version.aliases,
            **{split: version.metrics.get(f"{split}_wer") for split in FIXED},
            "note": version.note,
        }
        for version in [*versions[: -VERSIONS_SHOWN - 1 : -1], *champion]
    ]
    return shown, []


def _pictures(store: Store, day: str) -> tuple[list[Row], dict[str, Path]]:
    """The newest confidence model's pictures."""
    made = [folder for folder in sorted(store.confidence(day).parent.glob("????-??-??")) if folder.name <= day]
    drawn = {kind: made[-1] / file for kind, file in PICTURES.items() if (made[-1] / file).is_file()} if made else {}
    names = {kind: f"{path.stem}-{path.parent.name}{path.suffix}" for kind, path in drawn.items()}
    return [{"kind": kind, "file": names[kind]} for kind in names], {names[kind]: drawn[kind] for kind in names}


def write(folder: Path, content: Row, files: dict[str, Path]) -> None:
    """The snapshot as `folder`, monitor.json last; the files of earlier ones go."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            if not source.is_file():
                raise UserError(f"{source}: is not there, though the store says so; run that day's stages again")
            with source.open("rb") as found, new_file(UPath(folder / name)) as file:
                shutil.copyfileobj(found, file)
        with new_file(UPath(folder / MONITOR)) as file:
            file.write(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode())
        for path in folder.iterdir():
            if path.is_file() and path.name not in (*files, MONITOR):
                path.unlink()


@command
def main() -> None:
    config = tyro.cli(SnapshotConfig)
    store, day = open_store(config.store), parse_day(config.day)
    try:
        with alone(config.store, SNAPSHOT, day):
            content, files = snapshot(store, day)
            write(store.monitor, content, files)
    except LockedError as busy:
        if not (store.monitor / MONITOR).is_file():
            raise
        print(f"{store.monitor}: as the last run left it, since {busy}")  # a run will write the next one itself
        return
    print(f"{store.monitor}: as of {day}, {content['clips']:,} clips, {len(content['warnings'])} warnings")


if __name__ == "__main__":
    main()
