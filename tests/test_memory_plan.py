"""The memory plan: counts are the model's own, and large-v3 with LoRA fits a T4 on paper."""

import pytest

from data.errors import UserError
from jax_train.config import PUBLISHED
from jax_train.lora import Lora
from jax_train.memory_plan import MemoryPlan, PlanConfig, largest_batch, memory_plan

LARGE_V3 = 1_543_490_560  # numbers in the published model.safetensors
POSITIONS = 1500 * 1280  # of them the encoder's fixed positions


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
    assert LARGE_V3 * 2 < plan.weights < LARGE_V3 * 2.01  # bfloat16; vectors stay float32
    assert plan.fits(config.card_gb)
    assert largest_batch(config) >= 1
    assert config.plan(largest_batch(config)).fits(config.card_gb)
    assert not config.plan(largest_batch(config) + 1).fits(config.card_gb)


def test_activations_by_hand_for_tiny():
    """d_model 384, 4 + 4 layers, feed-forward 1536, 1500 positions, 100 tokens, float32."""
    plan = memory_plan(PUBLISHED["tiny"], lora=None, batch_size=3, tokens=100)
    encoder = 4 * 1500 * (8 * 384 + 2 * 1536)
    decoder = 4 * (100 * (12 * 384 + 2 * 1536) + 2 * 1500 * 384)
    assert plan.activations == 3 * 4 * (6 * 1500 * 384 + encoder + decoder)
    assert plan.workspace == 3 * 4 * (4 * 6 * 1500**2 + 3 * 100 * 51_865)
    less = memory_plan(PUBLISHED["tiny"], lora=None, batch_size=3, tokens=100, remat=True)
    assert less.activations < plan.activations / 2


def test_the_table_ends_with_the_total():
    plan = MemoryPlan(1, 2, 3, 4, 5, 6, 3_000_000_000)
    assert plan.total == 3_000_000_021
    assert plan.table().splitlines()[-1] == "total            3.00 GB"


def test_a_wrong_setting_is_said():
    with pytest.raises(UserError, match="--model huge: there are tiny, base"):
        PlanConfig(model="huge").plan(1)
    with pytest.raises(UserError, match="only frozen ones"):
        memory_plan(PUBLISHED["tiny"], lora=None, weights_dtype="bfloat16")
    with pytest.raises(UserError, match="matches no linear layer"):
        memory_plan(PUBLISHED["tiny"], lora=Lora(targets=("query",)))
