"""Thinned windows against Hugging Face's model with the same coarse positions in silence, and what is kept of them."""

import csv

import jax
import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import WhisperFeatureExtractor

from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.model import DecoderLayer, EncoderLayer
from jax_train.thinned import EVERY, LENGTHS, MARGIN, kept, lengths, sent
from jax_train.weights import load_model
from tests.recorded_generate import Recorder, generated
from tests.torch_reference import small_model_dir

N_CLIPS, MAX_NEW_TOKENS, WHOLE = 4, 60, 3000


@pytest.fixture(scope="module")
def clips(sample_corpus):
    """Real clips as Hugging Face's own extractor sees them, and the most frames that hear one."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[5 : 5 + N_CLIPS]
    audio = []
    for row in rows:
        samples, rate = soundfile.read(sample_corpus / "clips" / row["path"], dtype="float32")
        audio.append(soxr.resample(samples, rate, 16_000))
    features = WhisperFeatureExtractor()(audio, sampling_rate=16_000, return_tensors="np").input_features
    return np.ascontiguousarray(features.transpose(0, 2, 1)), -(-(max(map(len, audio)) + 200) // 160)


def _coarse_in_silence(model: Recorder, given: int) -> Recorder:
    """PyTorch's model, all positions computed, those of silence with the embedding of the middle one of their eight.

    Its last position sees the end of the window, where the convolution pads with zeros; it is made as silent as others.
    """
    positions = model.model.encoder.embed_positions.weight
    with torch.no_grad():
        for first in range((given - MARGIN) // 2 + 1, len(positions), EVERY):
            group = slice(first, min(first + EVERY, len(positions)))
            positions[group] = positions[group][(group.stop - first) // 2].clone()

    def silent_to_the_end(_module, _inputs, x_BDS):
        x_BDS[:, :, -1] = x_BDS[:, :, -2]
        return x_BDS

    model.model.encoder.conv2.register_forward_hook(silent_to_the_end)
    return model


def test_real_clips_decode_as_by_hugging_face_with_coarse_positions_in_silence(base_model_dir, clips):
    """Scores: 1e-4 of float32 logits summed in another order, as for whole windows."""
    windows_BFM, frames = clips
    given = sent(frames, LENGTHS, WHOLE)
    rules = DecodingRules.from_folder(base_model_dir, "it", MAX_NEW_TOKENS)
    decoder = BatchDecoder(load_model(base_model_dir), rules, N_CLIPS, jax.devices()[:1], frames=(given,))
    assert decoder.window(frames) == given < WHOLE
    found = decoder(windows_BFM[:, :given])
    coarse = _coarse_in_silence(Recorder.from_pretrained(base_model_dir), given)
    tokens, judged = generated(coarse, windows_BFM, num_beams=1, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    written = [[token for token in row.tolist() if token < rules.end] for row in np.asarray(found.tokens_BN)]
    assert written == [[token for token in row if token < rules.end] for row in tokens]
    assert all(len(row) > 2 for row in written)
    np.testing.assert_allclose(np.asarray(found.log_prob_B), [row.log_prob for row in judged], atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.no_speech_B), [row.no_speech for row in judged], atol=1e-4)


def test_silence_is_kept_by_the_middle_of_every_eight_positions():
    kept_S, count_S = kept(speech=3, positions=22)
    assert kept_S.tolist() == [0, 1, 2, 7, 15, 20]
    assert count_S.tolist() == [1, 1, 1, 8, 8, 3]
    for speech in range(1, 40):
        kept_S, count_S = kept(speech, 40)
        assert count_S.sum() == 40
        assert (np.diff(kept_S) > 0).all()


def test_what_is_given_of_a_window_ends_in_silence_unless_it_is_whole():
    assert [sent(n, (320, 400, WHOLE), WHOLE) for n in (1, 314, 315, 394, 395, 3000)] == [
        320,
        320,
        400,
        400,
        3000,
        3000,
    ]
    frames = np.array([300, 310, 500, 390, 2999])  # batches of two: 300 310 | 390 500 | 2999
    assert lengths(frames, 2, WHOLE) == (320, 560, WHOLE)
    assert lengths(np.array([10]), 2, 100) == (100,)  # a small model's windows are shorter than any length


def test_all_layers_are_traced_as_one(tmp_path, monkeypatch):
    """The decoder's once for the prompt and once for each stage of its loop: a large model has 32 of them."""
    traced = []
    for layer in (EncoderLayer, DecoderLayer):
        inner = layer.feed_forward

        def feed_forward(self, x, inner=inner):
            traced.append(type(self).__name__)
            return inner(self, x)

        monkeypatch.setattr(layer, "feed_forward", feed_forward)
    rules = DecodingRules((501, 502), 500, (), (), 100, 503)
    model = load_model(small_model_dir(tmp_path, encoder_layers=3, decoder_layers=3))
    BatchDecoder(model, rules, 3, jax.devices()[:1], frames=LENGTHS[:1])
    assert traced == ["EncoderLayer"] + 3 * ["DecoderLayer"]
