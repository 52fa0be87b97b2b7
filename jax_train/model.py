"""Whisper in Flax NNX. Attribute names are Hugging Face's, so that a parameter's path is its PyTorch name.

B batch, M mel bins, F mel frames (3000 in 30 s), S encoder positions (1500), L tokens (<= 448), D d_model,
H heads, K head size, V vocabulary. Source: arXiv 2212.04356; numerics as transformers' `modeling_whisper.py`.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_train.attention import attend
from jax_train.config import WhisperConfig
from jax_train.dropout import Dropout, added, hidden
from jax_train.layers import Branch, Layers, Remat, Stream
from jax_train.ops import twice

Output = TypeVar("Output", Stream, tuple[Stream, Array])
KeysValues = tuple[Float[Array, "B L H K"], Float[Array, "B L H K"]]


class Buffer(nnx.Variable):
    """An array that belongs to the model and is never trained."""


def sinusoids(length: int, channels: int) -> Float[np.ndarray, "S D"]:
    """The encoder's fixed positions: sines then cosines, timescales from 1 to 10,000."""
    scale = np.log(10_000) / (channels // 2 - 1)
    angles_SC = np.arange(length)[:, None] * np.exp(-scale * np.arange(channels // 2))[None, :]
    return np.concatenate([np.sin(angles_SC), np.cos(angles_SC)], axis=1).astype(np.float32)


class Attention(nnx.Module):
    """Multi-head attention; as in Whisper, the keys' projection has no bias."""

    def __init__(self, d_model: int, heads: int, build: Layers) -> None:
        self.heads = heads
        self.q_proj = build.linear(d_model, d_model)
        self.k_proj = build.linear(d_model, d_model, use_bias=False)
        self.v_proj = build.linear(d_model, d_model)
        self.out_proj = build.linear(d_model, d_model)

    def queries(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L H K"]:
        """Queries by head."""
        return self._split(self.q_proj(x_BLD))

    def keys_values(self, x_BSD: Float[Array, "B S D"]) -> KeysValues:
        """Keys and values by head, as a decoder's cache holds them."""
        return self._split(self.k_proj(x_BSD)), self._split(self.v_proj(x_BSD))

    def output(self, heads_BLHK: Float[Array, "B L H K"]) -> Float[Array, "B L D"]:
        """The heads' results, joined and projected."""
        return self.out_proj(_joined(heads_BLHK))

    def to_itself(
        self, x_BLD: Float[Array, "B L D"], is_causal: bool = False, dropout: Dropout | None = None
    ) -> Branch:
        """Attention of `x` to `x`."""
        for_queries_BLD, x_BLD = twice(x_BLD)
        return self(for_queries_BLD, x_BLD, is_causal, dropout)[0]

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        source_BSD: Float[Array, "B S D"],
        is_causal: bool = False,
        dropout: Dropout | None = None,
    ) -> tuple[Branch, Float[Array, "B S D"]]:
        """Attention of `x` to `source`, and `source` for those who read it later (see `ops.twice`)."""
        for_keys_BSD, source_BSD = twice(source_BSD)
        for_values_BSD, source_BSD = twice(source_BSD)
        queries_BLHK, keys_BSHK = self.queries(x_BLD), self._split(self.k_proj(for_keys_BSD))
        if dropout and dropout.attends:
            values_BSHK = self._split(self.v_proj(for_values_BSD))
            heads_BLHK = dropout.attention(queries_BLHK, keys_BSHK, values_BSHK, is_causal)
            branch = self.out_proj.branch(_joined(heads_BLHK))
        else:  # a position's weights add up to 1, so that the values' bias comes out as it went in
            values_BSHK = self._split(self.v_proj.product(for_values_BSD))
            heads_BLD = _joined(attend(queries_BLHK, keys_BSHK, values_BSHK, is_causal))
            branch = self.out_proj.of_biased(heads_BLD, self.v_proj.bias[...])
        return branch, source_BSD

    def _split(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L H K"]:
        return x_BLD.reshape(*x_BLD.shape[:2], self.heads, -1)


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each after a layer norm and added to the stream."""

    def __init__(self, config: WhisperConfig, build: Layers) -> None:
        self.self_attn = Attention(config.d_model, config.encoder_attention_heads, build)
        self.self_attn_layer_norm = build.norm(config.d_model)
        self.remat = build.remat
        self.fc1 = build.linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = build.linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = build.norm(config.d_model)

    def __call__(self, stream: Stream, dropout: Dropout | None = None) -> Stream:
        """The stream after this layer."""
        x_BSD, normed_BSD = self.self_attn_layer_norm.beside(stream)
        stream = added(x_BSD, self.self_attn.to_itself(normed_BSD, dropout=dropout), dropout)
        return _within_float16(_feed_forward(self, stream, dropout))

    def feed_forward(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """The layer's second half."""
        return _within_float16(_feed_forward(self, Stream(x_BSD), None)).whole()


class DecoderLayer(nnx.Module):
    """Causal self-attention, attention to the encoder, feed-forward."""

    def __init__(self, config: WhisperConfig, build: Layers) -> None:
        self.self_attn = Attention(config.d_model, config.decoder_attention_heads, build)
        self.self_attn_layer_norm = build.norm(config.d_model)
        self.encoder_attn = Attention(config.d_model, config.decoder_attention_heads, build)
        self.encoder_attn_layer_norm = build.norm(config.d_model)
        self.remat = build.remat
        self.fc1 = build.linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = build.linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = build.norm(config.d_model)

    def __call__(
        self, stream: Stream, hidden_BSD: Float[Array, "B S D"], dropout: Dropout | None = None
    ) -> tuple[Stream, Float[Array, "B S D"]]:
        """The stream after this layer, given the encoder's hidden states, and these for the next one."""
        x_BLD, normed_BLD = self.self_attn_layer_norm.beside(stream)
        stream = added(x_BLD, self.self_attn.to_itself(normed_BLD, is_causal=True, dropout=dropout), dropout)
        x_BLD, normed_BLD = self.encoder_attn_layer_norm.beside(stream)
        heard, hidden_BSD = self.encoder_attn(normed_BLD, hidden_BSD, dropout=dropout)
        return _feed_forward(self, added(x_BLD, heard, dropout), dropout), hidden_BSD

    def feed_forward(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The layer's last third."""
        return _feed_forward(self, Stream(x_BLD), None).whole()


class SinusoidPositions(nnx.Module):
    """The encoder's positions: in the model's file, but never trained."""

    def __init__(self, config: WhisperConfig) -> None:
        self.embedding = Buffer(jnp.asarray(sinusoids(config.max_source_positions, config.d_model)))


class Encoder(nnx.Module):
    """Log-mel frames to hidden states, one per 20 ms."""

    def __init__(self, config: WhisperConfig, build: Layers) -> None:
        self.dtype, self.remat = build.dtype, build.remat
        self.conv1 = build.conv(config.num_mel_bins, config.d_model, stride=1)
        self.conv2 = build.conv(config.d_model, config.d_model, stride=2)
        self.embed_positions = SinusoidPositions(config)
        self.layers = nnx.List([EncoderLayer(config, build) for _ in range(config.encoder_layers)])
        self.layer_norm = build.norm(config.d_model)

    def __call__(self, log_mel_BFM: Float[Array, "B F M"], dropout: Dropout | None = None) -> Float[Array, "B S D"]:
        """Hidden states of log-mel windows; F is at most 3000, S is F / 2."""
        x_BSD = self.convolved(log_mel_BFM)
        positions_SD = self.embed_positions.embedding[...]
        stream = Stream(hidden(x_BSD + positions_SD[None, : x_BSD.shape[1]].astype(self.dtype), dropout))
        for layer in self.layers:
            stream = _run(self.remat == "layers", functools.partial(layer, dropout=dropout), stream)
        return self.layer_norm.beside(stream)[1]

    def convolved(self, log_mel_BFM: Float[Array, "B F M"]) -> Float[Array, "B S D"]:
        """What the layers start from, before positions are added."""
        return self.conv2.gelu(self.conv1.gelu(log_mel_BFM))


class Decoder(nnx.Module):
    """Tokens and the encoder's hidden states to the decoder's hidden states."""

    def __init__(self, config: WhisperConfig, build: Layers) -> None:
        self.remat = build.remat
        self.embed_tokens = build.embed(config.vocab_size, config.d_model)
        self.embed_positions = build.embed(config.max_target_positions, config.d_model)
        self.layers = nnx.List([DecoderLayer(config, build) for _ in range(config.decoder_layers)])
        self.layer_norm = build.norm(config.d_model)

    def embed(self, tokens_BL: Int[Array, "B L"], first: int | Int[Array, ""] = 0) -> Float[Array, "B L D"]:
        """Token plus position embeddings; the first token stands at position `first`."""
        return self.embed_tokens(tokens_BL) + self.embed_positions(first + jnp.arange(tokens_BL.shape[1]))[None]

    def __call__(
        self, tokens_BL: Int[Array, "B L"], hidden_BSD: Float[Array, "B S D"], dropout: Dropout | None = None
    ) -> Float[Array, "B L D"]:
        """The decoder's hidden states before the vocabulary, each seeing only the tokens up to its own."""
        stream = Stream(hidden(self.embed(tokens_BL), dropout))
        for layer in self.layers:
            run = functools.partial(layer, dropout=dropout)
            stream, hidden_BSD = _run(self.remat == "layers", run, stream, hidden_BSD)
        return self.layer_norm.beside(stream)[1]

    def logits(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Float32 scores over the vocabulary: the token embedding is the output matrix too."""
        return self.embed_tokens.attend(x_BLD).astype(jnp.float32)


class Whisper(nnx.Module):
    """Whisper with random weights, or without `rngs` with shapes in their place, for `weights.load_model` to fill.

    Activations are computed in `dtype`, parameters are float32. What `remat` names is not kept for the backward pass
    but computed again in it.
    """

    def __init__(
        self,
        config: WhisperConfig,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
        remat: Remat = "none",
    ) -> None:
        self.config = config
        build = Layers(dtype, rngs, remat)
        self.encoder = Encoder(config, build)
        self.decoder = Decoder(config, build)

    def __call__(
        self, log_mel_BFM: Float[Array, "B F M"], tokens_BL: Int[Array, "B L"], dropout: Dropout | None = None
    ) -> Float[Array, "B L V"]:
        """Float32 logits of the token after each of `tokens_BL`; with `dropout` in training alone."""
        return self.decoder.logits(self.decoder(tokens_BL, self.encoder(log_mel_BFM, dropout), dropout))


def _run(again: bool, part: Callable[..., Output], stream: Stream, *inputs: Array) -> Output:
    """What a part makes of the stream. One that is computed again is given a single array of it, as it is kept."""
    if not again:
        return part(stream, *inputs)
    output: Output = jax.checkpoint(lambda x, *inputs: part(Stream(x), *inputs))(stream.whole(), *inputs)
    return output


def _joined(heads_BLHK: Float[Array, "B L H K"]) -> Float[Array, "B L D"]:
    return heads_BLHK.reshape(*heads_BLHK.shape[:2], -1)


def _feed_forward(layer: EncoderLayer | DecoderLayer, stream: Stream, dropout: Dropout | None) -> Stream:
    def part(stream: Stream) -> Stream:
        x, normed = layer.final_layer_norm.beside(stream)
        inner = layer.fc1.gelu(normed)
        return added(x, layer.fc2.branch(dropout.activation(inner) if dropout else inner), dropout)

    return _run(layer.remat == "feed_forward", part, stream)


def _within_float16(stream: Stream) -> Stream:
    """As Hugging Face's encoder: large models' streams outgrow float16; other types are left alone."""
    if stream.x.dtype != jnp.float16:
        return stream
    most = float(jnp.finfo(jnp.float16).max) - 1000
    return Stream(jnp.clip(stream.whole(), -most, most))


Params = dict[str, Array]
"""Arrays by dotted path, for example `encoder.layers.0.fc1.kernel`."""


def functional(model: Whisper) -> tuple[Params, Params, Callable[[Params, Params], Whisper]]:
    """A model's trainable parameters, its buffers, and what builds the model again from such two.

    What builds it holds no array of the model, so that a training step can consume them. To compile a model, compile
    this: `jax.jit(model)` would take all the weights for constants of the program, which is slow to compile.
    """
    definition, *states = nnx.split(model, nnx.Param, Buffer)
    params, buffers = (
        {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}
        for state in states
    )
    shapes = [jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), state) for state in states]

    def build(new_params: Params, new_buffers: Params) -> Whisper:
        filled = [
            nnx.from_flat_state(
                {path: var.replace(values[".".join(map(str, path))]) for path, var in nnx.to_flat_state(state)}
            )
            for state, values in zip(shapes, (new_params, new_buffers), strict=True)
        ]
        return nnx.merge(definition, *filled)

    return params, buffers, build


def jitted(model: Whisper) -> Callable[[Array, Array], Array]:
    """The model's forward pass, compiled: float32 logits (B, L, V) of log-mel windows (B, F, M) and tokens (B, L)."""
    params, buffers, build = functional(model)
    forward = jax.jit(lambda params, buffers, log_mel_BFM, tokens_BL: build(params, buffers)(log_mel_BFM, tokens_BL))
    return lambda log_mel_BFM, tokens_BL: forward(params, buffers, log_mel_BFM, tokens_BL)
