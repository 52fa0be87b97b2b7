"""Settings: every number has its limits, and where compiled programs lie."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from jax_train.config import ALLOWED, TrainConfig
from tests.conftest import REPOSITORY

PLACE = """
import sys
from pathlib import Path
import jax
from jax_train.config import compilation_cache
compilation_cache(*map(Path, sys.argv[1:]))
print(jax.config.jax_compilation_cache_dir)
"""


def test_every_number_has_its_limits():
    fields = {field.name for field in dataclasses.fields(TrainConfig) if field.type in (int, float)}
    assert {name for names in ALLOWED for name in names.split()} == fields
    for name in fields - {"seed"}:
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')} -1"):
            TrainConfig(Path(), Path(), **{name: -1})


@pytest.mark.parametrize(
    ("variable", "folder", "place"),
    [("", [], "{here}/.cache/jax"), ("gs://bucket/jax", [], "gs://bucket/jax"), ("/elsewhere", ["/given"], "/given")],
)
def test_compiled_programs_lie_where_jaxs_own_variable_says(tmp_path, variable, folder, place):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": variable, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", PLACE, *folder],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == place.format(here=tmp_path)
