"""The last line of every benchmark: JSON with at least name, unit, ours, peer and ratio.

A ratio above 1 means that ours is better, whether more of the unit is better or less. `peer` is what ours was held
against; null, and with it the ratio, where an arm was left out or there is none.
"""

import json
from collections.abc import Mapping
from typing import Any


def result_line(
    name: str,
    unit: str,
    ours: float,
    peer: float | None,
    *,
    less_is_better: bool = False,
    more: Mapping[str, Any] | None = None,
) -> str:
    """The line, with `more` figures after the ratio."""
    ratio = None if not (ours and peer) else peer / ours if less_is_better else ours / peer
    found = {"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio}
    return json.dumps(found | dict(more or {}), default=str)
