"""The command `make daily-confidence`: a model of whether a transcript can be trusted, from all that was heard so far.

Decision: scikit-learn's gradient boosting on the signals of past transcripts, whose errors are known; it leaves as
`confidence.json`, plain numbers that `serving.confidence` reads and nothing has to unpickle. Where the decoder is surer
the estimate may only rise, which keeps a short history from teaching nonsense. The model whose scores are told is the
one that is used: it is not fitted again with what was held out. A model that knows no more than the share of right
transcripts is registered, but not used.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from jaxtyping import Bool, Float64

from daily.alone import alone
from daily.confidence_pictures import DOUBTED, TRUSTED, draw_calibration, draw_confusion
from daily.held_out import held_out
from daily.inference import normaliser
from daily.registry import CONFIDENCE, open_registry
from daily.registry_files import CONFIDENCE_FILE
from daily.store import Store, connect, open_store, parse_day
from data.errors import UserError, command
from data.storage import write_text, writing_to

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

FORMAT = 1
SCORES = "scores.json"
SETTINGS = ("bound", "trusted_from", "held_out", "seed")
FEWEST, FEWEST_EACH = 60, 5  # transcripts to learn from; of each outcome
MEANINGS = {
    "mean_log_probability": "mean over the tokens and the end, in nats",
    "lowest_log_probability": "of the least likely of them, in nats",
    "compression_ratio": "bytes of the text by those that zlib needs; high where it repeats itself",
    "no_speech_probability": "that nobody speaks, as the decoder says at its start",
    "tokens": "how many, without prompt and end",
    "seconds": "length of the recording",
    "hypothesis_words": "how many, apart by spaces",
    "words_per_second": "of the whole recording, pauses included",
    "snr_db": "signal-to-noise ratio of the log-mel, in dB from -10 to 50",
}
"""The features, `serving.signals.Signals`; of each what it is."""
RISES = {"mean_log_probability": 1, "lowest_log_probability": 1, "no_speech_probability": -1}


@dataclass(frozen=True)
class ConfidenceConfig:
    """Trains what says whether a transcript can be trusted, on all days up to this one; the page then shows it."""

    store: Path = Path("store")
    """The store's folder."""
    day: str = ""
    """The day, as 2026-11-23; default: today, UTC."""
    bound: float = 0.0
    """Share of its words that a right transcript may have wrong; 0: none."""
    trusted_from: float = 0.5
    """Estimate from which a transcript is trusted."""
    held_out: float = 0.2
    """Share of the transcripts, by sentence and speaker, that only tell how good the estimates are."""
    seed: int = 0
    """Of what is held out."""

    def __post_init__(self) -> None:
        for name, value in (("bound", self.bound), ("trusted-from", self.trusted_from)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"--{name} {value:g}: give a share from 0 to 1")
        if not 0.0 < self.held_out < 1.0:
            raise UserError(f"--held-out {self.held_out:g}: give a share between 0 and 1, such as 0.2")


@dataclass(frozen=True, eq=False)
class History:
    """Transcripts whose outcome is known."""

    signals_CK: Float64[np.ndarray, "C K"]
    """NaN where a signal is missing."""
    right_C: Bool[np.ndarray, "C"]
    sentences: list[str]
    """As the normaliser leaves them."""
    speakers: list[str]


def train(config: ConfidenceConfig) -> None:
    """Do what `config` says. Raises `UserError`."""
    store, day = open_store(config.store), parse_day(config.day)
    folder = store.confidence(day)
    if store.is_quiet(day):
        print(f"{day}: nothing new was said, so there is nothing to learn")
        return
    if not folder.exists():
        history = read_history(store, day, config.bound)
        chosen, both = held_out(history.sentences, history.speakers, config.held_out, config.seed)
        if wanting := _too_few(history.right_C, chosen):
            print(f"{day}: no confidence model yet: {wanting}")
            return
        _write(folder, config, store.language, history, chosen, both)
    _check_settings(folder, config)
    print(_register(store, day, folder))


def _check_settings(folder: Path, config: ConfidenceConfig) -> None:
    """Raises `UserError` if the day's model was made with other settings than those asked for."""
    made = json.loads((folder / CONFIDENCE_FILE).read_text(encoding="utf-8"))
    made |= json.loads((folder / SCORES).read_text(encoding="utf-8")).get("settings", {})  # older ones have none
    other = [name for name in SETTINGS if name in made and made[name] != getattr(config, name)]
    if other:
        was, asked = (_options({name: of(name) for name in other}) for of in (made.get, vars(config).get))
        raise UserError(
            f"{folder}: this day's model was made with {was}, not {asked}, and is made once: run it with {was}, or"
            " give other settings on a day that has no model yet"
        )


def _options(settings: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())


def read_history(store: Store, day: str, bound: float) -> History:
    """Every transcript with text of the days up to `day`; one without any is never right, and nobody needs telling."""
    names = ", ".join(f'p."{name}"' for name in MEANINGS)
    with connect(store) as connection:
        there = {column[0] for column in connection.execute("from predictions limit 0").description}
        if MEANINGS.keys() - there:
            if not store.predictions(day).is_file():
                raise UserError(f"{store.folder}: no predictions yet: run daily-inference first")
            return History(np.empty((0, len(MEANINGS))), np.empty(0, bool), [], [])  # tables without rows
        rows = connection.execute(
            f"select {names}, p.errors <= ? * p.words, p.reference, f.voice from predictions p join features f "
            "using (id, day) where day <= ? and p.hypothesis <> '' and p.hypothesis_words > 0 order by day, id",
            [bound, day],
        ).fetchall()
    normalise, count = normaliser(), len(MEANINGS)
    return History(
        np.array([row[:count] for row in rows], np.float64).reshape(-1, count),
        np.array([row[count] for row in rows], bool),
        [normalise(row[count + 1]) for row in rows],
        [row[count + 2] for row in rows],
    )


def _too_few(right_C: Bool[np.ndarray, "C"], held: Bool[np.ndarray, "C"]) -> str:
    """Why nothing can be learnt yet; empty if it can."""
    if len(right_C) < FEWEST:
        return f"{len(right_C)} transcripts so far, {FEWEST} are needed"
    for name, count in (("right", right_C[~held].sum()), ("wrong", (~right_C[~held]).sum())):
        if count < FEWEST_EACH:
            return f"{count} to learn from are {name}, {FEWEST_EACH} are needed"
    return "" if held.any() else "all of them hang together by sentence or speaker, so none can be held out"


def fit(signals_CK: Float64[np.ndarray, "C K"], right_C: Bool[np.ndarray, "C"]) -> "HistGradientBoostingClassifier":
    """The trees; the same transcripts give the same ones."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # takes seconds to import

    model = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        monotonic_cst=[RISES.get(name, 0) for name in MEANINGS],
        random_state=0,
    )
    return model.fit(signals_CK, right_C)


def export(model: "HistGradientBoostingClassifier", names: dict[str, str]) -> dict[str, Any]:
    """The trees as plain numbers: `features`, `baseline`, `roots` and `nodes`, as `serving.confidence` reads them."""
    trees = [tree.nodes for (tree,) in model._predictors]
    roots = np.cumsum([0, *map(len, trees)])[:-1]
    nodes = np.concatenate(trees)
    root_P = np.repeat(roots, [len(tree) for tree in trees])
    inside_P = nodes["is_leaf"] == 0
    most = np.finfo(np.float64).max  # JSON has no infinity, which divides missing values from all others
    columns = {
        "feature": np.where(inside_P, nodes["feature_idx"], -1),
        "threshold": np.where(inside_P, np.clip(nodes["num_threshold"], -most, most), 0.0),
        "missing_left": nodes["missing_go_to_left"].astype(bool),
        "left": np.where(inside_P, nodes["left"] + root_P, 0),
        "right": np.where(inside_P, nodes["right"] + root_P, 0),
        "value": np.where(inside_P, 0.0, nodes["value"]),
    }
    return {
        "features": [{"name": name, "type": "float64", "meaning": meaning} for name, meaning in names.items()],
        "baseline": float(model._baseline_prediction[0, 0]),
        "roots": roots.tolist(),
        "nodes": {name: column.tolist() for name, column in columns.items()},
    }


def scores(
    estimate_C: Float64[np.ndarray, "C"], right_C: Bool[np.ndarray, "C"], share: float, trusted_from: float
) -> dict[str, Any]:
    """How good estimates of held-out transcripts are, beside those of one who only knows the `share` of right ones."""
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    trusted_C = estimate_C >= trusted_from
    return {
        "brier": float(brier_score_loss(right_C, estimate_C)),
        "brier_of_share": float(brier_score_loss(right_C, np.full(len(right_C), share))),
        "log_loss": float(log_loss(right_C, estimate_C, labels=[False, True])),
        "roc_auc": float(roc_auc_score(right_C, estimate_C)) if 0 < right_C.sum() < len(right_C) else None,
        "confusion": {
            name: {"right": int((of & right_C).sum()), "wrong": int((of & ~right_C).sum())}
            for name, of in ((TRUSTED, trusted_C), (DOUBTED, ~trusted_C))
        },
    }


def _write(
    folder: Path,
    config: ConfidenceConfig,
    language: str,
    history: History,
    held: Bool[np.ndarray, "C"],
    both: list[str],
) -> None:
    """Train, score and draw into `folder`, which appears whole."""
    model = fit(history.signals_CK[~held], history.right_C[~held])
    estimate_C = model.predict_proba(history.signals_CK[held])[:, 1]
    share = float(history.right_C[~held].mean())
    found = {
        "clips": len(held),
        "held_out": int(held.sum()),
        "speakers_on_both_sides": both,
        "right_share": share,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        **scores(estimate_C, history.right_C[held], share, config.trusted_from),
    }
    settings = {"format": FORMAT, "language": language, "bound": config.bound, "trusted_from": config.trusted_from}
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as place:
            new = Path(place) / "new"
            new.mkdir()
            content = settings | export(model, MEANINGS)
            write_text(new / CONFIDENCE_FILE, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
            write_text(new / SCORES, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            draw_calibration(new / "calibration.png", estimate_C, history.right_C[held])
            draw_confusion(new / "confusion.png", found["confusion"])
            os.sync()  # or after a power cut the folder might be there without what is in it
            new.rename(folder)


def _register(store: Store, day: str, folder: Path) -> str:
    """The day's model as a version of the registry, in use unless it knows nothing or is not the newest; in a line."""
    found = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    content = json.loads((folder / CONFIDENCE_FILE).read_text(encoding="utf-8"))
    metrics = {name: found[name] for name in ("brier", "brier_of_share", "log_loss", "roc_auc", "right_share")}
    metrics = {name: value for name, value in metrics.items() if value is not None}
    helps = found["brier"] < found["brier_of_share"]
    registry = open_registry(store.folder)
    version = registry.register(
        CONFIDENCE,
        day,
        folder,
        parameters={name: content[name] for name in ("bound", "trusted_from", "language")}
        | {"features": ", ".join(MEANINGS), "clips": found["clips"], "held_out": found["held_out"]},
        metrics=metrics,
        note="in use" if helps else "knows no more than the share of right transcripts: not used",
    )
    # A day that is yet to come was run by mistake: it is no reason to use none of the days until then.
    newest = all(other.day <= day or other.day > parse_day("") for other in registry.versions(CONFIDENCE))
    if helps and newest and not version.promoted:  # once: a roll-back since then stands
        registry.promote(CONFIDENCE, version.number)
    registry.place()
    trusted = found["confusion"][TRUSTED]
    return (
        f"{day}: confidence version {version.number}, Brier {found['brier']:.3f} ({found['brier_of_share']:.3f} for"
        f" knowing the share) on {found['held_out']} held-out transcripts; {sum(trusted.values())} trusted,"
        f" {trusted['right']} of them right" + ("" if helps else "; not used")
    )


@command
def main() -> None:
    config = tyro.cli(ConfidenceConfig, prog="python -m daily.confidence")
    with alone(config.store, "confidence", config.day):
        train(config)


if __name__ == "__main__":
    main()
