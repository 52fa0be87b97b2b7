"""Windows of speech to tokens in batches: one compiled program per window length, over all devices.

Decision: everything from the windows to the tokens is one program, compiled before the first batch, so a batch is one
call that returns before the device has worked. Each device runs its own loop on its own rows (`shard_map`), so none
waits for another. Token for token what Hugging Face generates in float32, in whole windows: of those whose first frames
alone are given the silent rest is thinned (`thinned`).

B batch, M mel bins, F mel frames (3000 in 30 s), N new tokens.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int, UInt32
from tokenizers import Tokenizer

from data.errors import UserError
from jax_train.beam_search import beam_search
from jax_train.decoding_rules import DecodingRules
from jax_train.greedy import Decoded, Sampling, greedy
from jax_train.model import Whisper
from jax_train.thinned import sent


class BatchDecoder:
    """Decodes windows in batches of `batch_size`, spread evenly over `devices` (all, if not given).

    Windows are given whole, or their first frames, as many as one of `frames`: then `thinned`. With `num_beams` more
    than 1 the search is Hugging Face's beam search. With a model that computes in bfloat16 the weights are kept in it
    too: a token's time is that of reading them.
    """

    def __init__(
        self,
        model: Whisper,
        rules: DecodingRules,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
        frames: Sequence[int] = (),
        num_beams: int = 1,
    ) -> None:
        devices = list(devices or jax.local_devices())
        if batch_size < 1 or batch_size % len(devices):
            raise UserError(f"--batch-size {batch_size}: takes a multiple of the {len(devices)} devices here")
        if num_beams < 1:
            raise UserError(f"--num-beams {num_beams}: at least 1")
        self.batch_size, self.rules, self.config = batch_size, rules, model.config
        self._dtype = model.encoder.dtype
        self._whole = 2 * model.config.max_source_positions
        self.frames = tuple(sorted(frames)) or (self._whole,)
        self._mesh = Mesh(np.asarray(devices), ("data",))
        self._rows = NamedSharding(self._mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(self._mesh, PartitionSpec())
        self._graph = nnx.split(model)[0]
        self._sampled: dict[int, Callable[..., Decoded]] = {}
        self.take(model)
        search = functools.partial(beam_search, num_beams=num_beams) if num_beams > 1 else greedy
        self.compile_seconds = 0.0
        self._programs = {
            length: self._compiled(functools.partial(search, rules=rules), length) for length in self.frames
        }

    def take(self, model: Whisper) -> None:
        """Decode with the weights of `model`, of the same architecture, from now on."""
        state = jax.tree.map(lambda value: value.astype(model.encoder.dtype), nnx.split(model)[1])
        self.state = jax.device_put(state, self._everywhere)

    def window(self, n_frames: int) -> int:
        """Frames to give of a window whose speech is `n_frames` long."""
        return sent(n_frames, self.frames, self._whole)

    def __call__(self, log_mel_BFM: Float32[np.ndarray, "B F M"]) -> Decoded:
        """What the rows say, on its way: reading it waits. At most `batch_size` rows, of one of `frames`.

        Fewer rows are completed with copies of the last, which end when it does; what they say is to be ignored.
        """
        return self._programs[self._checked(log_mel_BFM)](self.state, self._put(log_mel_BFM))

    def sample(
        self, log_mel_BFM: Float32[np.ndarray, "B F M"], temperature: float, seed_B: UInt32[np.ndarray, "B"]
    ) -> Decoded:
        """The same with tokens drawn at a `temperature` above 0, by each row's seed; compiled when first asked for."""
        length = self._checked(log_mel_BFM)
        if length not in self._sampled:
            temperature_shape = jax.ShapeDtypeStruct((), jnp.float32, sharding=self._everywhere)
            seeds_shape = jax.ShapeDtypeStruct((self.batch_size,), jnp.uint32, sharding=self._rows)
            self._sampled[length] = self._compiled(
                lambda model, log_mel_BFM, *draw: greedy(model, log_mel_BFM, self.rules, Sampling(*draw)),
                length,
                temperature_shape,
                seeds_shape,
            )
        heat = jax.device_put(np.float32(temperature), self._everywhere)
        return self._sampled[length](self.state, self._put(log_mel_BFM), heat, self._put(seed_B))

    def _compiled(
        self, search: Callable[..., Decoded], length: int, *others: jax.ShapeDtypeStruct
    ) -> Callable[..., Decoded]:
        program = on_rows(search, self._graph, self._mesh, *(shape.sharding.spec for shape in others))
        shape = (self.batch_size, length, self.config.num_mel_bins)
        started = time.perf_counter()
        windows = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self._rows)
        # TPUs and GPUs multiply float32 in fewer bits unless told otherwise; who asks for float32 is told its score.
        with jax.default_matmul_precision("highest" if self._dtype == jnp.float32 else None):
            compiled: Callable[..., Decoded] = program.lower(self.state, windows, *others).compile()
        self.compile_seconds += time.perf_counter() - started
        return compiled

    def _checked(self, log_mel_BFM: np.ndarray) -> int:
        rows, length, n_mels = log_mel_BFM.shape
        if not 1 <= rows <= self.batch_size or length not in self.frames or n_mels != self.config.num_mel_bins:
            expected = f"1 to {self.batch_size} of {self.frames} frames and {self.config.num_mel_bins} mel bins"
            raise ValueError(f"windows {log_mel_BFM.shape}, expected {expected}")
        return length

    def _put(self, array_B: np.ndarray) -> jax.Array:
        return jax.device_put(array_B[np.minimum(np.arange(self.batch_size), len(array_B) - 1)], self._rows)


def on_rows(search: Callable[..., Decoded], graph: Any, mesh: Mesh, *others: PartitionSpec) -> Any:
    """The jitted search, each device of `mesh` on its own rows, of a model's state, windows and others that lie so."""
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            lambda state, *inputs: search(nnx.merge(graph, state), *inputs),
            mesh=mesh,
            in_specs=(everywhere, rows, *others),
            out_specs=rows,
            check_vma=False,  # the token loop starts from constants, which are the same on every device
        )
    )


def text_of(tokens_N: Int[np.ndarray, "N"], tokenizer: Tokenizer, end: int) -> str:
    """The transcript in `tokens_N`: without special and timestamp tokens, all of which come from `end` on."""
    return tokenizer.decode([token for token in tokens_N.tolist() if token < end]).strip()
