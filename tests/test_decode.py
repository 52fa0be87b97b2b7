"""Decoding against Hugging Face's `generate`, on real clips with the real base weights."""

import csv
import json

import jax
import numpy as np
import pytest
import soundfile
import soxr
import torch
from flax import nnx
from tokenizers import Tokenizer
from transformers import WhisperConfig as TorchConfig
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from data.errors import UserError
from jax_train.config import WhisperConfig
from jax_train.decode import BatchDecoder, text_of
from jax_train.decoding_rules import DecodingRules
from jax_train.model import Whisper
from jax_train.weights import load_model
from tests.conftest import thorough
from tests.recorded_generate import Recorder, generated

N_CLIPS = 6
MAX_NEW_TOKENS = 60  # of the 444 there is room for: the clips take at most 30


@pytest.fixture(scope="module")
def speech_windows(sample_corpus):
    """Six test clips of both speakers as Hugging Face's own extractor sees them."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:: 83 // N_CLIPS][:N_CLIPS]
    clips = []
    for row in rows:
        audio, rate = soundfile.read(sample_corpus / "clips" / row["path"], dtype="float32")
        clips.append(soxr.resample(audio, rate, 16_000))
    features = WhisperFeatureExtractor()(clips, sampling_rate=16_000, return_tensors="np").input_features
    return np.ascontiguousarray(features.transpose(0, 2, 1))


@pytest.fixture(scope="module")
def torch_base(base_model_dir):
    return Recorder.from_pretrained(base_model_dir)


@pytest.fixture(scope="module")
def said(torch_base, speech_windows):
    """What PyTorch writes for each clip, without the prompt and the end, and what it thinks of it."""
    options = {"num_beams": 1, "do_sample": False, "max_new_tokens": MAX_NEW_TOKENS}
    tokens, judged = generated(torch_base, speech_windows, **options)
    return [[token for token in row if token < 50257] for row in tokens], judged


@pytest.fixture(scope="module")
def base_decoder(base_model_dir):
    rules = DecodingRules.from_folder(base_model_dir, "it", MAX_NEW_TOKENS)
    return BatchDecoder(load_model(base_model_dir), rules, 4, jax.devices()[:1])


def _written(decoded, end):
    return [[token for token in row.tolist() if token < end] for row in np.asarray(decoded.tokens_BN)]


def test_real_clips_decode_token_for_token_as_hugging_face_generates(base_decoder, speech_windows, said):
    """Two batches, the second of two rows completed to four. Scores: 1e-4 of float32 logits summed in another order."""
    first, second = base_decoder(speech_windows[:4]), base_decoder(speech_windows[4:])
    found = _written(first, base_decoder.rules.end) + _written(second, base_decoder.rules.end)[:2]
    assert found == said[0]
    assert all(len(tokens) > 2 for tokens in found)
    log_probs = [*np.asarray(first.log_prob_B), *np.asarray(second.log_prob_B)[:2]]
    np.testing.assert_allclose(log_probs, [row.log_prob for row in said[1]], atol=1e-4)
    no_speech = [*np.asarray(first.no_speech_B), *np.asarray(second.no_speech_B)[:2]]
    np.testing.assert_allclose(no_speech, [row.no_speech for row in said[1]], atol=1e-4)


@pytest.mark.parametrize(("num_beams", "timestamps"), [pytest.param(3, False, marks=thorough), (1, True)])
def test_real_clips_with_beams_or_timestamps_are_hugging_faces(
    base_model_dir, torch_base, speech_windows, num_beams, timestamps
):
    """Two clips, up to the end that both write."""
    rules = DecodingRules.from_folder(base_model_dir, "it", MAX_NEW_TOKENS, timestamps)
    decoder = BatchDecoder(load_model(base_model_dir), rules, 2, jax.devices()[:1], num_beams=num_beams)
    found = [[*row, rules.end] for row in _written(decoder(speech_windows[:2]), 1 << 20)]
    options = {"num_beams": num_beams, "return_timestamps": timestamps, "max_new_tokens": MAX_NEW_TOKENS}
    _, judged = generated(torch_base, speech_windows[:2], **options)
    assert [row[: row.index(rules.end) + 1] for row in found] == [row.tokens for row in judged]
    assert all((row.tokens[0] > rules.prompt[-1]) == timestamps for row in judged)


def test_the_text_is_the_tokenizers_without_special_and_timestamp_tokens(base_model_dir, said):
    tokenizer = Tokenizer.from_file(str(base_model_dir / "tokenizer.json"))
    text = text_of(np.array([50364, *said[0][0], 50400, 50257, 50257]), tokenizer, 50257)
    assert text == tokenizer.decode(said[0][0]).strip() != ""
    assert "<|" not in text


def test_the_rules_are_the_models_own(base_model_dir):
    rules = DecodingRules.from_folder(base_model_dir, "it")
    assert rules.prompt == (50258, 50274, 50359, 50363)
    assert (rules.end, rules.max_new_tokens, rules.begin_suppress) == (50257, 444, (220, 50257))
    assert {50258, 50358, 50362} < set(rules.suppress)


@pytest.mark.parametrize(
    ("language", "tokens", "change", "message"),
    [
        ("klingon", 0, {}, "no language 'klingon'; there are af am ar"),
        ("it", 445, {}, "max_new_tokens 445: the decoder takes 1 to 444"),
        ("it", -1, {}, "max_new_tokens -1"),
        ("it", 0, {"lang_to_id": None}, "lacks 'lang_to_id'"),
    ],
)
def test_rules_that_cannot_be_had_are_said(base_model_dir, tmp_path, language, tokens, change, message):
    fields = json.loads((base_model_dir / "generation_config.json").read_text())
    kept = {name: value for name, value in fields.items() if name not in change}
    (tmp_path / "generation_config.json").write_text(json.dumps(kept))
    (tmp_path / "config.json").write_bytes((base_model_dir / "config.json").read_bytes())
    with pytest.raises(UserError, match=message):
        DecodingRules.from_folder(tmp_path, language, tokens)


SMALL = WhisperConfig(
    d_model=32,
    encoder_layers=1,
    encoder_attention_heads=2,
    decoder_layers=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    vocab_size=60,
    num_mel_bins=8,
    max_source_positions=20,
    max_target_positions=16,
)
RULES = DecodingRules(
    prompt=(50, 51, 52, 53), end=49, suppress=(7, 8), begin_suppress=(3, 49), max_new_tokens=12, no_speech=48
)


def _random_model(dtype="float32"):
    """A small random model; larger weights than the usual 0.02, so that it says different things of different input."""
    model = Whisper(SMALL, dtype, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda value: value * 10, state))


def _random_windows(rows):
    return np.random.default_rng(0).standard_normal((rows, 40, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def small_decoder():
    return BatchDecoder(_random_model(), RULES, 8, jax.devices()[:1])


def test_every_token_is_the_likeliest_one_of_the_whole_sequence_decoded_at_once(small_decoder):
    """The cached steps against the model's own uncached pass over what they wrote, to the decoder's last position."""
    windows_BFM = _random_windows(8)
    found_BN = np.asarray(small_decoder(windows_BFM).tokens_BN)
    sequence_BL = np.concatenate([np.tile(np.array(RULES.prompt), (8, 1)), found_BN], axis=1)
    logits_BLV = np.array(nnx.jit(_random_model())(windows_BFM, sequence_BL))
    logits_BLV[:, :, RULES.suppress] = -np.inf
    logits_BLV[:, len(RULES.prompt) - 1, RULES.begin_suppress] = -np.inf
    likeliest_BN = logits_BLV.argmax(-1)[:, len(RULES.prompt) - 1 : -1]
    ended_BN = np.cumsum(found_BN == RULES.end, axis=1) - (found_BN == RULES.end) > 0
    np.testing.assert_array_equal(np.where(ended_BN, RULES.end, likeliest_BN), found_BN)
    assert len({tuple(row) for row in found_BN.tolist()}) > 1


def test_eight_devices_write_what_one_writes(small_decoder):
    windows_BFM = _random_windows(8)
    eight = BatchDecoder(_random_model(), RULES, 8, jax.devices()[:8])(windows_BFM)
    np.testing.assert_array_equal(np.asarray(small_decoder(windows_BFM).tokens_BN), np.asarray(eight.tokens_BN))


def test_a_row_does_not_depend_on_the_others_in_its_batch(small_decoder):
    windows_BFM = _random_windows(8)
    alone = [np.asarray(small_decoder(windows_BFM[row : row + 1]).tokens_BN)[0] for row in range(8)]
    np.testing.assert_array_equal(np.asarray(small_decoder(windows_BFM).tokens_BN), np.stack(alone))


def test_bfloat16_keeps_its_weights_in_bfloat16_and_writes_tokens_of_the_vocabulary():
    decoder = BatchDecoder(_random_model("bfloat16"), RULES, 2, jax.devices()[:1])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(decoder.state)} == {"bfloat16"}
    tokens_BN = np.asarray(decoder(_random_windows(2)).tokens_BN)
    assert tokens_BN.shape == (2, 12)
    assert not np.isin(tokens_BN, RULES.suppress).any()


def test_a_batch_that_does_not_divide_by_the_devices_is_refused():
    with pytest.raises(UserError, match="--batch-size 3: takes a multiple of the 2 devices"):
        BatchDecoder(_random_model(), RULES, 3, jax.devices()[:2])


def test_hugging_face_generates_the_same_with_many_layers_and_128_mel_bins(tmp_path):
    """large-v3's shape in small: 128 mel bins, fewer decoder than encoder layers."""
    torch.manual_seed(0)
    config = TorchConfig(
        d_model=32,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=60,
        num_mel_bins=128,
        max_source_positions=20,
        max_target_positions=16,
        init_std=0.3,
        pad_token_id=49,
        bos_token_id=49,
        eos_token_id=49,
        decoder_start_token_id=50,
        begin_suppress_tokens=None,
    )
    theirs = WhisperForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    windows_BFM = np.random.default_rng(1).standard_normal((4, 40, 128)).astype(np.float32)
    ours = BatchDecoder(load_model(tmp_path), RULES, 4, jax.devices()[:1])
    found_BN = np.asarray(ours(windows_BFM).tokens_BN)
    tokens_BL = torch.tensor([RULES.prompt] * 4)
    with torch.no_grad():  # `generate` takes 30 s only: its greedy loop by hand, without a cache
        for step in range(RULES.max_new_tokens):
            logits_BV = theirs(torch.from_numpy(windows_BFM.transpose(0, 2, 1)), decoder_input_ids=tokens_BL).logits[
                :, -1
            ]
            banned = RULES.suppress + (RULES.begin_suppress if step == 0 else ())
            logits_BV[:, banned] = -torch.inf
            ended_B = (tokens_BL[:, 4:] == RULES.end).any(1)
            next_B = torch.where(ended_B, RULES.end, logits_BV.argmax(-1))
            tokens_BL = torch.cat([tokens_BL, next_B[:, None]], dim=1)
    np.testing.assert_array_equal(found_BN, tokens_BL[:, 4:].numpy())
