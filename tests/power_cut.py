"""A run that loses power, for tests of what comes after."""

import pytest

import jax_train.accounting
import jax_train.train
from jax_train.config import TrainConfig


def train_until_power_cut(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until `step` is computed, and lose it before it is logged or saved."""
    check = jax_train.accounting.check_finite

    def power_cut(number: int, values: dict[str, float], clip_ids: list[str]) -> None:
        if number == step:
            raise KeyboardInterrupt
        check(number, values, clip_ids)

    with monkeypatch.context() as patch:
        patch.setattr(jax_train.accounting, "check_finite", power_cut)
        with pytest.raises(KeyboardInterrupt):
            jax_train.train.train(config)
