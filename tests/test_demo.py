"""The demo, as a newcomer runs it: `make demo` improves Whisper on recordings it was not trained on."""

import json
import shutil
import subprocess

from safetensors import safe_open

from tests.conftest import REPOSITORY
from tests.test_readme import environment

TEST_CLIPS, STEPS = 20, 8  # of the demo's own 83 and 12, for time


def test_make_demo_lowers_the_word_error_rate_by_a_quarter():
    folder = REPOSITORY / "build" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    command = ["make", "demo", f"ARGS=--folder {folder} --test-clips {TEST_CLIPS} --steps {STEPS}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["wer_after"] <= 0.75 * summary["wer_before"]
    assert summary["wer_after_as_written"] <= 0.75 * summary["wer_before_as_written"]
    assert summary["test_clips"] == TEST_CLIPS
    assert summary["featurize_x_realtime"] > 0
    assert summary["train_speech_seconds_per_second"] > 0
    assert 7_900 < summary["bytes_per_speech_second"] < 8_500  # 80 bytes a frame, and a record's text around them
    assert summary["transcript"]
    assert summary["model_dir"] == str(folder / "model")
    with safe_open(folder / "model" / "model.safetensors", framework="numpy") as file:
        assert len(file.keys()) == 245
    assert done.stdout.rstrip().endswith("next: make serve")
