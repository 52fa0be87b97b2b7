"""The clips of a split to text, by length and one batch ahead of the device.

Decision: clips are decoded by increasing length, so that a batch's rows end together and thinned windows hold little
silence in full; results stand in the order asked for. While the device works on a batch the host reads the next: a
decoder's call returns before its work is done. Transcripts that are not believed (`fallback`) are decoded again
together, after all others, so that those batches are full as well.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from data.log_mel import pad_to_window, restore
from data.records import Record, Shards
from jax_train.decode import BatchDecoder, text_of
from jax_train.fallback import Fallback
from jax_train.greedy import Decoded

AS_THEY_ARE = Fallback()


class Transcript(NamedTuple):
    """What a clip was decoded to, and how sure the model was."""

    reference: str
    """The sentence as written in the corpus."""
    text: str
    """Empty where it was dropped as silence."""
    log_prob: float
    """Mean log-probability of the tokens, the end included."""
    no_speech: float
    """Probability that nobody speaks."""
    temperature: float
    """At which the tokens were drawn; 0: the likeliest."""


def transcribe(
    shards: Shards,
    rows: np.ndarray,
    decoder: BatchDecoder,
    tokenizer: Tokenizer,
    fallback: Fallback = AS_THEY_ARE,
    leave: bool = True,
) -> list[Transcript]:
    """The transcripts of index `rows`, in their order. Shows progress, and may `leave` it there."""
    found: dict[int, Transcript] = {}
    todo = np.argsort(shards.index["frames"][rows], kind="stable")
    for number, temperature in enumerate(fallback.temperatures):
        again = []
        with tqdm(total=len(todo), unit="clip", desc=_name(temperature), leave=leave) as progress:
            for places, records, decoded in _ahead(_decoding(shards, rows, todo, decoder, temperature, number)):
                for place, record, row in zip(places, records, _rows(decoded), strict=False):  # the rest is filling
                    found[place], believed = _judged(record, row, decoder, tokenizer, fallback, temperature)
                    if not believed:
                        again.append(place)
                progress.update(len(places))
        todo = np.asarray(again, np.int64)
        if not again:
            break
    return [found[place] for place in range(len(rows))]


Batch = tuple[np.ndarray, list[Record], Decoded]


def _decoding(
    shards: Shards, rows: np.ndarray, todo: np.ndarray, decoder: BatchDecoder, temperature: float, attempt: int
) -> Iterator[Batch]:
    """Batches of `todo`, places among `rows`, on their way through the device."""
    for first in range(0, len(todo), decoder.batch_size):
        places = todo[first : first + decoder.batch_size]
        records = [shards[rows[place]] for place in places]
        length = decoder.window(max(len(record.log_mel_q) for record in records))
        log_mel_BFM = np.stack([pad_to_window(restore(r.log_mel_q, r.log_mel_max), length) for r in records])
        if temperature:
            seeds = [zlib.crc32(f"{record.id} {attempt}".encode()) for record in records]
            yield places, records, decoder.sample(log_mel_BFM, temperature, np.asarray(seeds, np.uint32))
        else:
            yield places, records, decoder(log_mel_BFM)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each after the next is on its way, so that the device works while the host reads."""
    pending: Batch | None = None
    for batch in batches:
        if pending:
            yield pending
        pending = batch
    if pending:
        yield pending


def _rows(decoded: Decoded) -> Iterator[tuple[np.ndarray, float, float]]:
    """Each row's tokens, mean log-probability and probability of no speech."""
    tokens_BN, log_prob_B, no_speech_B = (np.asarray(values) for values in decoded)
    return zip(tokens_BN, log_prob_B.tolist(), no_speech_B.tolist(), strict=True)


def _judged(
    record: Record,
    row: tuple[np.ndarray, float, float],
    decoder: BatchDecoder,
    tokenizer: Tokenizer,
    fallback: Fallback,
    temperature: float,
) -> tuple[Transcript, bool]:
    """A record's transcript, and whether no further temperature is to be tried."""
    tokens_N, log_prob, no_speech = row
    end = decoder.rules.end
    written = tokens_N[: int((tokens_N != end).sum()) + 1].tolist()
    verdict = fallback.verdict(written, log_prob, no_speech, decoder.config.vocab_size)
    text = "" if verdict == "silence" else text_of(tokens_N, tokenizer, end)
    return Transcript(record.text, text, log_prob, no_speech, temperature), verdict != "again"


def _name(temperature: float) -> str:
    return f"decode at temperature {temperature:g}" if temperature else "decode"
