"""report.html: an evaluation to see and hear, the worst clips first, in one file that loads nothing.

Decision: tables and pictures of the whole split, and the clips with the most word errors (normalised; then as written,
then the shorter), since those cost the most points. The recordings of these alone stand in the page, and only where the
corpus is still there; else it says so and shows the log-mel, which shards hold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.clips import ClipError
from data.pages import write_page
from data.pictures import Tick, data_uri, envelope, flac, histogram, log_mel_png, short_speaker, time_ticks
from data.records import Record, Shards
from jax_train.conditions import decoding, lacks
from jax_train.rate_bars import rate_bars
from jax_train.recordings import Recordings
from jax_train.scores import normaliser
from jax_train.scoring import Scored
from jax_train.word_pairs import WordPair, word_pairs

REPORT = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class ClipPicture:
    """What `page_parts.html.jinja` draws of a clip; without a recording, `problem` and the log-mel alone."""

    seconds: float
    width: int
    ticks: list[Tick]
    log_mel: str
    frames: int
    n_mels: int
    waveform: str = ""
    peak: str = ""
    audio: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ClipCard:
    """A clip of the report: its row of predictions.parquet, its words paired, its picture."""

    facts: dict[str, Any]
    speaker: str
    pairs: list[WordPair]
    picture: ClipPicture


def clip_picture(record: Record, recordings: Recordings) -> ClipPicture:
    """The log-mel of `record`, and its recording if there is one."""
    frames, n_mels = record.log_mel_q.shape
    drawn = {"width": 100, "ticks": time_ticks(record.seconds), "frames": frames, "n_mels": n_mels}
    drawn |= {"log_mel": data_uri(log_mel_png(record.log_mel_q), "image/png"), "seconds": record.seconds}
    if recordings.missing:
        return ClipPicture(**drawn)
    try:
        audio_N = recordings.audio(record)
    except ClipError as error:
        return ClipPicture(**drawn, problem=str(error))
    peak = float(np.abs(audio_N).max())
    return ClipPicture(
        **drawn,
        waveform=envelope(audio_N, peak),
        peak=f"{20 * np.log10(peak):+.1f} dB".replace("-", "−"),
        audio=data_uri(flac(audio_N / np.float32(max(peak, 1.0))), "audio/flac"),
    )


def worst_first(scored: Scored) -> np.ndarray:
    """The clips' places by word errors: normalised, then as written; of equals the shorter first."""
    normal, written = scored.normal, scored.written
    return np.lexsort([normal.words, -written.errors, -normal.errors])


def clip_cards(
    scored: Scored, places: Sequence[int], shards: Shards, rows: np.ndarray, recordings: Recordings
) -> Iterator[ClipCard]:
    """The cards of the clips at `places` one by one, so that one recording at a time is in memory."""
    clips = scored.clips.take(list(places)).to_pylist()
    pairs = word_pairs([clip["reference"] for clip in clips], [clip["hypothesis"] for clip in clips], normaliser())
    for place, facts, paired in zip(places, clips, pairs, strict=True):
        yield ClipCard(facts, short_speaker(facts["speaker"]), paired, clip_picture(shards[rows[place]], recordings))


def write_report(
    out: Path,
    result: dict[str, Any],
    scored: Scored,
    shards: Shards,
    rows: np.ndarray,
    recordings: Recordings,
    most_clips: int,
) -> None:
    """The page of `result` into the folder `out`, with `most_clips` of the clips that have an error."""
    order = worst_first(scored)
    wrong = order[(scored.normal.errors + scored.written.errors)[order] > 0]
    shown = wrong[:most_clips].tolist()
    write_page(
        out / REPORT,
        TEMPLATE,
        result=result,
        decoding=decoding(result["settings"]),
        lacks=lacks(result["settings"]),
        language=shards.manifest["language"],
        recordings=recordings,
        pictures=_pictures(result),
        lengths=[
            histogram("Length", "s", np.asarray(scored.clips["seconds"], np.float64), 0.1),
            histogram("Word errors (normalised)", "words", scored.normal.errors.astype(np.float64), 1.0),
        ],
        range_label=range_label,
        short_speaker=short_speaker,
        wrong=len(wrong),
        shown=len(shown),
        cards=clip_cards(scored, shown, shards, rows, recordings) if shown else iter(()),
        settings={name: value for name, value in result["settings"].items() if value not in (None, "", [])},
    )


def _pictures(result: dict[str, Any]) -> list[Any]:
    found = []
    for name, title, unit in (("by_seconds", "length", "s"), ("by_snr_db", "signal-to-noise ratio", "dB")):
        parts = result[name]
        found.append(rate_bars(f"WER by {title}", parts, [range_label(part) for part in parts], unit))
    return found


def range_label(part: dict[str, Any]) -> str:
    """From where to where a part's values are."""
    low, high = part["from"], part["to"]
    if low is None or high is None:
        return f"{low:g} +" if high is None else f"< {high:g}"
    return f"{low:g}–{high:g}".replace("-", "−")
