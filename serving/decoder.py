"""The decoder's layers and what they look at: the windows' keys and values, and those of the tokens so far.

B batch, S encoder positions (1500, or fewer), L tokens, D d_model, H heads, K head size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from serving.products import product


@dataclass(frozen=True)
class Heard:
    """Windows as the decoder looks at them: keys and values (B, H, S, K) of every layer, and each position's weight."""

    keys: list[Tensor]
    values: list[Tensor]
    bias_B11S: Tensor | None
    """Added to the scores: log of how often a position counts, −∞ where a window has none."""
    sounding: list[int]
    """Positions of each window that are not the silence after its end."""

    def rows(self, rows: Tensor) -> "Heard":
        """Some of the windows."""
        return Heard(
            [key[rows] for key in self.keys],
            [value[rows] for value in self.values],
            None if self.bias_B11S is None else self.bias_B11S[rows],
            [self.sounding[row] for row in rows.tolist()],
        )

    def bias(self) -> Tensor:
        """(B, 1, 1, S), of zeros where every position counts once."""
        key = self.keys[0]
        return key.new_zeros(key.shape[0], 1, 1, key.shape[2]) if self.bias_B11S is None else self.bias_B11S

    def padded(self, length: int) -> "Heard":
        """With positions that count for nothing, up to `length`."""
        more = length - self.keys[0].shape[2]
        if more == 0:
            return self
        return Heard(
            [pad(key, (0, 0, 0, more)) for key in self.keys],
            [pad(value, (0, 0, 0, more)) for value in self.values],
            pad(self.bias(), (0, more), value=-math.inf),
            self.sounding,
        )


def together(heard: list[Heard]) -> Heard:
    """Windows as one batch."""
    longest = max(one.keys[0].shape[2] for one in heard)
    padded = [one.padded(longest) for one in heard]
    plain = all(one.bias_B11S is None for one in padded)
    return Heard(
        [torch.cat(layer) for layer in zip(*(one.keys for one in padded), strict=True)],
        [torch.cat(layer) for layer in zip(*(one.values for one in padded), strict=True)],
        None if plain else torch.cat([one.bias() for one in padded]),
        [row for one in heard for row in one.sounding],
    )


class Cache:
    """Keys and values of the tokens so far, with room for as many as a transcript may have."""

    def __init__(self, config: Any, rows: int, like: Tensor) -> None:
        heads = config.decoder_attention_heads
        shape = (config.decoder_layers, 2, rows, heads, config.max_target_positions, config.d_model // heads)
        self.keys_values = like.new_empty(shape)
        self.length = 0
        self.watched: tuple[tuple[int, int], ...] = ()
        self.seen: list[Tensor] = []
        """Cross-attention (L, S) of the watched heads."""

    def extend(self, layer: int, key_BHLK: Tensor, value_BHLK: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, the new ones at the end."""
        end = self.length + key_BHLK.shape[2]
        keys, values = self.keys_values[layer]
        keys[:, :, self.length : end], values[:, :, self.length : end] = key_BHLK, value_BHLK
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Drop all other windows."""
        self.keys_values = self.keys_values[:, :, rows]


class DecoderLayer:
    """One of transformers' decoder layers, with its three input projections as one product."""

    def __init__(self, layer: Any, eight_bits: bool) -> None:
        own, self.cross, self.layer = layer.self_attn, layer.encoder_attn, layer
        self.heads: int = own.num_heads
        query, key, value = own.q_proj, own.k_proj, own.v_proj
        weight = torch.cat([query.weight * own.scaling, key.weight, value.weight])
        bias = torch.cat([query.bias * own.scaling, torch.zeros_like(query.bias), value.bias])
        self.projections = product(weight, bias, eight_bits)
        query, scale = self.cross.q_proj, self.cross.scaling
        self.query = product(query.weight * scale, query.bias * scale, eight_bits)
        self.out, self.cross_out, self.fc1 = (
            product(one.weight, one.bias, eight_bits) for one in (own.out_proj, self.cross.out_proj, layer.fc1)
        )

    def cross_keys_values(self, hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer looks at of encoded windows."""
        key, value = self.cross.k_proj(hidden_BSD), self.cross.v_proj(hidden_BSD)
        return self._split(key).contiguous(), self._split(value).contiguous()

    def __call__(self, hidden_BLD: Tensor, index: int, cache: Cache, heard: Heard) -> Tensor:
        normed_BLD = self.layer.self_attn_layer_norm(hidden_BLD)
        query, key, value = map(self._split, self.projections(normed_BLD).chunk(3, -1))
        keys, values = cache.extend(index, key, value)
        # The prompt comes first and together: then keys are as many as queries, and the mask is the triangle.
        seen = scaled_dot_product_attention(query, keys, values, is_causal=query.shape[2] > 1, scale=1.0)
        hidden_BLD = hidden_BLD + self.out(_merged(seen))

        query = self._split(self.query(self.layer.encoder_attn_layer_norm(hidden_BLD)))
        keys, values, bias = heard.keys[index], heard.values[index], heard.bias_B11S
        for watched, head in cache.watched:
            if watched == index:
                key_SK = keys[0, head].to(query.dtype)
                cache.seen.append((query[0, head] @ key_SK.T + heard.bias()[0, 0]).softmax(-1))
        if keys.device.type == "cpu" and keys.dtype == torch.float32:  # two plain products of one row are faster
            scores = query @ keys.transpose(-1, -2)
            seen = (scores if bias is None else scores + bias).softmax(-1) @ values
        else:
            mask = None if bias is None else bias.expand(-1, 1, query.shape[2], -1)
            seen = scaled_dot_product_attention(query.to(keys.dtype), keys, values, attn_mask=mask, scale=1.0)
        hidden_BLD = hidden_BLD + self.cross_out(_merged(seen).to(hidden_BLD.dtype))

        normed_BLD = self.layer.final_layer_norm(hidden_BLD)
        inner = self.layer.activation_fn(self.fc1(normed_BLD))
        return hidden_BLD + self.layer.fc2(inner.to(self.layer.fc2.weight.dtype))

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _merged(x_BHLK: Tensor) -> Tensor:
    return x_BHLK.transpose(1, 2).flatten(2)
