"""What a day's challenger is trained on: the day's records mixed with a sample of older days', so that it forgets less.

Decision: the mixture is a split of shards like any other, made by copying records, so the trainer needs to know
nothing of days. Older clips are drawn without replacement, every one as likely as any other, from (seed, day).
"""

import json
import shutil
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from daily.store import Store
from data.errors import UserError
from data.plan import differences
from data.records import Shards, ShardWriter
from data.set_files import MANIFEST, write_index
from data.storage import read_json, write_text, writing_to

SAME = ("format_version", "language", "tokenizer_sha256", "features")
"""What all partitions of a mixture must agree on."""


def mix(store: Store, day: str, replay: float = 1.0, seed: int = 0) -> Path:
    """The folder of shards with the split `train-DAY`: all of `day`, and `replay` × as many clips of older days.

    Older days that were not heard yet are left alone, so that nothing is learned before it was heard. Made once: where
    it is there already, made with the same arguments, nothing is done, whatever came to the store since.

    Raises:
        UserError: the day has no shards, an older day's are of another kind, or another mixture is there.
    """
    if not replay >= 0:
        raise UserError(f"replay is {replay}; it takes 0 or more clips of older days for each new one")
    shards_dir, split = store.run(day) / "shards", f"train-{day}"
    new = Shards.open(store.shards, day)
    settings: dict[str, Any] = {name: new.manifest[name] for name in SAME}
    settings |= {"split": split, "replay": replay, "seed": seed}
    folder = shards_dir / split
    if (folder / MANIFEST).is_file():
        if found := differences(read_json(folder / MANIFEST), settings):
            raise UserError(f"{folder} holds another mixture ({'; '.join(found)}): delete {store.run(day)}")
        return shards_dir
    older = [earlier for earlier in store.days() if earlier < day and _may_be_learned(store, earlier)]
    chosen = _draw(store, older, round(replay * len(new)), np.random.default_rng([seed, zlib.crc32(day.encode())]))
    days = {day: len(new)} | {earlier: len(positions) for earlier, positions in chosen.items()}
    partial = shards_dir / f".{split}.partial"
    with writing_to(partial):
        shutil.rmtree(partial, ignore_errors=True)  # of a killed command
        partial.mkdir(parents=True)
        with ShardWriter(partial / f"{split}-00000-of-00001.tfrecord") as writer:
            _copy(new, np.arange(len(new)), writer)
            for earlier, positions in chosen.items():
                old = Shards.open(store.shards, earlier)
                if found := differences(old.manifest, {name: new.manifest[name] for name in SAME}):
                    raise UserError(f"{old.folder} cannot be mixed with {day} ({'; '.join(found)})")
                _copy(old, positions, writer)
        rows = {**writer.rows, "shard": [0] * len(writer.rows["id"])}
        manifest = settings | {
            "source": str(store.folder),
            "days": days,
            "recipe": {"name": "none", "transforms": []},
            "copies": 0,
            "clips": len(rows["id"]),
            "records": len(rows["id"]),
            "bytes": writer.size,
            "seconds": round(sum(rows["seconds"]), 3),
            "frames": sum(rows["frames"]),
            "rejected": {},
            "index_sha256": write_index(partial, [rows]),
            "shards": [
                {
                    "file": writer.path.name,
                    "records": len(rows["id"]),
                    "bytes": writer.size,
                    "sha256": writer.sha256,
                }
            ],
        }
        write_text(UPath(partial / MANIFEST), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        partial.replace(folder)  # what is in it is on the disk: all was written as a `new_file`
    return shards_dir


def _may_be_learned(store: Store, day: str) -> bool:
    """Whether a day may be learned from: it was heard, and something was said on it."""
    return store.predictions(day).is_file() and not store.is_quiet(day)


def _draw(store: Store, days: list[str], number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The positions to take of each of `days` that gives any, `number` in all if there are so many."""
    counts = [int(read_json(store.shards / day / MANIFEST)["records"]) for day in days]
    edges = np.cumsum([0, *counts])
    taken = np.sort(rng.permutation(edges[-1])[:number])
    found = {
        day: taken[(taken >= low) & (taken < high)] - low
        for day, (low, high) in zip(days, pairwise(edges), strict=True)
    }
    return {day: positions for day, positions in found.items() if len(positions)}


def _copy(shards: Shards, positions: np.ndarray, writer: ShardWriter) -> None:
    for position in positions:
        writer.write(shards[int(position)], str(shards.index["augmentations"][position]))
