"""A tokenizer.json made of vocab.json, merges.txt and added_tokens.json is OpenAI's own."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from data.errors import UserError
from data.model_files import model_file
from jax_train.pretrained import model_folder

SENTENCE = " Perché l'università è così lontana? Così è, più o meno."


@pytest.fixture
def whisper_folder(tmp_path):
    """The least that passes for a Whisper folder, without a tokenizer."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_tokenizer_is_made_of_its_parts_and_writes_what_openais_does(base_model_dir, whisper_folder, capsys):
    original = json.loads((base_model_dir / "tokenizer.json").read_text(encoding="utf-8"))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in original["model"]["merges"]]
    merges = "\n".join(["#version: 0.2", *pairs]) + "\n"
    added = {token["content"]: token["id"] for token in original["added_tokens"] if token["content"] != "<|endoftext|>"}
    (whisper_folder / "vocab.json").write_text(json.dumps(original["model"]["vocab"]), encoding="utf-8")
    (whisper_folder / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        model_folder(str(whisper_folder))
    (whisper_folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    path = model_file(str(whisper_folder), "tokenizer.json")
    assert path == model_folder(str(whisper_folder)) / "tokenizer.json"
    assert capsys.readouterr().out == f"{path}: made of vocab.json, merges.txt, added_tokens.json\n"
    ours, theirs = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(base_model_dir / "tokenizer.json"))
    assert ours.get_vocab() == theirs.get_vocab()
    for text in (SENTENCE, " 🎙 naïve  ＡＢＣ\n", "<|it|> non <|0.02|>", " 1.234,5 €"):
        for special in (False, True):
            numbers, wanted = (each.encode(text, add_special_tokens=special).ids for each in (ours, theirs))
            assert numbers == wanted
            assert ours.decode(numbers) == theirs.decode(numbers)
    (whisper_folder / "added_tokens.json").write_text(json.dumps(added | {"<|it|>": 7}), encoding="utf-8")
    path.unlink()
    with pytest.raises(UserError, match=r"<\|it\|> is 7 in added_tokens.json and"):
        model_folder(str(whisper_folder))
