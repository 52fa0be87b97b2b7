"""Which clips a figure is of: what to call the corpus behind a set of shards, and how to know it again.

Decision: people are told the corpus's own name, never where it lay on somebody's machine. A dataset of the hub has its
name there, with configuration and revision; of a path the last part is taken, and the one before it where the last is
only a language, as in Common Voice's `cv-corpus-11.0/it`.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

HUB = "hf:"


def facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What scores.json holds of the shards it is of: source, split, language, and the checksum of their index."""
    names = ("source", "dataset", "split", "language", "index_sha256")
    return {name: manifest[name] for name in names if name in manifest}


def corpus_name(data: Mapping[str, Any]) -> str:
    """What people call the corpus of a manifest, or of `facts`."""
    if dataset := data.get("dataset"):
        return str(dataset["name"])
    source = str(data["source"])
    if source.startswith(HUB) and not source.startswith(f"{HUB}//"):
        return source.removeprefix(HUB)
    parts = [part for part in PurePosixPath(source.partition("://")[2] or source).parts if part not in ("/", "..", "~")]
    if not parts:
        return "corpus"
    only_language = re.split("[-_]", parts[-1])[0].lower() == data["language"]
    return "/".join(parts[-2:] if only_language else parts[-1:])


def dataset_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a hub's `model-index` says of the data: type (the hub's id, if it has one), name, configuration, split."""
    name, dataset = corpus_name(data), data.get("dataset") or {}
    return {
        "dataset_type": dataset.get("name") or re.sub(r"[^\w.-]+", "-", name).strip("-").lower() or "corpus",
        "dataset_name": name,
        "dataset_config": dataset.get("config") or data["language"],
        "dataset_split": data["split"],
        "dataset_revision": dataset.get("revision"),
    }
