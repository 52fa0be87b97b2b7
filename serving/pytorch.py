"""Whisper by PyTorch: weights and layers are transformers', the order in which they run is ours.

Decisions; the words they cost are counted by `benchmarks/serve_rounding.py`, the time by `benchmarks/serve.py`:

- Of the silence that fills a window up to 30 s every `STRIDE`-th encoder position is kept, with its own positional
  embedding, and counts `STRIDE` times in every attention: log STRIDE is added to its score. The model still sees a
  window that is silent to its end (cut short, it goes on to invent words), at a quarter of the work for a clip of 4 s,
  and with as many errors: WER 14.6 for 14.6 on the 83 clips of sample/it's test, base.
- The decoder is a plain loop over a key/value cache, greedy, on as many windows at once as there are: `generate` spends
  a third of a CPU's time around the model. Once half of its rows have ended a batch goes on without them.
- Someone who cancels is heard between two layers of the encoder and between two tokens.

float16 on a CUDA device (as OpenAI published it), float32 on the CPU but for the products that `products.py` says.

B batch, M mel bins, F mel frames (3000 in 30 s), S encoder positions (1500, or fewer), L tokens, D d_model, H heads,
K head size, V vocabulary.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import gelu

from serving.alignment import token_times
from serving.cores import SET_BY_HAND, cores
from serving.decoder import Cache, DecoderLayer, Heard, together
from serving.errors import StoppedError
from serving.model import load_model
from serving.model_folder import GENERATION, TOKENIZER
from serving.products import has_bfloat16, has_eight_bits, product, to_bfloat16
from serving.rules import Rules
from serving.signals import Decoded
from serving.vocabulary import Vocabulary

FRAMES, POSITIONS = 3000, 1500  # of a window: 10 ms and 20 ms each
STRIDE = 8
MARGIN = 50  # positions of silence that are all kept after a clip's end: 1 s
CACHE_BYTES = 512e6  # of cross-attention keys and values, which bounds the windows decoded at once


class PyTorchWhisper:
    """A Whisper folder on PyTorch. Not for two threads at once."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        if SET_BY_HAND not in os.environ:
            torch.set_num_threads(min(torch.get_num_threads(), cores()))
        model = load_model(folder, self.dtype, needs=(TOKENIZER, GENERATION)).to(self.device)
        self.config, self.encoder, self.decoder = model.config, model.model.encoder, model.model.decoder
        self.vocabulary = vocabulary
        self.heard_dtype = self.dtype
        """Of the encoder's products, and of what the decoder looks at."""
        if has_bfloat16(self.device):
            to_bfloat16(self.encoder, self.decoder)
            self.heard_dtype = torch.bfloat16
        eight_bits = has_eight_bits(self.device)
        self.layers = [DecoderLayer(layer, eight_bits) for layer in self.decoder.layers]
        self.scores = product(model.proj_out.weight, None, eight_bits)  # the embedding's, unless the folder unties them
        self.mel_bins: int = self.config.num_mel_bins
        bytes_a_window = 2 * len(self.layers) * POSITIONS * self.config.d_model * self.heard_dtype.itemsize
        self.batch_size = int(max(1, min(8, CACHE_BYTES // bytes_a_window)))

    @torch.inference_mode()
    def hear(self, log_mel_BMF: Tensor, samples: list[int], stopped: Callable[[], bool]) -> Heard:
        """What the decoder needs of windows of so many samples each."""
        heard = [
            self._hear(log_mel_MF[None].to(self.device, self.dtype), count, stopped)
            for log_mel_MF, count in zip(log_mel_BMF, samples, strict=True)
        ]
        return together(heard)

    def _hear(self, log_mel_1MF: Tensor, samples: int, stopped: Callable[[], bool]) -> Heard:
        positions_S, bias_S, sounding = kept_positions(samples)
        positions_S = positions_S.to(self.device)
        hidden_1DS = gelu(self.encoder.conv1(log_mel_1MF))
        hidden_1DS = gelu(self.encoder.conv2(hidden_1DS))
        hidden_1SD = hidden_1DS.transpose(1, 2)[:, positions_S] + self.encoder.embed_positions(positions_S)
        bias_11SS = bias_111S = None
        if bias_S is not None:
            bias_111S = bias_S.to(self.device, self.heard_dtype)[None, None, None]
            bias_11SS = bias_111S.expand(1, 1, positions_S.numel(), -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.heard_dtype == torch.bfloat16):
            for layer in self.encoder.layers:
                if stopped():
                    raise StoppedError
                hidden_1SD = layer(hidden_1SD, bias_11SS)
            hidden_1SD = self.encoder.layer_norm(hidden_1SD)
            pairs = [layer.cross_keys_values(hidden_1SD) for layer in self.layers]
        return Heard([key for key, _ in pairs], [value for _, value in pairs], bias_111S, [sounding])

    @torch.inference_mode()
    def language(self, heard: Heard) -> str:
        """The likeliest language of the first window."""
        start_11 = torch.tensor([[self.vocabulary.start]], device=self.device)
        first = heard.rows(torch.tensor([0], device=self.device))
        logits_V = self._logits(start_11, self._cache(1), first)[0]
        return max(self.vocabulary.languages, key=lambda code: float(logits_V[self.vocabulary.languages[code]]))

    @torch.inference_mode()
    def write(
        self,
        heard: Heard,
        rows: list[int],
        prompt: list[int],
        temperature: float,
        stopped: Callable[[], bool],
        signals: bool = False,
    ) -> list[Decoded]:
        """The tokens of those windows, without prompt and end; sampled where `temperature` is not 0.

        With `signals` also how likely each was, and that nobody speaks.
        """
        if len(rows) < len(heard.sounding):
            heard = heard.rows(torch.tensor(rows, device=self.device))
        rules = Rules(self.vocabulary, prompt, self.config.vocab_size, self.device)
        random = torch.Generator(self.device).manual_seed(0)  # the same recording gives the same text
        cache = self._cache(len(rows))
        written: list[list[int]] = [[] for _ in rows]
        likely: list[list[float]] = [[] for _ in rows]
        no_speech = self._no_speech(heard) if signals else [math.nan] * len(rows)
        batch, ended = list(range(len(rows))), set[int]()
        tokens_BL = torch.tensor([prompt] * len(rows), device=self.device)
        for _ in range(self.config.max_target_positions - len(prompt)):
            if stopped():
                raise StoppedError
            logits_BV = rules(self._logits(tokens_BL, cache, heard), [written[row] for row in batch])
            tokens_B = _choose(logits_BV, temperature, random)
            if signals:
                chosen_B = logits_BV.log_softmax(-1).gather(1, tokens_B[:, None])[:, 0]
                for row, log_probability in zip(batch, chosen_B.tolist(), strict=True):
                    if row not in ended:
                        likely[row].append(log_probability)
            for row, token in zip(batch, tokens_B.tolist(), strict=True):
                if token == self.vocabulary.end:
                    ended.add(row)
                elif row not in ended:
                    written[row].append(token)
            going = [i for i, row in enumerate(batch) if row not in ended]
            if not going:
                break
            if len(going) <= len(batch) // 2:  # rows that have ended cost as much as others; leaving costs a copy
                keep = torch.tensor(going, device=self.device)
                heard, tokens_B, batch = heard.rows(keep), tokens_B[keep], [batch[i] for i in going]
                cache.keep(keep)
            tokens_BL = tokens_B[:, None]
        return [Decoded(*found) for found in zip(written, map(tuple, likely), no_speech, strict=True)]

    @torch.inference_mode()
    def times(self, heard: Heard, row: int, prompt: list[int], tokens: list[int]) -> list[float]:
        """Seconds in the window at which each of `tokens` begins, and at which the last ends."""
        heard = heard.rows(torch.tensor([row], device=self.device))
        room = self.config.max_target_positions  # the last tokens of a full transcript have the time of its end
        given = torch.tensor([[*prompt, *tokens, self.vocabulary.end][:room]], device=self.device)
        cache = self._cache(1)
        cache.watched = self.vocabulary.alignment_heads
        self._logits(given, cache, heard)
        weights_HLS = torch.stack([weight_LS.float() for weight_LS in cache.seen])
        times = token_times(weights_HLS[:, len(prompt) - 1 : -1, : heard.sounding[0]].cpu().numpy())
        return times + times[-1:] * (len(tokens) + 1 - len(times))

    def _no_speech(self, heard: Heard) -> list[float]:
        """For each window the share that the model gives to `<|nospeech|>` where it would name the language."""
        start_B1 = torch.full((len(heard.sounding), 1), self.vocabulary.start, device=self.device)
        scores_BV = self._logits(start_B1, self._cache(len(heard.sounding)), heard)
        found: list[float] = scores_BV.softmax(-1)[:, self.vocabulary.no_speech].tolist()
        return found

    def _logits(self, tokens_BL: Tensor, cache: Cache, heard: Heard) -> Tensor:
        """Scores (B, V) of what follows the tokens; they join the cache."""
        length = tokens_BL.shape[1]
        positions_L = torch.arange(cache.length, cache.length + length, device=self.device)
        hidden_BLD = self.decoder.embed_tokens(tokens_BL) + self.decoder.embed_positions.weight[positions_L]
        for index, layer in enumerate(self.layers):
            hidden_BLD = layer(hidden_BLD, index, cache, heard)
        cache.length += length
        return self.scores(self.decoder.layer_norm(hidden_BLD[:, -1])).float()

    def _cache(self, rows: int) -> Cache:
        return Cache(self.config, rows, like=self.decoder.embed_positions.weight)


def kept_positions(samples: int) -> tuple[Tensor, Tensor | None, int]:
    """Of a window's 1500 positions: which are computed, log of how often each counts, how many hold sound.

    The last of a group of `STRIDE` stands for it, so that the window's last position is there.
    """
    sounding = min(POSITIONS, math.ceil(samples / 320))
    groups = (POSITIONS - min(POSITIONS, sounding + MARGIN)) // STRIDE
    if groups == 0:
        return torch.arange(POSITIONS), None, sounding
    whole = POSITIONS - groups * STRIDE
    tail = torch.arange(whole + STRIDE - 1, POSITIONS, STRIDE)
    return (
        torch.cat([torch.arange(whole), tail]),
        torch.cat([torch.zeros(whole), torch.full((groups,), math.log(STRIDE))]),
        sounding,
    )


def _choose(logits_BV: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    if temperature == 0.0:
        return logits_BV.argmax(-1)
    return torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=random)[:, 0]
