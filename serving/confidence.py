"""How likely it is that a transcript can be trusted: boosted trees over its signals, read from `confidence.json`.

Decision: a model's folder may hold this file, so anyone can read it and nothing is unpickled. `daily.confidence` trains
the trees with scikit-learn and writes it; here NumPy alone walks them (`tests/test_serving_confidence.py`: the same
probabilities). Nodes of all trees stand in one list; a walk only ever goes on to later ones, so it ends whatever the
file says.

B transcripts, T trees, P nodes of all trees, K features.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.model_folder import ModelError
from serving.signals import Signals

CONFIDENCE = "confidence.json"
FORMAT = 1
NODES: dict[str, type] = {
    "feature": np.int64,
    "threshold": np.float64,
    "missing_left": np.bool_,
    "left": np.int64,
    "right": np.int64,
    "value": np.float64,
}


@dataclass(frozen=True)
class Estimate:
    """What is thought of a transcript."""

    probability: float
    """That it is right: no more than the model's `bound` of its words wrong."""
    trusted: bool


@dataclass(frozen=True)
class Confidence:
    """A trained model of whether transcripts can be trusted."""

    language: str
    """Of the speech it was trained on; of other speech it says nothing."""
    bound: float
    """Share of a text's words that may be wrong for it to be right; 0: none."""
    trusted_from: float
    """Probability from which a transcript is trusted."""
    features: tuple[str, ...]
    """Names of the signals, in the order of the trees' columns."""
    baseline: float
    """Log-odds that the trees add to."""
    roots_T: NDArray[np.int64]
    nodes: dict[str, NDArray[Any]]
    """Columns of the P nodes. At a leaf `feature` is -1 and `value` its log-odds; other nodes go on to `left` where the
    feature is at most `threshold`, or is missing and `missing_left`, and else to `right`."""

    def estimate(self, signals: Signals | None) -> Estimate:
        """The estimate for a transcript; an empty one, of whatever speech, is never right."""
        if signals is None or not signals.hypothesis_words:
            return Estimate(0.0, False)
        row_1K = np.array([[getattr(signals, name) for name in self.features]], np.float64)
        probability = float(self.probabilities(row_1K)[0])
        return Estimate(probability, probability >= self.trusted_from)

    def probabilities(self, signals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability (B,) for rows of signals in the order of `features`; NaN is a signal that is missing."""
        node = self.nodes
        at_BT = np.repeat(self.roots_T[None], len(signals_BK), axis=0)
        rows_B1 = np.arange(len(signals_BK))[:, None]
        while (inside_BT := node["feature"][at_BT] >= 0).any():
            value_BT = signals_BK[rows_B1, node["feature"][at_BT]]  # a leaf's is not looked at
            left_BT = np.where(np.isnan(value_BT), node["missing_left"][at_BT], value_BT <= node["threshold"][at_BT])
            at_BT = np.where(inside_BT, np.where(left_BT, node["left"][at_BT], node["right"][at_BT]), at_BT)
        odds_B = self.baseline + node["value"][at_BT].sum(axis=1)
        found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-odds_B))
        return found


def read_confidence(folder: Path) -> Confidence | None:
    """The confidence model in a model's folder; None where it has none. Raises `ModelError` where it is not whole."""
    path = folder / CONFIDENCE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ModelError(f"{path}: has format {content['format']!r}, this version reads {FORMAT}; train it anew")
        found = _confidence(content)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"{path}: is not a confidence model ({error!r}); delete it or train it anew") from error
    _check(path, found)
    return found


def _confidence(content: dict[str, Any]) -> Confidence:
    return Confidence(
        language=str(content["language"]),
        bound=float(content["bound"]),
        trusted_from=float(content["trusted_from"]),
        features=tuple(str(feature["name"]) for feature in content["features"]),
        baseline=float(content["baseline"]),
        roots_T=np.array(content["roots"], np.int64),
        nodes={name: np.array(content["nodes"][name], kind) for name, kind in NODES.items()},
    )


def _check(path: Path, found: Confidence) -> None:
    """Raises `ModelError` unless the features are signals and every walk ends at a leaf."""
    known = {field.name for field in fields(Signals)}
    if unknown := sorted(set(found.features) - known):
        raise ModelError(f"{path}: asks for {', '.join(unknown)}; the signals are {', '.join(sorted(known))}")
    feature, left, right = (found.nodes[name] for name in ("feature", "left", "right"))
    at, inside = np.arange(feature.size), feature >= 0
    after = [(at < child) & (child < feature.size) for child in (left, right)]
    if (
        {column.shape for column in found.nodes.values()} != {(feature.size,)}
        or not (found.roots_T >= 0).all()
        or not (found.roots_T < feature.size).all()
        or not (feature < len(found.features)).all()
        or not (after[0] & after[1])[inside].all()
        or not np.isfinite(found.nodes["value"]).all()
    ):
        raise ModelError(f"{path}: its trees are not whole; delete it or train it anew")
