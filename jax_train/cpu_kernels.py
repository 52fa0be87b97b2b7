"""The CPU's kernels, compiled for the machine's own processor when they are first asked for.

Decision: what XLA makes for a CPU is far from what the processor can do where Whisper spends its time, and nothing that
XLA can be told changes it (figures in docs/performance.md). So a few hundred lines of C++ do that, called through XLA's
foreign function interface, whose headers jaxlib brings. They need a C++ compiler (`CXX`, or `c++`). The library is kept
in ~/.cache/sussurro for the next process, by its sources, its compiler, the processor's instructions and jaxlib.
Without a compiler there is a warning, and XLA's way.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import tempfile
import warnings
from pathlib import Path

import jax
import jaxlib
from jaxtyping import Array

HEADERS, SOURCES = (sorted(Path(__file__).parent.glob(f"cpu_*.{kind}")) for kind in ("h", "cc"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
KERNELS = ("attention_forward", "attention_backward", "matrix_product")


def ready() -> bool:
    """Whether XLA has the kernels, each by its name, which are compiled first where this machine has none yet."""
    return _library() is not None


def matrix_unit() -> bool:
    """Whether they multiply by a matrix unit of the processor."""
    library = _library()
    return library is not None and bool(library.matrix_unit())


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The kernels, known to XLA; none elsewhere than on a CPU, and where they cannot be compiled, with a warning."""
    if jax.default_backend() != "cpu":
        return None
    try:
        library = ctypes.CDLL(str(compiled(Path.home() / ".cache" / "sussurro")))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        warnings.warn(
            f"models are slower on this CPU: their kernels could not be compiled ({said[0]}); "
            "install a C++ compiler (Debian: apt-get install g++) or name one in CXX",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    for name in KERNELS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    library.matrix_unit.restype = ctypes.c_bool
    return library


def compiled(folder: Path) -> Path:
    """The kernels' library in `folder`.

    Raises:
        OSError, subprocess.SubprocessError: no compiler, it failed, or the folder cannot be written.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    sources = [path.read_text(encoding="utf-8") for path in (*HEADERS, *SOURCES)]
    macros = _run([*compiler, *FLAGS[:3], "-dM", "-E", "-x", "c++", os.devnull])  # its version, and the instructions
    key = hashlib.sha256("\0".join((*sources, *FLAGS, macros, jaxlib.__version__)).encode()).hexdigest()[:16]
    library = folder / f"cpu-kernels-{key}.so"
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            new = Path(place) / library.name
            _run([*compiler, *FLAGS, "-isystem", jax.ffi.include_dir(), *map(str, SOURCES), "-o", str(new)])
            new.replace(library)
    return library


def own(array: Array, other: Array) -> Array:
    """The array as each device's own over the devices that `other` varies over: all inputs of a kernel must."""
    varies = jax.typeof(other).manual_axis_type.varying - jax.typeof(array).manual_axis_type.varying
    made: Array = jax.lax.pcast(array, tuple(varies), to="varying") if varies else array
    return made


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout
