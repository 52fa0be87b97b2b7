"""A signal while training breaks off what can be done again, and waits for all else."""

import os
import signal

import pytest

from jax_train.preemption import StopRequest


def test_a_signal_breaks_off_what_can_be_done_again_alone_and_a_second_ctrl_c_everything():
    with StopRequest("run") as stop:
        stop.there_is_work_to_save()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with stop.breakable():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it was not broken off")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
