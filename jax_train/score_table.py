"""The scores of an evaluation as a table for people, with what they are of and what they are not."""

from collections.abc import Sequence
from typing import Any

from jax_train.conditions import lacks


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    over_clips, signs = result["intervals"]["over_clips"], result["signs"]
    lines = [
        f"{result['model']} on {result['split']}: {result['clips']} clips, {result['speech_seconds']:.0f} s speech",
        f"{'':4}{'as written (95 %)':>26}{'normalised (95 %)':>26}",
    ]
    for name in ("wer", "cer"):
        cells = [_cell(result[kind], over_clips[kind]) for kind in (name, f"{name}_normalised")]
        lines.append(f"{name.upper():4}{''.join(cells)}")
    lines.append(
        f"{signs['hallucinations']} clips with an invented phrase, {signs['repetitions']} that repeat themselves"
    )
    if "decode" in (seconds := result["seconds"]):
        speed = f"{result['clips_per_second']:.2f} clips/s, {result['speech_seconds_per_second']:.1f} × real time"
        rest = ", ".join(f"{seconds[name]:.1f} s to {name}" for name in ("load", "compile", "score", "report"))
        lines.append(f"in {_windows(result['encoder_window_seconds'], result['settings']['windows'])}")
        lines.append(f"decoded in {seconds['decode']:.1f} s: {speed} (and {rest})")
    if missing := lacks(result["settings"]):
        lines.append(f"not the split's score: {'; '.join(missing)}")
    return "\n".join([*lines, f"normalised: {result['normaliser']}"])


def _cell(rate: float, ends: Sequence[float] | None) -> str:
    """A rate with its interval, which too few clips do not have."""
    return (f"{rate:.2f} %" + (f" ({ends[0]:.2f}–{ends[1]:.2f})" if ends else "")).rjust(26)


def _windows(seconds: Sequence[float], windows: str) -> str:
    if windows == "whole":
        return f"windows of {seconds[0]:g} s"
    return f"thinned windows, {seconds[0]:g} to {seconds[-1]:g} s of each in full"
