"""The clips of a split to text, by length and one batch ahead of the device.

Decision: clips are decoded by increasing length, so that a batch's rows end together and thinned windows hold little
silence in full; results stand in the order asked for. While the device works on a batch the host reads the next: a
decoder's call returns before its work is done. Transcripts that are not believed (`fallback`) are decoded again
together, after all others, so that those batches are full as well. What is `kept` of an earlier start is not decoded
again; it is whole batches, so that the others hold the same clips as if there had been but one start.
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
from jax_train.scores_folder import Heard, Kept

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
    kept: Kept | None = None,
) -> list[Transcript]:
    """The transcripts of index `rows`, in their order. Shows progress, and may `leave` it there."""
    found: dict[int, Transcript] = {}
    todo = np.argsort(shards.index["frames"][rows], kind="stable")
    for number, temperature in enumerate(fallback.temperatures):
        heard = dict(kept.attempts[number]) if kept else {}
        found |= {place: _transcript(shards[rows[place]], attempt, temperature) for place, attempt in heard.items()}
        rest = np.asarray([place for place in todo if place not in heard], np.int64)
        with tqdm(total=len(todo), initial=len(heard), unit="clip", desc=_name(temperature), leave=leave) as progress:
            for places, records, decoded in _ahead(_decoding(shards, rows, rest, decoder, temperature, number)):
                batch = {
                    int(place): _judged(row, decoder, tokenizer, fallback)
                    for place, row in zip(places, _rows(decoded), strict=False)  # the rest is filling
                }
                if kept:
                    kept.add(number, batch)
                heard |= batch
                for record, place in zip(records, batch, strict=True):
                    found[place] = _transcript(record, batch[place], temperature)
                progress.update(len(places))
        todo = np.asarray([place for place in todo if not heard[place].believed], np.int64)
        if not len(todo):
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
    row: tuple[np.ndarray, float, float], decoder: BatchDecoder, tokenizer: Tokenizer, fallback: Fallback
) -> Heard:
    """A row's text, and whether it is believed."""
    tokens_N, log_prob, no_speech = row
    end = decoder.rules.end
    written = tokens_N[: int((tokens_N != end).sum()) + 1].tolist()
    verdict = fallback.verdict(written, log_prob, no_speech, decoder.config.vocab_size)
    text = "" if verdict == "silence" else text_of(tokens_N, tokenizer, end)
    return Heard(text, log_prob, no_speech, verdict != "again")


def _transcript(record: Record, heard: Heard, temperature: float) -> Transcript:
    return Transcript(record.text, heard.text, heard.log_prob, heard.no_speech, temperature)


def _name(temperature: float) -> str:
    return f"decode at temperature {temperature:g}" if temperature else "decode"
