"""The daily loop on Modal: `make daily` once a day in a container, the store on a Volume.

    modal deploy daily/modal_app.py            # runs it every day from now on
    modal run daily/modal_app.py               # runs it now
    modal volume get sussurro-store monitor .  # what the monitor shows

Decision: the container runs the make target that anybody runs, in a copy of this folder built into its image. A Volume
has no locks between machines, so one container at a time is Modal's to keep (`max_containers=1`). Whatever happens,
what the stages have finished is committed.
"""

import subprocess
from pathlib import Path

import modal

HOUR = 3600  # seconds
THERE = "/sussurro"
STORE = "/store"
LEFT_HERE = [".git", ".venv*", ".cache", "build", "demo", "models", "runs", "scores", "shards", "space", "store"]
"""Of the project's folder: what the container makes itself, or has no use for."""

app = modal.App("sussurro-daily")
store = modal.Volume.from_name("sussurro-store", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.12")
    .apt_install("make", "festival", "festvox-italp16k", "festvox-itapc16k")
    .add_local_dir(Path(__file__).parent.parent, THERE, copy=True, ignore=LEFT_HERE)
    .run_commands(f"make -C {THERE} setup weights")
)


@app.function(
    image=image,
    schedule=modal.Period(days=1),
    volumes={STORE: store},
    max_containers=1,
    cpu=4,
    memory=8192,  # MiB
    timeout=3 * HOUR,
)
def daily() -> None:
    """The whole day; a failed stage fails the function, and Modal sends its owner a mail."""
    try:
        subprocess.run(["make", "-C", THERE, "daily", f"STORE={STORE}"], check=True)
    finally:
        store.commit()
