"""The registry of models: every version with its parameters, metrics and files, and which one is the champion.

Decision: MLflow, in an SQLite file of the store unless MLFLOW_TRACKING_URI names a server (daily/tracking.py). A
version is registered once for its key (the day), however often the command is killed and run again. The alias
`champion` is the truth; STORE/champion is a copy of what it names, made again by whoever finds it to be another. What
was champion before stands at the version that replaced it, so a roll-back needs no history beside the registry.
"""

import dataclasses
import datetime
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from daily.registry_files import alone_with, copy_folder, has_needed, place_champion
from daily.registry_version import (
    CHALLENGER,
    CHAMPION,
    CONFIDENCE,
    DAY,
    DROPPED,
    KEY,
    MODEL,
    PROMOTED,
    REPLACED,
    STORE,
    Version,
)
from daily.tracking import Home, answering, connect, home_of, log, log_folder
from data.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "model"  # a run's artifacts that are the version; pictures and scores lie beside it
MOST_RUNS = 50_000  # that MLflow gives at once; a day has two

Given = ParamSpec("Given")
Found = TypeVar("Found")


def open_registry(store: Path) -> "Registry":
    """The registry of the store's loop, made where there is none. Raises `UserError` if it cannot be read."""
    home = home_of(store)
    client, experiment = connect(store / "registry", home)
    return Registry(store, client, experiment, home)


def _answers(
    method: Callable[Concatenate["Registry", Given], Found],
) -> Callable[Concatenate["Registry", Given], Found]:
    """The method, with a `UserError` for what MLflow cannot do."""

    @functools.wraps(method)
    def asked(registry: "Registry", *given: Given.args, **named: Given.kwargs) -> Found:
        with answering(registry.home.address or str(registry.store / "registry")):
            return method(registry, *given, **named)

    return asked


@dataclasses.dataclass(frozen=True)
class Registry:
    """The registry of a store; `open_registry` gives one. What asks MLflow raises `UserError` if it does not answer."""

    store: Path
    """The daily loop's folder."""
    client: "MlflowClient"
    """MLflow, at the store's own database or at a server."""
    experiment: str
    """MLflow's id of the experiment that new runs belong to."""
    home: Home
    """Where it is, and by what id the store is known there."""

    @property
    def local(self) -> bool:
        """Whether the files lie in the store."""
        return not self.home.address

    @_answers
    def register(
        self,
        name: str,
        day: str,
        folder: Path,
        *,
        key: str = "",
        parameters: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        files: Sequence[Path] = (),
        note: str = "",
    ) -> Version:
        """`folder` as a new version of `name` with the alias challenger, or the one already registered for `key`.

        `key` is the day unless given. `files` (pictures, scores) are kept beside the folder under their names;
        nested `parameters` get dotted names.
        """
        key = key or day
        if known := [found for found in self._found(name) if found.tags[KEY] == key]:
            return self._as_challenger(name, int(known[0].version))
        self._end_killed_runs(name, key)
        tags = {"name": name, STORE: self.home.store_id, KEY: key, DAY: day}
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{name} {key}")
        log(self.client, run.info.run_id, parameters or {}, metrics or {})
        log_folder(self.client, run.info.run_id, folder, FOLDER)
        for path in files:
            self.client.log_artifact(run.info.run_id, str(path))
        self.client.set_terminated(run.info.run_id)
        there = self.home.model(name)
        if not self.client.search_registered_models(f"name = '{there}'"):
            self.client.create_registered_model(there)
        source = f"{run.info.artifact_uri}/{FOLDER}"
        made = self.client.create_model_version(there, source, run.info.run_id, tags, description=note)
        return self._as_challenger(name, int(made.version))

    @_answers
    def measure(self, version: Version, metrics: Mapping[str, float]) -> None:
        """Add measurements to a version."""
        log(self.client, version.run_id, {}, metrics)

    @_answers
    def versions(self, name: str) -> list[Version]:
        """All versions of `name`, the oldest first; none if nothing was registered under it."""
        aliases = self._aliases(name)
        runs = self.client.search_runs([self.experiment], f"tags.name = '{name}'", max_results=MOST_RUNS)
        metrics = {run.info.run_id: run.data.metrics for run in runs}  # of before the store was moved: one by one
        return [self._version(found, aliases, metrics.get(found.run_id)) for found in self._found(name)]

    @_answers
    def version(self, name: str, number: int) -> Version:
        """One version. Raises `UserError`, which lists those there are, for another number."""
        known = {int(found.version): found for found in self._found(name)}
        if number not in known:
            raise UserError(f"{name} has no version {number}: there are {', '.join(map(str, known)) or 'none yet'}")
        return self._version(known[number], self._aliases(name))

    @_answers
    def champion(self, name: str) -> Version | None:
        """The version with the alias champion; None before the first."""
        number = self._aliases(name).get(CHAMPION)
        return None if number is None else self.version(name, number)

    @_answers
    def promote(self, name: str, number: int) -> Version:
        """Make a version the champion, and STORE/champion its copy.

        Raises:
            UserError: there is no such version, or its files are gone.
        """
        version, now = self.version(name, number), self.champion(name)
        if now is None or now.number != number:
            first = "" if now is None else str(now.number)
            self._make_champion(version, None if version.promoted else first)
        elif not version.promoted:  # a kill came between alias and tag
            self._tag(version, PROMOTED, _now())
        self.place()
        return self.version(name, number)

    @_answers
    def roll_back(self, name: str, number: int | None = None) -> Version:
        """Make a version the champion again: the one before this one, or the given one.

        Who was champion before a version first was stays noted at it, so each step leads to an older one.

        Raises:
            UserError: there is no champion, none before it, or no such version.
        """
        if number is not None:
            return self.promote(name, number)
        self.check_not_lost(name)
        now = self.champion(name)
        if now is None:
            raise UserError(f"{self.store}: {name} has no champion yet; `make daily-train` makes the first")
        if now.replaced is None:
            raise UserError(f"{name} version {now.number} is the first champion: there is none to roll back to")
        self._make_champion(self.version(name, now.replaced))
        self.place()
        return self.version(name, now.replaced)

    @_answers
    def check_not_lost(self, name: str) -> None:
        """Raises `UserError` if there is no champion though there was one: its version or alias was deleted."""
        before = [] if self.champion(name) else [version.number for version in self.versions(name) if version.promoted]
        if before:
            raise UserError(
                f"{self.store}: the champion of {name} is gone from the registry; choose one of those before it,"
                f" {', '.join(map(str, before))}: `make rollback VERSION=n`"
            )

    @_answers
    def place(self) -> Path | None:
        """STORE/champion, made equal to what the aliases say; None before the first champion.

        Every command of the loop that reads the folder calls this first, so that one killed half-way is mended.
        """
        with alone_with(self.store / ".champion.lock"):
            model, confidence = self.champion(MODEL), self.champion(CONFIDENCE)
            if model is None:
                return None
            return place_champion(self.store, [model, confidence] if confidence else [model], self.copy)

    @_answers
    def copy(self, version: Version, folder: Path) -> None:
        """The files of a version as the new folder `folder`. Raises `UserError` if they are gone."""
        self._check_files(version)
        if self.local:
            copy_folder(self.files(version), folder)
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as place:
            Path(self.client.download_artifacts(version.run_id, FOLDER, place)).rename(folder)

    def files(self, version: Version) -> Path:
        """Where a version lies in the store: by its run and not by the database, as a store may be moved."""
        return self.store / "registry" / "artifacts" / version.run_id / "artifacts" / FOLDER

    @_answers
    def drop_weights(self, name: str) -> list[int]:
        """Delete the weights of versions that have no alias and never were champion; which ones. Only in the store."""
        useless = [v for v in self.versions(name) if not (v.aliases or v.promoted or v.dropped)] if self.local else []
        for version in useless:
            for path in self.files(version).glob("*.safetensors"):
                path.unlink()
            self._tag(version, DROPPED, _now())
        return [version.number for version in useless]

    def _as_challenger(self, name: str, number: int) -> Version:
        """A registered version, with the alias challenger if it is the newest: a kill may have come before that."""
        newest = int(self._found(name)[-1].version)
        if number == newest and self._aliases(name).get(CHALLENGER) != number:
            self.client.set_registered_model_alias(self.home.model(name), CHALLENGER, str(number))
        return self.version(name, number)

    def _make_champion(self, version: Version, replaced: str | None = None) -> None:
        """Move the alias; `replaced` is who stood there, known before it is gone; None: that stays as it is noted."""
        self._check_files(version)
        if replaced is not None:
            self._tag(version, REPLACED, replaced)
        self.client.set_registered_model_alias(self.home.model(version.name), CHAMPION, str(version.number))
        self._tag(version, PROMOTED, _now())

    def _check_files(self, version: Version) -> None:
        """Raises `UserError` where a version's files, without which it cannot be champion, are gone."""
        if version.dropped:
            raise UserError(f"{version.name} version {version.number}: its weights were deleted; choose another")
        if self.local:
            place, names = str(self.files(version)), [path.name for path in self.files(version).glob("*")]
        else:
            listed = self.client.list_artifacts(version.run_id, FOLDER)
            place, names = f"run {version.run_id}", [PurePosixPath(file.path).name for file in listed]
        if not has_needed(version, names):
            raise UserError(f"{place}: version {version.number} is gone; roll back to another")

    def _tag(self, version: Version, tag: str, value: str) -> None:
        self.client.set_model_version_tag(self.home.model(version.name), str(version.number), tag, value)

    def _found(self, name: str) -> list[Any]:
        """MLflow's versions that the store registered, the oldest first. They know no aliases."""
        listed = self.client.search_model_versions(f"name = '{self.home.model(name)}'")
        ours = [found for found in listed if KEY in found.tags]  # a person may have registered some, too
        if not self.local:
            ours = [found for found in ours if found.tags.get(STORE) == self.home.store_id]
        return sorted(ours, key=lambda found: int(found.version))

    def _aliases(self, name: str) -> dict[str, int]:
        models = self.client.search_registered_models(f"name = '{self.home.model(name)}'")
        return {alias: int(number) for model in models for alias, number in model.aliases.items()}

    def _version(self, found: Any, aliases: Mapping[str, int], metrics: Mapping[str, float] | None = None) -> Version:
        """MLflow's version as ours; `metrics` are asked for unless given."""
        tags, number = found.tags, int(found.version)
        return Version(
            name=tags["name"],
            number=number,
            key=tags[KEY],
            day=tags[DAY],
            run_id=found.run_id,
            aliases=tuple(sorted(alias for alias, its in aliases.items() if its == number)),
            metrics=dict(self.client.get_run(found.run_id).data.metrics if metrics is None else metrics),
            note=found.description or "",
            replaced=int(tags[REPLACED]) if tags.get(REPLACED) else None,
            promoted=tags.get(PROMOTED, ""),
            dropped=DROPPED in tags,
        )

    def _end_killed_runs(self, name: str, key: str) -> None:
        """Runs whose command was killed before it had registered what it logged; their files would lie about."""
        ours = f"tags.name = '{name}' and tags.key = '{key}'"
        for run in self.client.search_runs([self.experiment], ours):
            self.client.set_terminated(run.info.run_id, "KILLED")
            if self.local:
                shutil.rmtree(self.store / "registry" / "artifacts" / run.info.run_id, ignore_errors=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
