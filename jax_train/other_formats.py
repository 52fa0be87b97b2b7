"""A proved Hugging Face folder in the formats of other programs, each proved by the program it is for.

Decision: the program is given the log-mel of the same real clips, so that what differs is the model alone, and its
transcripts are compared with ours. Where it computes in less than float32 a word may change, and `MAY_DIFFER` says how
many: a conversion that is wrong changes nearly all of them.
"""

import importlib.util
from pathlib import Path
from typing import Any

from data.errors import UserError
from jax_train.ggml import FILE, write_ggml
from jax_train.proof import Proof, ask, compare_transcripts, written_by

NEEDS = {"ctranslate2": "ctranslate2", "ggml": "pywhispercpp"}
"""The package that proves a format."""
MAY_DIFFER = {("ctranslate2", "int8"): 0.25, ("ggml", "float16"): 0.25}
"""Share of tokens that may be others, by format and type of the weights; none where the program computes in float32.

whisper.cpp computes products in float16 whatever the weights are; int8 is CTranslate2's. Both flip a token where the
best two are near each other, after which the rest of that clip may differ too; and there are few clips."""


def check_installed(form: str) -> None:
    """Raises `UserError` unless what proves `form` is there."""
    if form in NEEDS and importlib.util.find_spec(NEEDS[form]) is None:
        package = NEEDS[form]
        raise UserError(f"a {form} export is proved with {package}, which is not installed: pip install {package}")


def convert(form: str, dtype: str, made: Path, folder: Path, proof: Proof, language: str) -> dict[str, Any]:
    """Write `folder` in another format from the Hugging Face folder `made`; what its program makes of the clips.

    Raises `UserError` where that is not what we make of them.
    """
    clips = made.parent / "clips.safetensors"
    proof.save_clips(clips)
    if form == "ctranslate2":
        found = ask("serving.to_ctranslate2", "--model", made, "--out", folder, "--dtype", dtype, "--clips", clips)
    else:
        folder.mkdir()
        write_ggml(made, folder / FILE)
        found = ask("serving.verify_ggml", "--model", folder / FILE, "--clips", clips, "--language", language)
    allowed = MAY_DIFFER.get((form, dtype), 0.0)
    return {"program": NEEDS[form]} | compare_transcripts(proof, found["transcripts"], written_by(made), allowed)
