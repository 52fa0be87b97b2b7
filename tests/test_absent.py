"""What a compiled program moves, counted by hand; whole steps, compiled for chips that are not there."""

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.gpu import GpuBenchmark, cards
from benchmarks.program import gigabytes_moved, operations, schedule
from data.errors import UserError
from tests.conftest import REPOSITORY, thorough
from tests.test_readme import environment

KB = 1e-6  # in 10⁹ bytes; arrays here are of 1000 bytes and multiples
PROGRAM = """
HloModule jit_step

%sliced (param_0.1: f32[10,250], param_1.1: s32[]) -> f32[1,250] {
  %param_0.1 = f32[10,250]{1,0:T(8,128)} parameter(0)
  %param_1.1 = s32[] parameter(1)
  ROOT %dynamic-slice.1 = f32[1,250]{1,0:T(8,128)} dynamic-slice(%param_0.1, %param_1.1), dynamic_slice_sizes={1,250}
}

%written (param_0.2: f32[1,250], param_1.2: f32[10,250], param_2.2: s32[]) -> f32[10,250] {
  %param_1.2 = f32[10,250]{1,0:T(8,128)} parameter(1)
  %param_0.2 = f32[1,250]{1,0:T(8,128)} parameter(0)
  %param_2.2 = s32[] parameter(2)
  ROOT %dynamic-update-slice.1 = f32[10,250]{1,0:T(8,128)} dynamic-update-slice(%param_1.2, %param_0.2, %param_2.2)
}

%body (arg: (s32[], f32[10,250])) -> (s32[], f32[10,250]) {
  %arg = (s32[]{:T(128)S(1)}, f32[10,250]{1,0:T(8,128)}) parameter(0)
  %place = s32[]{:T(128)S(1)} get-tuple-element(%arg), index=0
  %all = f32[10,250]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %row = f32[1,250]{1,0:T(8,128)} fusion(%all, %place), kind=kLoop, calls=%sliced
  %new = f32[10,250]{1,0:T(8,128)} fusion(%row, %all, %place), kind=kLoop, calls=%written
  ROOT %next = (s32[]{:T(128)S(1)}, f32[10,250]{1,0:T(8,128)}) tuple(%place, %new)
}

ENTRY %main (x: f32[250], y: f32[10,250]) -> f32[10,250] {
  %x = f32[250]{0:T(256)} parameter(0)
  %y = f32[10,250]{1,0:T(8,128)} parameter(1)
  %copy-start = (f32[250]{0:T(256)S(1)}, f32[250]{0:T(256)}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[250]{0:T(256)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[10,250]{1,0:T(8,128)}), f32[2,250]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%y)
  %part = f32[2,250]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %nearer = f32[250]{0:T(256)S(1)} add(%near, %near)
  %far = bf16[2,250]{1,0:T(8,128)(2,1)} multiply(%nearer, %part)
  %zero = s32[]{:T(128)S(1)} constant(0)
  %start = (s32[]{:T(128)S(1)}, f32[10,250]{1,0:T(8,128)}) tuple(%zero, %y)
  %loop = (s32[], f32[10,250]{1,0:T(8,128)}) while(%start), condition=%less, body=%body, """ + (
    """backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[10,250]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
)


def test_what_a_program_moves():
    """A copy to the chip (1 kB), a slice to it (2), what is written of what lies there (1), and three times in the loop
    a row that is read (1) and kept (1), then read again (1) and written in place (1)."""
    assert gigabytes_moved(PROGRAM) == pytest.approx((1 + 2 + 1 + 3 * 4) * KB)


def test_what_a_program_launches():
    """Two copies, two sums and three times two fusions; what waits for a copy is none."""
    assert operations(PROGRAM) == 4 + 3 * 2


def test_rows_that_are_looked_up_count_and_not_their_table():
    """Two rows of 1 kB are read and written, by places of 4 bytes each."""
    program = """
%looked_up (param_0.3: f32[9,250], param_1.3: s32[2,1]) -> f32[2,250] {
  %param_0.3 = f32[9,250]{1,0} parameter(0)
  %param_1.3 = s32[2,1]{1,0} parameter(1)
  ROOT %gather.1 = f32[2,250]{1,0} gather(%param_0.3, %param_1.3), offset_dims={1}
}

ENTRY %main (table: f32[9,250], places: s32[2,1]) -> f32[2,250] {
  %table = f32[9,250]{1,0} parameter(0)
  %places = s32[2,1]{1,0} parameter(1)
  ROOT %rows = f32[2,250]{1,0} fusion(%table, %places), kind=kLoop, calls=%looked_up
}
"""
    assert gigabytes_moved(program) == pytest.approx((2 + 2 + 0.008) * KB)


def test_a_kernels_schedule(tmp_path):
    """Instructions by the units they use; of the matrix units there are four. Other operations are left out."""
    head = "2:\ttotal scheduled bundles:  3\n== CAPACTIY:\nMXU, XLU\n    4     3\n== UTILIZATION:\n"
    name = "final_hlo-static-per-bundle-utilization.txt"
    (tmp_path / f"12-attention_backward.1-01-{name}").write_text(head + "4 0\n2 1\n0 0\n")
    (tmp_path / f"12-copy.1-01-{name}").write_text(head + "0 0\n")
    (tmp_path / "12-attention_backward.1-02-final_bundles.txt").write_text("")
    assert schedule(tmp_path, "attention") == {"attention_backward": (3, 0.5)}


def test_without_a_tpus_compiler_a_line_says_where_it_comes_from():
    words = [sys.executable, "-m", "benchmarks.tpu"]
    nowhere = environment() | {"TPU_LIBRARY_PATH": "/nowhere/libtpu.so", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, cwd=REPOSITORY, env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is what `make bench-tpu` fetches" in done.stderr.splitlines()[-1]


def test_without_a_gpus_compiler_a_line_says_where_it_comes_from():
    with pytest.raises(UserError, match="is what `make bench-gpu` fetches"):
        cards(GpuBenchmark())


def test_a_card_that_nobody_described_is_refused():
    with pytest.raises(UserError, match="--card v100: there are h100, h200, a100, l4, t4"):
        GpuBenchmark(card="v100")


def compiled(device: str, options: str) -> dict[str, Any]:
    """What `make bench-…` says in its last line of models of one layer."""
    words = ["make", f"bench-{device}", f"ARGS=--layers 1 {options}"]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="these compilers are for x86-64 alone")


@on_x86
def test_a_step_with_our_kernels_compiles_for_a_gpu():
    """Of so many windows that it has them: without, it moves more than twice as much. The trainer's plan of its memory,
    which knows no compiler, is an estimate from above."""
    found = compiled("gpu", "--batch-size 4 --labels 64")
    assert found["device"] == "1 × NVIDIA H100 80GB HBM3"
    assert found["ratio"] > 2
    ours = found["arms"]["ours"]
    assert 0.5 * ours["memory_on_paper_gb"] < ours["memory_gb"] < ours["memory_on_paper_gb"]
    assert 0 < ours["mfu_at_most"] < 1


@thorough
@on_x86
@pytest.mark.parametrize(
    ("options", "most_gb"),
    [
        ("--card t4 --batch-size 2 --lora-rank 4 --arms ours", 1.0),
        ("--batch-size 4 --chips 2 --fsdp 2 --arms ours", 1.0),
        ("--card a100 --batch-size 2 --num-beams 1", 0.3),
        ("--num-beams 2", 1.0),
    ],
)
def test_steps_and_decoders_compile_for_gpus(options, most_gb):
    found = compiled("gpu", options)
    assert 0 < found.get("arms", {}).get("ours", found)["memory_gb"] < most_gb


@thorough
@on_x86
@pytest.mark.parametrize(
    ("options", "most_gb"),
    [("--labels 64 --fsdp 2 --arms ours", 1.0), ("--num-beams 1", 0.3), ("--num-beams 2", 0.3)],
)
def test_steps_and_decoders_compile_for_two_chips(options, most_gb):
    """A step's chips share the model's parameters."""
    found = compiled("tpu", f"--batch-size 2 --chips 2 {options}")
    assert found["device"] == "2 × TPU v5 lite"
    assert 0 < found.get("arms", {}).get("ours", found)["memory_gb"] < most_gb
