"""The feature store: one folder, a Parquet file a day and table, read together through DuckDB views.

Decision: a store is files and nothing else. A day's file appears by rename and is never written again, so every reader
sees whole days, a killed command is run again, and yesterday's figures stay what they were. DuckDB reads the files
where they lie; it has no database of its own that could disagree with them. Each file carries its table's name and
schema version in its Parquet metadata, and a reader refuses what it does not know.

Views: `features` (days alone), `fixed` (the test and guard splits, same columns), `predictions`, and `history`, which
joins the days' features with what the champion of that day heard. A column of both has `prediction_` before its
name where it comes from the predictions.
"""

import glob
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.storage import new_file, writing_to

FORMAT = 1
SETTINGS = "store.json"
TEST, GUARD = "test", "guard"
"""The fixed splits: synthetic speech of sentences that no day speaks; real speech."""
FIXED = (TEST, GUARD)
SCHEMA_KEY = b"sussurro_table"


@dataclass(frozen=True)
class Table:
    """One table of the store: its folder, what its files' schema is called, and the columns each must have."""

    name: str
    version: int
    columns: Mapping[str, pa.DataType]
    more: bool = False
    """Whether files may have further columns (the signals of a prediction)."""

    @property
    def label(self) -> str:
        """What a file's metadata says."""
        return json.dumps({"table": self.name, "version": self.version})


FEATURES = Table(
    "features",
    1,
    {
        "id": pa.string(),  # the clip's in the shards: its file name, with the day in it
        "day": pa.string(),  # ISO, 2026-11-23; of a fixed split its name
        "source": pa.string(),  # festival or recorded
        "voice": pa.string(),  # the synthetic voice, or the speaker as the recording's source names him
        "sex": pa.string(),  # female, male, or empty where not known
        "sentence": pa.string(),
        "words": pa.int32(),
        "seconds": pa.float64(),
        "snr_db": pa.float64(),  # see data.snr
        "words_per_second": pa.float64(),
        "recipe": pa.string(),  # none, or the recipe that was drawn
        "augmentations": pa.string(),  # JSON: what the recipe drew
        "file": pa.string(),  # of the audio, from the store's folder on
        "audio_sha256": pa.string(),  # of the samples as taken in, before any recipe
    },
)
PREDICTIONS = Table(
    "predictions",
    1,
    {
        "id": pa.string(),
        "day": pa.string(),
        "model_version": pa.string(),
        "reference": pa.string(),
        "hypothesis": pa.string(),
        "words": pa.int32(),  # of the reference, normalised
        "errors": pa.int32(),
        "confidence": pa.float64(),  # null while there is no confidence model
        "trusted": pa.bool_(),  # null likewise
        "right": pa.bool_(),
    },
    more=True,
)


@dataclass(frozen=True)
class Store:
    """An open store: its settings, and where everything in it lies."""

    folder: Path
    language: str
    """Whisper's code of the language spoken in it."""
    model: str
    """The pretrained Whisper that the first champion is: a folder, or a name on the hub."""
    n_mels: int
    tokenizer_sha256: str
    """Of the model's tokenizer.json: the shards' tokens are its."""

    def clips(self, split: str) -> Path:
        """Folder of the audio of a day or a fixed split, with metadata.csv."""
        return self.folder / "clips" / split

    @property
    def shards(self) -> Path:
        """Folder with a split of shards for each day, and the fixed ones."""
        return self.folder / "shards"

    def features(self, split: str) -> Path:
        return self.folder / "features" / f"{split}.parquet"

    def predictions(self, day: str) -> Path:
        return self.folder / "predictions" / f"{day}.parquet"

    def run(self, day: str) -> Path:
        """Folder of the day's challenger."""
        return self.folder / "runs" / day

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    @property
    def champion(self) -> Path:
        """The champion's exported folder."""
        return self.folder / "champion"

    def confidence(self, day: str) -> Path:
        return self.folder / "confidence" / day

    def loop(self, day: str) -> Path:
        """Which stages of the day are done."""
        return self.folder / "loop" / f"{day}.json"

    @property
    def monitor(self) -> Path:
        return self.folder / "monitor"

    def days(self) -> list[str]:
        """The days whose features are whole, oldest first."""
        return sorted(path.stem for path in self.features("*").parent.glob("????-??-??.parquet"))

    def is_quiet(self, day: str) -> bool:
        """Whether the day is over and nothing new was said on it: its feature table has no row, and it no shards."""
        path = self.features(day)
        return path.is_file() and check_table(FEATURES, path) == 0


def create_store(folder: Path, language: str, model: str, n_mels: int, tokenizer_sha256: str) -> Store:
    """A new store in `folder`, or the one that is there if its settings are these."""
    store = Store(folder, language, model, n_mels, tokenizer_sha256)
    if (folder / SETTINGS).is_file():
        there = open_store(folder)
        changed = [
            f"{name} is {value!r} there, {getattr(store, name)!r} asked"
            for name, value in asdict(there).items()
            if getattr(store, name) != value
        ]
        if changed:
            raise UserError(f"{folder} is a store with other settings ({'; '.join(changed)}): name another --store")
        return there
    settings = {name: value for name, value in asdict(store).items() if name != "folder"}
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / SETTINGS, once=True) as file:
            file.write((json.dumps({"format": FORMAT, **settings}, indent=2) + "\n").encode())
    return store


def open_store(folder: Path) -> Store:
    """The store in `folder`; `UserError` if there is none that this program can read."""
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        found = settings.pop("format")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no store: {path} is not there; `make daily-features STORE={folder}` begins one") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a store's settings ({error}): bring it back, or name another store") from None
    if found != FORMAT:
        raise UserError(f"{path}: format {found}, this program reads {FORMAT}: use the program that wrote the store")
    try:
        return Store(folder, **settings)
    except TypeError as error:
        raise UserError(f"{path} is not a store's settings ({error}): bring it back, or name another store") from None


def parse_day(text: str) -> str:
    """`text` as an ISO date, or today's in UTC if it is empty."""
    if not text:
        return datetime.now(UTC).date().isoformat()
    try:
        day = date.fromisoformat(text).isoformat()
    except ValueError:
        day = ""
    if day != text:
        raise UserError(f"day {text!r} is not a date; write it like 2026-11-23")
    return day


def write_table(table: Table, target: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """`rows` as the file `target` of `table`; `UserError` if it is there: what a day is, it stays."""
    there = UserError(f"{target} is there already, and a day is written once: delete it to have it made again")
    if target.exists():
        raise there
    listed = [dict(row) for row in rows]
    names = dict.fromkeys(name for row in listed for name in row)
    wrong = sorted(table.columns.keys() - names.keys() if listed else ())
    if not table.more:
        wrong += sorted(names.keys() - table.columns.keys())
    if wrong:
        raise ValueError(f"{target}: the columns {', '.join(wrong)} are missing, or are none of {table.name}")
    more = [name for name in names if name not in table.columns]
    further = pa.Table.from_pylist([{name: row.get(name) for name in more} for row in listed]).schema if more else []
    further = [field if field.type != pa.null() else field.with_type(pa.float64()) for field in further]
    schema = pa.schema([*table.columns.items(), *further], metadata={SCHEMA_KEY: table.label})
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with new_file(target, once=True) as file:
                pq.write_table(pa.Table.from_pylist(listed, schema), file)
        except FileExistsError:  # since
            raise there from None


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the store's views; `UserError` names a file of another schema.

    The views are of the files that are there now.
    """
    fixed = [path for split in sorted(FIXED) if (path := store.features(split)).is_file()]
    connection = duckdb.connect(":memory:", config={"threads": 2})
    _view(connection, "features", FEATURES, [store.features(day) for day in store.days()])
    _view(connection, "fixed", FEATURES, fixed)
    _view(connection, "predictions", PREDICTIONS, sorted((store.folder / "predictions").glob("????-??-??.parquet")))
    ours, theirs = (
        [column[0] for column in connection.sql(f"from {name}").description] for name in ("features", "predictions")
    )
    heard = ", ".join(
        f'p."{name}" as "prediction_{name}"' if name in ours else f'p."{name}"'
        for name in theirs
        if name not in ("id", "day")
    )
    connection.execute(f"create view history as select f.*, {heard} from features f join predictions p using (id, day)")
    return connection


def check_table(table: Table, path: Path) -> int:
    """How many rows the file `path` has; `UserError` if it is not one of `table` as this program knows it."""
    try:
        found = pq.read_metadata(path)
        schema = found.schema.to_arrow_schema()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and run {_maker(table, path)}") from None
    label = (schema.metadata or {}).get(SCHEMA_KEY, b"").decode()
    wrong = [
        name for name, kind in table.columns.items() if name not in schema.names or schema.field(name).type != kind
    ]
    if label == table.label and not wrong:
        return int(found.num_rows)
    has = f"lacks, or has of another type: {', '.join(wrong)}" if label == table.label else f"says {label or 'nothing'}"
    raise UserError(
        f"{path} is not of the schema {table.label} ({has}): use the program that wrote it, or delete it and "
        f"run {_maker(table, path)}"
    )


def _maker(table: Table, path: Path) -> str:
    """The command that makes a table's file again; `make daily` does not, as the day is done."""
    target = "daily-features" if table is FEATURES else "daily-inference"
    day = "" if path.stem in FIXED else f" DAY={path.stem}"
    return f"`make {target} STORE={path.parent.parent}{day}`"


def _view(connection: duckdb.DuckDBPyConnection, name: str, table: Table, paths: list[Path]) -> None:
    for path in paths:
        check_table(table, path)
    if paths:
        files = ", ".join("'" + glob.escape(str(path)).replace("'", "''") + "'" for path in paths)
        options = "union_by_name = true, filename = false, hive_partitioning = false"  # a folder may be called day=1
        connection.execute(f"create view {name} as from read_parquet([{files}], {options})")
        return
    empty = pa.schema(list(table.columns.items())).empty_table()
    connection.register(f"no_{name}", empty)
    connection.execute(f"create view {name} as from no_{name}")
