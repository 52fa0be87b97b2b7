"""Reading weights: an output matrix that is not the token embedding is no Whisper's, and not passed over."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from data.errors import UserError
from jax_train.weights import load_model


def test_an_output_matrix_of_its_own_is_refused_and_the_embedding_twice_is_not(small_model_dir, tmp_path):
    folder = shutil.copytree(small_model_dir, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.decoder.embed_tokens.weight"]
    save_file(tensors | {"proj_out.weight": embedding.copy()}, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(load_model(folder).decoder.embed_tokens.embedding[...], embedding)
    other = embedding.copy()
    other[7, 3] += 1e-3
    save_file(tensors | {"proj_out.weight": other}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"proj_out\.weight is not model\.decoder\.embed_tokens\.weight"):
        load_model(folder)
