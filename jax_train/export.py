"""The command that turns a run into a model other programs load, and proves it equal before it gets its name.

Everything is written beside its final name. The Hugging Face folder comes first: PyTorch, in a process of its own
(`serving.verify`), loads it with no weight missing or left over, computes logits and transcribes real clips, which are
compared with ours. The two meet in files, so that the trainer never imports torch. Another format is made from that
folder and has to write the same transcripts in its own runtime. Only then is the folder renamed.
"""

import dataclasses
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro

from data.errors import UserError, command
from jax_train.checkpoints import load_run, run_model_folder
from jax_train.config import compilation_cache
from jax_train.decoding_rules import DecodingRules
from jax_train.export_folder import write_folder
from jax_train.model_card import FILE as CARD
from jax_train.model_card import model_card
from jax_train.other_formats import check_installed, convert
from jax_train.proof import NEW_TOKENS, Proof, ask, compare_transcripts, prove, real_windows, written_by
from jax_train.runlog import write_json

RECORD = "export.json"
DTYPES = {
    "huggingface": ("float32", "float16", "bfloat16"),
    "ctranslate2": ("float32", "float16", "int8"),
    "ggml": ("float16",),
}
"""The types that a format's weights may be stored in; the first one is the default."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes a run's newest checkpoint as a model other programs load, proved on real clips."""

    run: Path
    """Folder of a training run."""
    model_dir: Path
    """Folder to write; an earlier export of the same format there is replaced once the new one is proved."""
    step: str = "newest"
    """Checkpoint to take: newest, best (of lowest WER), or its step."""
    format: Literal["huggingface", "ctranslate2", "ggml"] = "huggingface"
    """huggingface: for transformers and `make serve`; ctranslate2: for faster-whisper; ggml: for whisper.cpp."""
    dtype: Literal["", "float32", "float16", "bfloat16", "int8"] = ""
    """Type the weights are stored in: huggingface float32 (the default), float16 or bfloat16; ctranslate2 float32 (the
    default), float16 or int8; ggml float16."""
    shards: Path | None = None
    """Where the run's shards are now, if they were moved: the proof takes real clips from them."""
    clips: int = 4
    """Real clips that have to be transcribed alike."""

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise UserError(f"--clips {self.clips}: an export is proved on at least 1")
        if self.dtype and self.dtype not in DTYPES[self.format]:
            raise UserError(f"--dtype {self.dtype}: {self.format} takes {', '.join(DTYPES[self.format])}")

    def weights(self) -> str:
        """Type the weights are stored in."""
        return self.dtype or DTYPES[self.format][0]


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the folder; what was compared, as in its export.json.

    Raises:
        UserError: no such run, a foreign folder under the final name, no clips to prove it on, or logits or
            transcripts that differ: then nothing is written.
    """
    final, dtype = config.model_dir, config.weights()
    _check_place(final, config.format)
    check_installed(config.format)
    if importlib.util.find_spec("torch") is None:
        raise UserError("the export is proved with PyTorch, which is not installed: pip install 'sussurro[serve]'")
    model, step = load_run(config.run, step=config.step)
    clips_CFM = real_windows(config.run, config.shards, config.clips, model.config.num_mel_bins)
    language = json.loads((config.run / "config.json").read_text(encoding="utf-8"))["language"]
    rules = DecodingRules.from_folder(run_model_folder(config.run), language, NEW_TOKENS)
    # Formats that round matrices alone are made from a float32 folder.
    stored = "float32" if config.format == "ggml" or dtype == "int8" else dtype
    proof = prove(model, stored, clips_CFM, rules)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}-") as place:
        folder = Path(place) / "huggingface"
        write_folder(model, config.run, folder, stored)
        record = {"name": final.name, "run": str(config.run), "step": step, "language": language}
        record |= {"format": config.format, "dtype": dtype}
        record |= prove_folder(folder, proof, Path(place))
        if config.format != "huggingface":
            made, folder = folder, Path(place) / config.format
            record["program"] = convert(config.format, dtype, made, folder, proof, language)
        write_json(folder / RECORD, record)
        (folder / CARD).write_text(model_card(config.run, record, final.name), encoding="utf-8")
        if final.exists():
            final.rename(Path(place) / "replaced")
        folder.rename(final)
    return record


def prove_folder(folder: Path, proof: Proof, scratch: Path) -> dict[str, Any]:
    """What PyTorch says of a Hugging Face folder. Raises `UserError` with its reason where it says no."""
    reference = scratch / "reference.safetensors"
    proof.save(reference)
    parity = ask("serving.verify", "--model", folder, "--reference", reference)
    theirs = parity.pop("transcripts")
    found = compare_transcripts(proof, theirs, written_by(folder))
    ours = [written_by(folder)(tokens) for tokens in proof.transcripts()]
    return {"parity": parity, "rounding": proof.rounding, "transcripts": found | {"texts": ours}}


def _check_place(final: Path, form: str) -> None:
    """Raises `UserError` unless the place is free or holds an earlier export of the same format."""
    if not final.exists():
        return
    if not (final / RECORD).is_file():
        raise UserError(f"{final}: exists and is no export of ours; give another MODEL_DIR, or move it away")
    before = json.loads((final / RECORD).read_text(encoding="utf-8")).get("format", "huggingface")
    if before != form:
        raise UserError(f"{final}: holds a {before} export; give another MODEL_DIR for {form}")


@command
def main() -> None:
    config = tyro.cli(ExportConfig)
    compilation_cache()
    record = export(config)
    print(f"{summary(record)}\n{config.model_dir}")


def summary(record: dict[str, Any]) -> str:
    """What was proved, for people."""
    parity, rounding, clips = record["parity"], record["rounding"], record["transcripts"]["clips"]
    lines = [
        f"step {record['step']} equals PyTorch: logits differ by at most {parity['max_abs_logit_difference']:.1e} "
        f"(largest {parity['max_abs_logit']:.1f}), {clips} of {clips} real clips are transcribed alike"
    ]
    if rounding:
        lines.append(
            f"rounded to {record['dtype']}: logits changed by at most {rounding['max_abs_logit_difference']:.1e},"
            f" {rounding['changed_transcripts']} of {clips} transcripts"
        )
    if other := record.get("program"):
        lines.append(
            f"{other['program']} ({record['dtype']}): {clips - other['different']} of {clips} clips are transcribed"
            f" alike, {other['token_error_rate']:.1%} of the tokens differ"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
