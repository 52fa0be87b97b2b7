"""Whether shards are such as a model reads: its mel bins, its tokens, one language."""

import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from data.errors import UserError
from data.records import Shards
from data.tokens import text_tokens
from jax_train.config import TrainConfig, WhisperConfig

LOOKED_AT = 8  # clips whose tokens are compared


def check_suited(shards: Shards, config: TrainConfig, folder: Path, tokenizer: Tokenizer) -> None:
    """Raises `UserError` where the features of `shards` are not those of the model in `folder`."""
    again = f"run `make featurize` with MODEL={config.model}"
    n_mels, wanted = shards.manifest["features"]["n_mels"], WhisperConfig.from_folder(folder).num_mel_bins
    if n_mels != wanted:
        raise UserError(f"{shards.folder}: features of {n_mels} mel bins, {config.model} takes {wanted}; {again}")
    spoken = shards.manifest["language"]
    if config.language and config.language != spoken:
        raise UserError(
            f"--language {config.language}: {shards.folder} is in {spoken!r}; leave the option out, or give others"
        )
    content = (folder / "tokenizer.json").read_bytes()
    if hashlib.sha256(content).hexdigest() == shards.manifest["tokenizer_sha256"]:
        return
    for row in range(min(LOOKED_AT, len(shards.index["id"]))):  # another file, which may say the same
        record = shards[row]
        if tuple(text_tokens(tokenizer, record.text)) != record.tokens:
            raise UserError(
                f"{shards.folder}: clip {record.id} is not in the tokens of {config.model}, which has others; {again}"
            )
