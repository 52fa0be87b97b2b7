"""tokenizer.json for a Whisper folder that has only what it is made of: vocab.json, merges.txt and added_tokens.json.

Decision: written beside them in the layout of OpenAI's own file, with the library `tokenizers` alone: everything after,
other programs too, reads that one file. Nothing is guessed: a special token has the number that the folder gives it.
"""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data.errors import UserError

TOKENIZER, VOCABULARY, MERGES, ADDED = "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"
PARTS = (VOCABULARY, MERGES, ADDED)
END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}


def has_parts(folder: Path) -> bool:
    """Whether a tokenizer.json can be made of what is in `folder`."""
    return all((folder / name).is_file() for name in PARTS)


def write_tokenizer(folder: Path) -> Path:
    """`folder`/tokenizer.json, made of the parts there, and said in a line.

    Raises:
        UserError: parts that do not belong together, or a folder that cannot be written.
    """
    path = folder / TOKENIZER
    try:
        content = tokenizer_json(folder)
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise UserError(
            f"{folder}: {', '.join(PARTS)} make no tokenizer ({error}); take the original's files"
        ) from error
    for token in content["added_tokens"]:
        if (found := tokenizer.token_to_id(token["content"])) != token["id"]:
            raise UserError(f"{folder}: {token['content']} is {token['id']} in {ADDED} and {found} with {VOCABULARY}")
    try:
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} is missing and cannot be written ({error.strerror}); copy the folder") from error
    print(f"{path}: made of {', '.join(PARTS)}", flush=True)
    return path


def tokenizer_json(folder: Path) -> dict[str, Any]:
    """The content of a tokenizer.json, as OpenAI's own is laid out."""
    vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    added = json.loads((folder / ADDED).read_text(encoding="utf-8"))
    lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    special = {END: vocabulary[END]} | added if END in vocabulary else added
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(*token) for token in sorted(special.items(), key=lambda token: token[1])],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": False},
        "post_processor": _template(special),
        "decoder": BYTE_LEVEL | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(content: str, number: int) -> dict[str, Any]:
    is_time = TIMESTAMP.fullmatch(content) is not None
    sides = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": number, "content": content, **sides, "normalized": is_time, "special": not is_time}


def _template(special: dict[str, int]) -> dict[str, Any]:
    """What stands around a sentence where special tokens are asked for."""

    def token(name: str, part: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": part}}

    first, second = ({"Sequence": {"id": name, "type_id": part}} for part, name in enumerate("AB"))
    head = [token(START), token(NO_TIMESTAMPS), first]
    return {
        "type": "TemplateProcessing",
        "single": [*head, token(END)],
        "pair": [*head, second, token(END, 1)],
        "special_tokens": {
            name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in (START, NO_TIMESTAMPS, END)
        },
    }
