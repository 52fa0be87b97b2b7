"""The CPU's kernels are compiled once on a machine; where that cannot be, it is said, and results are right."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jax_train import cpu_kernels
from tests.conftest import REPOSITORY, thorough


def test_it_is_compiled_once(tmp_path, monkeypatch):
    library = cpu_kernels.compiled(tmp_path / "new")
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    calls, run = [], cpu_kernels._run
    monkeypatch.setattr(cpu_kernels, "_run", lambda command: calls.append(command) or run(command))
    assert cpu_kernels.compiled(tmp_path / "new") == library
    assert ["-o" in command for command in calls] == [False]  # it asks what the compiler compiles for, and no more


def test_without_its_matrix_unit_a_processor_computes_the_same(tmp_path):
    if not cpu_kernels.matrix_unit():
        pytest.skip("this processor has no matrix unit")
    passes_without("-mno-amx-tile", tmp_path, "tests/test_cpu_products.py")


@thorough
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's compiler has no such options")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx"])
def test_processors_with_shorter_vectors_compute_the_same(without, tmp_path):
    passes_without(without, tmp_path, "tests/test_cpu_attention.py", "tests/test_cpu_products.py")


def passes_without(instructions: str, home: Path, *tests: str) -> None:
    settings = os.environ | {"CXX": f"c++ {instructions}", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=REPOSITORY,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(list(home.rglob("*.so"))) == 1


NO_COMPILER, OLD_COMPILER = "no-such-compiler", "sh -c 'echo too old >&2; exit 1' --"


@pytest.mark.parametrize(("compiler", "said"), [(NO_COMPILER, NO_COMPILER), (OLD_COMPILER, "(too old)")])
def test_without_a_compiler_it_is_said_and_attention_is_right(compiler, said, tmp_path):
    program = (
        "import jax, numpy as np; from jax_train.attention import attend\n"
        "q = jax.random.normal(jax.random.key(0), (1, 9, 2, 16)); out = attend(q, q, q)\n"
        "want = jax.nn.dot_product_attention(q, q, q); attend(q, q, q)\n"
        "np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)"
    )
    settings = os.environ | {"CXX": compiler, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("their kernels could not be compiled") == 1
    assert said in done.stderr
    assert "install a C++ compiler" in done.stderr
    assert not list(Path(tmp_path).rglob("*.so"))
