"""The memory plan: counts are the model's own, and large-v3 with LoRA fits a T4 on paper."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from data.errors import UserError
from jax_train.config import PUBLISHED, Lora, WhisperConfig
from jax_train.lora import init, merged
from jax_train.memory_plan import MemoryPlan, PlanConfig, largest_batch, memory_plan, shapes
from jax_train.model import Whisper, functional
from jax_train.presets import from_command_line

LARGE_V3 = 1_543_490_560  # numbers in the published model.safetensors
POSITIONS = 1500 * 1280  # of them the encoder's fixed positions
TOKENS = 101  # a size that no other axis has


def test_training_the_whole_of_large_v3_takes_16_bytes_a_number_before_any_activation():
    plan = memory_plan(PUBLISHED["large-v3"], lora=None)
    trained = LARGE_V3 - POSITIONS
    assert plan.weights == LARGE_V3 * 4
    assert (plan.gradients, plan.optimizer, plan.adapters, plan.copies) == (trained * 4, trained * 8, 0, 0)
    assert not plan.fits(16)


def test_lora_of_large_v3_fits_a_16_gb_t4():
    """Rank 32 on queries and values: 96 attentions · 2 matrices · 32 · (1280 + 1280) numbers."""
    config = PlanConfig()
    plan = config.plan(1)
    adapters = 96 * 2 * 32 * 2560
    assert plan.adapters == plan.gradients == adapters * 4
    assert plan.optimizer == adapters * 8
    assert plan.copies == 96 * 2 * 1280 * 1280 * 2
    assert LARGE_V3 * 2 < plan.weights < LARGE_V3 * 2.01  # two bytes; vectors stay float32
    assert plan.fits(config.card_gb)
    assert largest_batch(config) >= 1
    assert config.plan(largest_batch(config)).fits(config.card_gb)
    assert not config.plan(largest_batch(config) + 1).fits(config.card_gb)


@pytest.mark.parametrize("lora", [None, Lora(4)])
@pytest.mark.parametrize(
    ("compute_dtype", "remat"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "feed_forward")]
)
def test_activations_are_what_jax_keeps_for_the_backward_pass(lora, compute_dtype, remat):
    """5 %: the layer norms' statistics and the last norms are small and not in the plan."""
    config = WhisperConfig(64, 6, 4, 4, 4, 192, 192, vocab_size=7)
    params, buffers, build = functional(Whisper(config, jnp.dtype(compute_dtype), nnx.Rngs(0), remat))
    trained, frozen = (init(params, 4, lora.targets, jax.random.key(0)), params) if lora else (params, {})

    def kept(trained):
        def summed(trained):
            full = merged(frozen, trained, 1.0) if lora else trained
            log_mel, tokens = jnp.zeros((1, 3000, 80)), jnp.zeros((1, TOKENS), jnp.int32)
            return build(full, buffers)(log_mel, tokens).sum()

        return jax.vjp(summed, trained)[1]

    arrays = jax.tree.leaves(jax.eval_shape(kept, trained))
    of_positions = [x for x in arrays if {1500, 3000, TOKENS} & set(x.shape) and 80 not in x.shape]
    got = sum(x.size * x.dtype.itemsize for x in of_positions)
    plan = memory_plan(config, lora=lora, tokens=TOKENS, compute_dtype=compute_dtype, remat=remat)
    computed_again = 0
    if remat == "feed_forward":  # the plan's, of one layer, when its turn comes
        computed_again = 1500 * (192 + (0 if lora else 64 + 192)) * jnp.dtype(compute_dtype).itemsize
    assert plan.activations - computed_again == pytest.approx(got, rel=0.05)


def test_activations_and_workspace_by_hand_for_tiny():
    """d_model 384, 4 + 4 layers, feed-forward 1536, 1500 positions, 100 tokens, float32."""
    plan = memory_plan(PUBLISHED["tiny"], lora=None, batch_size=3, tokens=100)
    encoder = 4 * 1500 * (9 * 384 + 2 * 1536)
    decoder = 4 * (100 * (14 * 384 + 2 * 1536) + 2 * 1500 * 384)
    assert plan.activations == 3 * 4 * (7 * 1500 * 384 + encoder + decoder)
    assert plan.workspace == 4 * (3 * 4 * 6 * 1500**2 + (3 * 300 + 384) * 51_865)  # all tokens in one chunk
    less = memory_plan(PUBLISHED["tiny"], lora=None, batch_size=3, tokens=100, remat="layers")
    assert less.activations < plan.activations / 2


def test_split_parameters_take_a_part_of_the_room_and_those_that_a_layer_reads():
    """Large-v3 on eight devices; the decoder's layers are the larger: 8 d² and 2 d ffn in matrices, beside vectors.

    Whole are the embeddings, the convolutions, the encoder's fixed positions and the last norms.
    """
    whole, split = (memory_plan(PUBLISHED["large-v3"], lora=None, compute_dtype="bfloat16", fsdp=n) for n in (1, 8))
    assert split.weights + split.gradients + split.optimizer == pytest.approx(
        (whole.weights + whole.gradients + whole.optimizer) / 8
    )
    d, ffn = 1280, 5120
    decoder_layer = 8 * d * d + 2 * d * ffn + 3 * 2 * d + 2 * 3 * d + ffn + d
    outside = (51_866 + 448 + 1500) * d + 3 * (128 + d) * d + 2 * d + 2 * 2 * d
    assert split.gathered == outside * 4 + 2 * decoder_layer * 2
    assert (whole.gathered, split.activations, split.workspace) == (0, whole.activations, whole.workspace)
    lora = memory_plan(PUBLISHED["large-v3"], lora=Lora(32), fsdp=8)
    assert lora.gathered == outside * 4 + 2 * decoder_layer * 4 + lora.adapters * 8  # to be merged


def test_frozen_weights_of_another_type_of_the_same_size_are_copied_whole():
    """A T4 computes in float16: weights kept in bfloat16 would be there twice."""
    same = PlanConfig(compute_dtype="float16")
    other = dataclasses.replace(same, frozen_dtype="bfloat16")
    matrices = sum(math.prod(x.shape) for x in shapes(PUBLISHED["large-v3"])[0].values() if x.ndim > 1)
    assert other.plan(1).copies == matrices * 2
    assert same.plan(1).copies < other.plan(1).copies / 4
    assert largest_batch(other) < largest_batch(same)


def test_a_kernel_for_attention_makes_no_scores():
    """1500² scores for each of 6 heads and 2 windows, four arrays of float32."""
    plans = [memory_plan(PUBLISHED["tiny"], lora=None, batch_size=2, fused_attention=fused) for fused in (False, True)]
    assert plans[0].workspace - plans[1].workspace == 2 * 6 * 1500**2 * 4 * 4
    assert dataclasses.replace(plans[0], workspace=0) == dataclasses.replace(plans[1], workspace=0)
    fused = PlanConfig(rank=0, model="small", fused_attention=True)
    assert largest_batch(fused) > largest_batch(dataclasses.replace(fused, fused_attention=False))


def test_the_plan_says_what_the_train_command_is_to_be_told():
    options = PlanConfig(rank=8).options().split()
    config = from_command_line(["--shards", "s", "--run", "r", *options], None)
    assert config.lora == Lora(8, frozen_dtype="float16")
    assert (config.compute_dtype, config.remat) == ("float16", "auto")
    again = PlanConfig(rank=0, compute_dtype="bfloat16", remat="layers", fsdp=8).options()
    assert again == "--compute-dtype bfloat16 --remat layers --fsdp 8"


def test_optimizer_average_and_frozen_parameters_count_as_they_are():
    """Lion has one moment where AdamW has two. Half of tiny's parameters are the vocabulary's."""
    tiny = PUBLISHED["tiny"]
    adamw, lion = memory_plan(tiny, lora=None), memory_plan(tiny, lora=None, optimizer=optax.lion(1.0), averages=True)
    assert (adamw.optimizer, adamw.average) == (2 * adamw.gradients, 0)
    assert (lion.optimizer, lion.average) == (lion.gradients, lion.gradients)
    part = memory_plan(tiny, lora=None, freeze=("model.decoder.embed_tokens.weight",))
    assert part.gradients == adamw.gradients - tiny.vocab_size * tiny.d_model * 4
    assert (part.optimizer, part.weights) == (2 * part.gradients, adamw.weights)


def test_the_table_ends_with_the_total():
    plan = MemoryPlan(1, 2, 3, 4, 5, 6, 7, 8, 3_000_000_000)
    assert plan.total == 3_000_000_036
    assert plan.table().splitlines()[-1] == "total            3.00 GB"
    assert [plan.fits(card_gb) for card_gb in (3.3, 3.4)] == [False, True]  # of a card a tenth is the driver's


def test_a_wrong_setting_is_said():
    with pytest.raises(UserError, match="--model huge: there are tiny, base"):
        PlanConfig(model="huge")
    for options in ({"batch_size": -3}, {"fsdp": 0}, {"card_gb": math.nan}, {"rank": 5000}):
        with pytest.raises(UserError, match=rf"--{next(iter(options)).replace('_', '-')} "):
            PlanConfig(**options)
    with pytest.raises(UserError, match="only frozen ones"):
        memory_plan(PUBLISHED["tiny"], lora=None, weights_dtype="bfloat16")
    with pytest.raises(UserError, match="matches no linear layer"):
        memory_plan(PUBLISHED["tiny"], lora=Lora(targets=("query",)))
