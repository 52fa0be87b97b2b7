"""What an export is held to: our logits and transcripts of real clips and of noise, in one file that any runtime reads.

Decision: two questions, two answers. Does the folder compute what is written in it? Its reference is the model with its
weights already rounded to the type they are stored in, so that only the order of summation differs, and the transcripts
are to be the same token for token. And what did the rounding itself change? That is measured between our own two
models, and bounded by `ROUNDING`.

B windows (noise, then C clips), F mel frames, M mel bins, P prompt tokens, N new tokens, L tokens, V vocabulary.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32, Int
from rapidfuzz.distance import Levenshtein

from data.errors import UserError
from data.log_mel import SAMPLE_RATE, WINDOW_SECONDS, log_mel, pad_to_window, restore
from data.records import Shards
from data.tokens import load_tokenizer
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.evaluation import chosen_rows
from jax_train.export_folder import no_room, save_tensors
from jax_train.model import Params, Whisper, functional
from jax_train.run_settings import read_settings

NEW_TOKENS = 128  # of a transcript that are compared: some forty seconds of Italian; a looping model loops no longer
LOGIT_TOKENS = 32
NOISE_SECONDS = (WINDOW_SECONDS, 7)
ROUNDING = {"float16": 0.01, "bfloat16": 0.1}
"""Largest change of a logit by rounding the weights, as a share of the largest logit.

A rounded weight is off by at most 2^-11 of itself in float16, 2^-8 in bfloat16. Through base's layers this became
0.0023 and 0.028 at the worst of ten million logits (clips and noise, base fine-tuned in float32); deeper models get
four times that. What goes wrong otherwise, such as a weight beyond float16, changes a logit by its own size."""


@dataclass(frozen=True)
class Proof:
    """The reference, and what rounding the weights changed."""

    tensors: dict[str, np.ndarray]
    """`input_features` (B, M, F), `decoder_input_ids` (B, L), `logits` (B, L, V), and `transcripts` (C, N): greedy
    tokens of the last C windows, filled up with the end token."""
    rules: DecodingRules
    rounding: dict[str, Any]
    """Largest change of a logit by rounding, the largest logit, how many transcripts it changed; empty for float32."""

    def transcripts(self) -> list[list[int]]:
        """Each clip's tokens, without the end."""
        return [until(tokens_N, self.rules.end) for tokens_N in self.tensors["transcripts"].tolist()]

    def save(self, path: Path) -> None:
        """Write the tensors where PyTorch reads them."""
        save_tensors(self.tensors, path)

    def save_clips(self, path: Path) -> None:
        """Write what other runtimes are given: the clips' `input_features` (C, M, F) and the `prompt` (P,)."""
        clips = len(self.tensors["transcripts"])
        features_CMF = np.ascontiguousarray(self.tensors["input_features"][-clips:])
        save_tensors({"input_features": features_CMF, "prompt": np.asarray(self.rules.prompt, np.int32)}, path)


def until(tokens: Sequence[int], end: int) -> list[int]:
    """The first `NEW_TOKENS` of `tokens`, or those before `end`."""
    kept = list(tokens[:NEW_TOKENS])
    return kept[: kept.index(end)] if end in kept else kept


def real_windows(run: Path, shards: Path | None, clips: int, n_mels: int) -> Float32[np.ndarray, "C F M"]:
    """Windows of `clips` real clips of the run: of what it evaluates on, or else of what it is trained on.

    `shards`: where they are now, if no longer where the run read them.
    """
    settings = read_settings(run)
    place, split = shards or Path(settings["shards"]), settings.get("eval_split") or settings["split"]
    try:
        found = Shards.open(place, split)
    except UserError as error:
        raise UserError(
            f"an export is proved on real clips of its run: {error}; name the folder with SHARDS="
        ) from error
    rows = chosen_rows(found.index, clips, seed=0)
    if not len(rows):
        raise UserError(f"{found.folder}: no clip to prove the export on; name another folder with SHARDS=")
    records = [found[int(row)] for row in rows]
    if (bins := records[0].log_mel_q.shape[1]) != n_mels:
        raise UserError(
            f"{found.folder} has {bins} mel bins, the run's model takes {n_mels}: name its own with SHARDS="
        )
    return np.stack([pad_to_window(restore(record.log_mel_q, record.log_mel_max)) for record in records])


def noise_windows(n_mels: int) -> Float32[np.ndarray, "B F M"]:
    """Noise that swells like speech: a whole window, and one that is mostly padding."""
    rng = np.random.default_rng(0)
    seconds_N = np.arange(SAMPLE_RATE * WINDOW_SECONDS) / SAMPLE_RATE
    windows = []
    for last_second in NOISE_SECONDS:
        noise_N = rng.standard_normal(len(seconds_N)) * 0.1 * np.sin(2 * np.pi * 3 * seconds_N) ** 2
        windows.append(pad_to_window(log_mel(noise_N[: SAMPLE_RATE * last_second].astype(np.float32), n_mels)))
    return np.stack(windows)


def check_numbers(model: Whisper) -> None:
    """Raises `UserError` for a weight that is none."""
    for values in functional(model)[:2]:
        for name, value in values.items():
            if bool(jnp.isnan(value).any()):
                raise UserError(
                    f"{name} has a weight that is NaN, no number: the training went astray; export an earlier"
                    " checkpoint with --step, or train anew with a lower learning rate"
                )


def rounded(model: Whisper, dtype: DTypeLike) -> Whisper:
    """The model with its weights rounded to `dtype`, and computing in float32 as before.

    Raises `UserError` for a weight that the type cannot hold.
    """
    params, buffers, build = functional(model)

    def narrow(values: Params) -> Params:
        result = {name: value.astype(dtype).astype(jnp.float32) for name, value in values.items()}
        for name, value in result.items():
            if not bool(jnp.isfinite(value).all()):
                raise UserError(f"{name} has a weight beyond {jnp.finfo(dtype).max}, {jnp.dtype(dtype)}'s largest")
        return result

    return build(narrow(params), narrow(buffers))


def prove(trained: Whisper, dtype: str, clips_CFM: np.ndarray, rules: DecodingRules) -> Proof:
    """The reference of the model `trained` as an export in `dtype` holds it.

    Raises `UserError` for a weight that is no number, or where rounding to `dtype` changes more than it may.
    """
    check_numbers(trained)
    stored = trained if dtype == "float32" else rounded(trained, dtype)
    log_mel_BFM = np.concatenate([noise_windows(trained.config.num_mel_bins), clips_CFM])
    with jax.default_matmul_precision("highest"):
        decoder = BatchDecoder(stored, rules, len(clips_CFM), jax.local_devices()[:1])
        transcripts_CN = np.asarray(decoder(clips_CFM).tokens_BN)
        tokens_BL = _teacher_tokens(transcripts_CN, rules, trained.config.vocab_size)
        logits = _logits(trained)
        logits_BLV = logits(stored, log_mel_BFM, tokens_BL)
        rounding: dict[str, Any] = {}
        if stored is not trained:
            decoder.take(trained)
            changed = (transcripts_CN != np.asarray(decoder(clips_CFM).tokens_BN)).any(axis=1).sum()
            before_BLV = logits(trained, log_mel_BFM, tokens_BL)
            rounding = _check_rounding(before_BLV, logits_BLV, dtype) | {"changed_transcripts": int(changed)}
    tensors = {
        "input_features": np.ascontiguousarray(log_mel_BFM.transpose(0, 2, 1)),
        "decoder_input_ids": tokens_BL,
        "logits": logits_BLV,
        "transcripts": transcripts_CN,
    }
    return Proof(tensors, rules, rounding)


def _check_rounding(before_BLV: np.ndarray, after_BLV: np.ndarray, dtype: str) -> dict[str, float]:
    changed, most = float(np.abs(after_BLV - before_BLV).max()), float(np.abs(before_BLV).max())
    if not changed <= ROUNDING[dtype] * most:
        raise UserError(
            f"export refused: {dtype} weights change logits by up to {changed:.3g}, rounding them may at most by"
            f" {ROUNDING[dtype] * most:.3g}; export float32"
        )
    return {"max_abs_logit_difference": changed, "max_abs_logit": most}


def ask(module: str, *arguments: object) -> dict[str, Any]:
    """What another runtime, in a process of its own, prints as its last line: JSON.

    Raises `UserError` if it fails, and `OSError` where that is for a full disk.
    """
    words = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{module} ended with {done.returncode}"]
        if full := no_room(lines[-1]):
            raise full
        raise UserError(f"export refused: {lines[-1].removeprefix('error: ')}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare_transcripts(
    proof: Proof, theirs: Sequence[Sequence[int]], text: Callable[[list[int]], str], allowed: float = 0.0
) -> dict[str, Any]:
    """How many of the clips another runtime writes otherwise, and the share of tokens it changes.

    Raises `UserError` with the first such clip where that share is more than `allowed`.
    """
    pairs = [(own, until(other, proof.rules.end)) for own, other in zip(proof.transcripts(), theirs, strict=True)]
    other = [pair for pair in pairs if pair[0] != pair[1]]
    edits = sum(Levenshtein.distance(own, heard) for own, heard in pairs)
    share = edits / max(1, sum(len(own) for own, _ in pairs))
    if share > allowed:
        ours, other_text = (text(tokens) for tokens in other[0])
        raise UserError(
            f"export refused: {len(other)} of {len(pairs)} clips are transcribed otherwise than by the trainer, for"
            f" example {other_text!r} in place of {ours!r}; {share:.1%} of the tokens differ, {allowed:.0%} may"
        )
    return {"clips": len(pairs), "different": len(other), "token_error_rate": share}


def written_by(folder: Path) -> Callable[[list[int]], str]:
    """What turns tokens into text by the folder's tokenizer."""
    tokenizer = load_tokenizer(str(folder))
    return lambda tokens: tokenizer.decode(tokens).strip()


def _teacher_tokens(
    transcripts_CN: Int[np.ndarray, "C N"], rules: DecodingRules, vocab_size: int
) -> Int[np.ndarray, "B L"]:
    """Random tokens for the noise, and for each clip its prompt and the transcript's beginning."""
    random_BL = np.random.default_rng(0).integers(0, vocab_size, (len(NOISE_SECONDS), LOGIT_TOKENS))
    prompt_CP = np.tile(rules.prompt, (len(transcripts_CN), 1))
    told_CL = np.concatenate([prompt_CP, transcripts_CN], axis=1)[:, :LOGIT_TOKENS]
    return np.concatenate([random_BL, told_CL]).astype(np.int32)


def _logits(model: Whisper) -> Callable[[Whisper, np.ndarray, np.ndarray], np.ndarray]:
    """The forward pass of models of this architecture, compiled once: their weights are arguments."""
    build = functional(model)[2]
    forward = jax.jit(lambda params, buffers, log_mel_BFM, tokens_BL: build(params, buffers)(log_mel_BFM, tokens_BL))
    return lambda model, log_mel_BFM, tokens_BL: np.asarray(
        forward(*functional(model)[:2], jnp.asarray(log_mel_BFM), jnp.asarray(tokens_BL))
    )
