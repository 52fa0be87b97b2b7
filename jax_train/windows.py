"""Which clips share a 30 s window, and what the decoder is taught to write for it. Pure: arrays in, arrays out.

Clips lie end to end on the frame grid, each starting on an even frame, so that its boundary is exactly a Whisper
timestamp (20 ms = 2 frames). A Common Voice clip averages 5.4 s: alone it leaves 82 % of its window silent.

F mel frames (3000 in a window), M mel bins, L label tokens, N rows of the index.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8
from tokenizers import Tokenizer

from data.errors import UserError
from data.log_mel import N_FRAMES
from data.records import Record

IGNORE = -100  # a label the loss leaves out, as in PyTorch and Hugging Face
MAX_TOKENS = 448  # decoder positions
MAX_PREVIOUS_TOKENS = MAX_TOKENS // 2 - 1  # of the text before; Whisper's own limit when it decodes
FRAMES_PER_TIMESTAMP = 2  # timestamp tokens are 20 ms apart
TOKENS_AROUND_CLIP = 2  # its two timestamps
TOKENS_AROUND_WINDOW = 3  # language, task, end of text
ENGLISH_END = 50_256  # <|endoftext|> of the models that know English alone; the others' is one further
OPEN_WINDOWS = 1024  # more than this fill the last per mille of a window, no more


class Window(NamedTuple):
    """One training window, or a batch of them along a new first axis. NumPy on the host, JAX on the devices."""

    log_mel_q_FM: UInt8[Any, "*B F M"]
    """The clips' log-mel in 8 bits, end to end; restored on the device, so that a quarter of the bytes travel."""
    log_mel_max_F: Float32[Any, "*B F"]
    """The maximum of the clip each frame belongs to; −inf where there is none."""
    tokens_L: Int32[Any, "*B L"]
    """What the decoder reads."""
    labels_L: Int32[Any, "*B L"]
    """What it shall write: the same, one to the left; IGNORE past the end."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The special tokens around a transcript."""

    previous: int
    """<|startofprev|>, before the text that came before."""
    start: int
    language: int
    transcribe: int
    no_timestamps: int
    end: int
    english_only: bool = False
    """A model of English alone is told neither language nor task, though its tokenizer has words for them."""

    @property
    def first_timestamp(self) -> int:
        """The id of <|0.00|>."""
        return self.no_timestamps + 1

    @classmethod
    def of(cls, tokenizer: Tokenizer, language: str) -> "Prompt":
        """The special tokens of a Whisper tokenizer for `language`, "it" for Italian."""
        names = {
            "previous": "<|startofprev|>",
            "start": "<|startoftranscript|>",
            "language": f"<|{language}|>",
            "transcribe": "<|transcribe|>",
            "no_timestamps": "<|notimestamps|>",
            "end": "<|endoftext|>",
        }
        found = {field: tokenizer.token_to_id(name) for field, name in names.items()}
        unknown = [names[field] for field, number in found.items() if number is None]
        if unknown:
            raise UserError(
                f"language {language!r}: the tokenizer has no {', '.join(unknown)}; take a multilingual model, and its "
                "name of the language: it, en, de, …"
            )
        known = {field: number for field, number in found.items() if number is not None}
        if (english_only := known["end"] == ENGLISH_END) and language != "en":
            raise UserError(f"language {language!r}: the model knows English alone; use a multilingual one")
        return cls(**known, english_only=english_only)

    def ids(self, timestamps: bool = False) -> tuple[int, ...]:
        """What a transcript starts with."""
        task = () if self.english_only else (self.language, self.transcribe)
        return self.start, *task, *(() if timestamps else (self.no_timestamps,))


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The windows of one epoch in their order."""

    rows: list[Int[np.ndarray, "clips"]]
    """For each window, the index rows of its clips, in order."""
    timestamps: Bool[np.ndarray, "windows"]
    """Whether a window's labels carry timestamps."""
    prompted: Bool[np.ndarray, "windows"]
    """Whether the decoder first reads the text of the window before."""

    def __len__(self) -> int:
        return len(self.rows)

    def previous(self, window: int) -> Int[np.ndarray, "clips"]:
        """Index rows of the clips whose text the decoder reads before `window`'s; none for most."""
        return self.rows[window - 1] if self.prompted[window] else np.zeros(0, np.int64)


def slot_frames(frames: Int[np.ndarray, "*N"]) -> Int[np.ndarray, "*N"]:
    """Frames a clip takes in a window: whole timestamps. A 30 s clip's last frame falls off, as in Whisper's own."""
    whole = -(-frames // FRAMES_PER_TIMESTAMP) * FRAMES_PER_TIMESTAMP
    return np.minimum(whole, N_FRAMES)


def plan_epoch(
    index: dict[str, np.ndarray],
    *,
    seed: int,
    epoch: int,
    windows: Literal["packed", "padded"],
    timestamps: float = 0.0,
    single: float = 0.0,
    prompts: float = 0.0,
    max_tokens: int = MAX_TOKENS,
) -> EpochPlan:
    """Every clip once, as one of its copies: a function of (index, seed, epoch) and the options alone.

    `packed` fills windows best-fit until 30 s or `max_tokens` are full; a share `single` of the windows keeps a clip to
    itself, a share `timestamps` is taught timestamps, and a share `prompts` is prompted with the text of the window
    before it. `padded` is one clip a window, without timestamps and prompts.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(_one_copy_each(index, rng))
    if windows == "padded":
        none = np.zeros(len(rows), bool)
        return EpochPlan([rows[i : i + 1] for i in range(len(rows))], none, none)
    frames = slot_frames(index["frames"][rows])
    windows_needed = int(frames.sum()) / N_FRAMES
    n_alone = len(rows) if single == 1.0 else min(len(rows), round(windows_needed * single / (1.0 - single)))
    alone = np.arange(len(rows)) < n_alone
    tokens = index["tokens"][rows].astype(np.int64) + TOKENS_AROUND_CLIP
    packed = _best_fit(frames[~alone], tokens[~alone], max_tokens - TOKENS_AROUND_WINDOW)
    together = rows[~alone]
    all_windows = [together[members] for members in packed] + [rows[[i]] for i in np.flatnonzero(alone)]
    order = rng.permutation(len(all_windows))
    with_timestamps = rng.random(len(order)) < timestamps
    prompted = rng.random(len(order)) < prompts
    prompted[:1] = False  # nothing came before
    return EpochPlan([all_windows[i] for i in order], with_timestamps, prompted)


def label_length(plan: EpochPlan, index: dict[str, np.ndarray], multiple: int = 32) -> int:
    """Label tokens that hold every window of `plan`, rounded up: one shape, hence one compilation, for a whole run."""
    text = index["tokens"].astype(np.int64)
    needed = int(text.max()) + TOKENS_AROUND_CLIP
    before = 0  # text tokens of the window before
    for rows, prompted in zip(plan.rows, plan.prompted.tolist(), strict=True):
        own = int(text[rows].sum())
        prompt = 1 + min(before, MAX_PREVIOUS_TOKENS) if prompted else 0
        needed = max(needed, own + TOKENS_AROUND_CLIP * len(rows) + prompt)
        before = own
    return min(MAX_TOKENS, -(-(needed + TOKENS_AROUND_WINDOW) // multiple) * multiple)


def assemble(
    records: list[Record],
    with_timestamps: bool,
    prompt: Prompt,
    n_mels: int,
    length: int,
    previous: Sequence[Record] = (),
) -> Window:
    """The window that holds `records` in order; none at all makes an empty window that teaches nothing.

    The decoder first reads the end of the text of `previous`, where there is any: as much as `length` leaves room for,
    and no more than Whisper's own limit. The loss leaves it out.
    """
    log_mel_q_FM = np.zeros((N_FRAMES, n_mels), np.uint8)
    log_mel_max_F = np.full(N_FRAMES, -np.inf, np.float32)
    written: list[int] = []
    first = 0
    for record in records:
        frames = min(len(record.log_mel_q), N_FRAMES - first)
        log_mel_q_FM[first : first + frames] = record.log_mel_q[:frames]
        log_mel_max_F[first : first + frames] = record.log_mel_max
        last = first + int(slot_frames(np.asarray(len(record.log_mel_q))))
        tokens = list(record.tokens)
        if with_timestamps:
            stamps = [prompt.first_timestamp + frame // FRAMES_PER_TIMESTAMP for frame in (first, last)]
            tokens = [stamps[0], *tokens, stamps[1]]
        written += tokens
        first = last
    taught = [*prompt.ids(with_timestamps), *written, prompt.end] if records else [prompt.end]
    before = [token for record in previous for token in record.tokens]
    return Window(log_mel_q_FM, log_mel_max_F, *_labels(before, taught, prompt, length))


def _labels(
    before: list[int], taught: list[int], prompt: Prompt, length: int
) -> tuple[Int32[np.ndarray, "L"], Int32[np.ndarray, "L"]]:
    """What the decoder reads and shall write: `taught`, behind as much of the end of `before` as fits."""
    if len(taught) - 1 > length:
        raise UserError(f"a window of {len(taught) - 1} label tokens; this run's windows hold {length}")
    room = min(MAX_PREVIOUS_TOKENS, length - (len(taught) - 1) - 1)  # one more for <|startofprev|>
    kept = before[-room:] if room > 0 else []
    masked = [prompt.previous, *kept] if kept else []
    end = len(masked) + len(taught) - 1
    tokens_L = np.full(length, prompt.end, np.int32)
    labels_L = np.full(length, IGNORE, np.int32)
    tokens_L[:end] = masked + taught[:-1]
    labels_L[len(masked) : end] = taught[1:]
    return tokens_L, labels_L


def _one_copy_each(index: dict[str, np.ndarray], rng: np.random.Generator) -> Int[np.ndarray, "clips"]:
    """For each clip id one of its rows, drawn evenly."""
    _, clip_N, copies = np.unique(index["id"].astype(str), return_inverse=True, return_counts=True)
    rows_by_clip = np.lexsort((index["copy"], clip_N))
    starts = np.cumsum(copies) - copies
    return rows_by_clip[starts + (rng.random(len(copies)) * copies).astype(np.int64)]


def _best_fit(frames: np.ndarray, tokens: np.ndarray, max_tokens: int) -> list[list[int]]:
    """Windows as lists of positions: each clip goes where it leaves the least room (best-fit, online)."""
    windows: list[list[int]] = []
    tokens_left: list[int] = []
    room: list[tuple[int, int]] = []  # (frames left, window), sorted
    for clip, (need, words) in enumerate(zip(frames.tolist(), tokens.tolist(), strict=True)):
        place = bisect.bisect_left(room, (need, -1))
        while place < len(room) and tokens_left[room[place][1]] < words:
            place += 1
        if place < len(room):
            left, window = room.pop(place)
        else:
            left, window = N_FRAMES, len(windows)
            windows.append([])
            tokens_left.append(max_tokens)
        windows[window].append(clip)
        tokens_left[window] -= words
        bisect.insort(room, (left - need, window))
        if len(room) > OPEN_WINDOWS:
            room.pop(0)
    return windows
