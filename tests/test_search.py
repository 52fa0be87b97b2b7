"""Beams, timestamps, temperatures and scores of rows against Hugging Face's `generate`, on a small made model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig
from transformers import WhisperConfig as TorchConfig

from data.errors import UserError
from jax_train.beam_search import OUT, Beams, State, _continued
from jax_train.decode import BatchDecoder
from jax_train.decoding_rules import DecodingRules
from jax_train.fallback import Fallback, compression_ratio
from jax_train.greedy import TOP
from jax_train.weights import load_model
from tests.recorded_generate import Recorder, generated

ROWS, N_NEW, VOCAB = 16, 20, 70
END, START, NO_SPEECH, NO_TIMESTAMPS = 40, 41, 45, 46


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A random Whisper of 24 timestamps, whose transcripts end at many lengths, as a folder and in PyTorch."""
    torch.manual_seed(0)
    config = TorchConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=VOCAB,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=N_NEW + 4,
        init_std=0.25,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=START,
        begin_suppress_tokens=None,
    )
    model = Recorder(config).eval()
    with torch.no_grad():  # a padding token's embedding is 0
        model.model.decoder.embed_tokens.weight[END] = 0.2 * torch.randn(32)
    model.generation_config = GenerationConfig(
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=START,
        is_multilingual=True,
        lang_to_id={"<|it|>": START + 1},
        task_to_id={"transcribe": START + 2, "translate": START + 3},
        no_timestamps_token_id=NO_TIMESTAMPS,
        suppress_tokens=[7, 8, *range(START, NO_SPEECH + 1)],
        begin_suppress_tokens=[3, END],
        max_initial_timestamp_index=5,
        max_length=N_NEW + 4,
    )
    folder = tmp_path_factory.mktemp("made")
    model.save_pretrained(folder)
    windows_BFM = np.random.default_rng(1).standard_normal((ROWS, 40, 8)).astype(np.float32)
    return folder, model, windows_BFM


def _judged(model, windows_BFM, **options):
    return generated(model, windows_BFM, **({"max_new_tokens": N_NEW} | options))[1]


def _to_end(tokens_N, end=END):
    return tokens_N[: int((tokens_N != end).sum()) + 1].tolist()


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_and_their_probabilities_are_hugging_faces(made, num_beams, timestamps):
    """2e-5: float32 means of some logarithms near -3, of logits summed in another order."""
    folder, model, windows_BFM = made
    rules = DecodingRules.from_folder(folder, "it", N_NEW, timestamps)
    found = BatchDecoder(load_model(folder), rules, ROWS, jax.devices()[:1], num_beams=num_beams)(windows_BFM)
    wanted = _judged(model, windows_BFM, num_beams=num_beams, return_timestamps=timestamps)
    assert [_to_end(row) for row in np.asarray(found.tokens_BN)] == [row.tokens for row in wanted]
    np.testing.assert_allclose(found.log_prob_B, [row.log_prob for row in wanted], atol=2e-5)
    np.testing.assert_allclose(found.no_speech_B, [row.no_speech for row in wanted], atol=2e-6)
    assert len({len(row.tokens) for row in wanted}) > 2
    assert wanted[0].tokens[0] > NO_TIMESTAMPS or not timestamps


@pytest.mark.parametrize(("probabilities", "finished"), [([0.6, 0.1, 0.3], OUT), ([0.3, 0.1, 0.6], np.log(0.6))])
def test_an_end_counts_only_among_as_many_candidates_as_there_are_beams(probabilities, finished):
    """One beam has two candidates; token 2 is the end. 1e-6: float32's logarithm."""
    tokens, zero = jnp.full((1, 1, 4), 2), jnp.zeros((1, 1))
    begun = State(jnp.int32(0), Beams(tokens, zero, zero), Beams(tokens, zero + OUT, zero), jnp.zeros(1, bool), [])
    found = _continued(begun, jnp.log(jnp.array([probabilities])), rules=DecodingRules((), 2, (), (), 4, 0))
    assert found.running.tokens_BXN[0, 0, 0] == 0
    assert found.finished.score_BX.item() == pytest.approx(finished, rel=1e-6)


@pytest.fixture(scope="module")
def greedy_decoder(made):
    folder, _, _ = made
    rules = DecodingRules.from_folder(folder, "it", N_NEW)
    return BatchDecoder(load_model(folder), rules, ROWS, jax.devices()[:1])


def test_the_same_rows_are_decoded_again_or_dropped_as_by_hugging_face(made, greedy_decoder):
    """Thresholds amid the values of these rows, so that each criterion decides about some."""
    _, model, windows_BFM = made
    rows = _judged(model, windows_BFM)
    middle = {
        "compression_ratio_threshold": float(np.median([row.compression_ratio for row in rows])),
        "logprob_threshold": float(np.quantile([row.log_prob for row in rows], 0.6)) + 1e-3,
        "no_speech_threshold": float(np.median([row.no_speech for row in rows])) + 1e-5,
    }
    wanted = _judged(model, windows_BFM, **middle)
    fallback = Fallback(temperatures=(0.0, 1.0), **middle)
    found = greedy_decoder(windows_BFM)
    verdicts = [
        fallback.verdict(_to_end(tokens_N), log_prob, no_speech, VOCAB)
        for tokens_N, log_prob, no_speech in zip(*map(np.asarray, found), strict=True)
    ]
    assert verdicts == [("silence" if row.silence else "again" if row.again else "believed") for row in wanted]
    assert set(verdicts) == {"silence", "again", "believed"}
    ratios = [compression_ratio(row.tokens, VOCAB) for row in wanted]
    assert ratios == [row.compression_ratio for row in wanted]
    assert {Fallback().verdict([5] * 99, -9.0, 1.0, VOCAB)} == {"believed"}


def _log_probs_of(model, windows_BFM, rules, tokens_BN):
    """PyTorch's mean log-probability of tokens among the likeliest `TOP` at each place, as `generate` counts it."""
    prompt_BP = np.tile(np.array(rules.prompt), (len(tokens_BN), 1))
    with torch.no_grad():
        logits_BNV = model(
            torch.from_numpy(windows_BFM.transpose(0, 2, 1)),
            decoder_input_ids=torch.from_numpy(np.concatenate([prompt_BP, tokens_BN[:, :-1]], axis=1)),
        ).logits[:, len(rules.prompt) - 1 :]
    logits_BNV[:, :, rules.suppress] = -torch.inf
    logits_BNV[:, 0, rules.begin_suppress] = -torch.inf
    least_BN1 = logits_BNV.topk(TOP).values[:, :, -1:]
    log_probs_BNV = torch.where(logits_BNV < least_BN1, -torch.inf, logits_BNV).log_softmax(-1)
    log_probs_BN = log_probs_BNV.gather(2, torch.from_numpy(tokens_BN.astype(np.int64))[:, :, None])[:, :, 0]
    return [
        row_N[: len(_to_end(tokens_N))].mean().item() for row_N, tokens_N in zip(log_probs_BN, tokens_BN, strict=True)
    ]


def test_drawn_tokens_score_as_hugging_face_scores_them_and_hang_on_the_seed_alone(made, greedy_decoder):
    """2e-5: as above. A token outside the likeliest `TOP`, or suppressed, would score -inf."""
    _, model, windows_BFM = made
    seeds = np.arange(ROWS, dtype=np.uint32)
    found = greedy_decoder.sample(windows_BFM, 1.5, seeds)
    tokens_BN = np.asarray(found.tokens_BN)
    rules = greedy_decoder.rules
    np.testing.assert_allclose(found.log_prob_B, _log_probs_of(model, windows_BFM, rules, tokens_BN), atol=2e-5)
    back = np.asarray(greedy_decoder.sample(windows_BFM[::-1], 1.5, seeds[::-1]).tokens_BN)
    np.testing.assert_array_equal(back[::-1], tokens_BN)
    others = np.asarray(greedy_decoder.sample(windows_BFM, 1.5, seeds + 99).tokens_BN)
    assert (others != tokens_BN).any(1).sum() > ROWS // 2
    cold = np.asarray(greedy_decoder.sample(windows_BFM, 1e-4, seeds).tokens_BN)
    np.testing.assert_array_equal(cold, np.asarray(greedy_decoder(windows_BFM).tokens_BN))


def test_first_tokens_are_drawn_as_often_as_their_probabilities_say(made, greedy_decoder):
    """Chi-squared of 640 draws at temperature 2 of one window's first token: p > 0.001 for a fixed set of seeds."""
    _, model, windows_BFM = made
    rules, same = greedy_decoder.rules, np.repeat(windows_BFM[:1], ROWS, axis=0)
    drawn = np.concatenate(
        [
            np.asarray(greedy_decoder.sample(same, 2.0, np.arange(ROWS, dtype=np.uint32) + ROWS * n).tokens_BN)[:, 0]
            for n in range(40)
        ]
    )
    with torch.no_grad():
        logits_V = model(
            torch.from_numpy(windows_BFM[:1].transpose(0, 2, 1)), decoder_input_ids=torch.tensor([rules.prompt])
        ).logits[0, -1]
    logits_V[[*rules.suppress, *rules.begin_suppress]] = -torch.inf
    top = logits_V.topk(TOP)
    expected_V = np.zeros(VOCAB)
    expected_V[top.indices] = len(drawn) * (top.values / 2.0).softmax(0).numpy()
    observed_V = np.bincount(drawn, minlength=VOCAB)
    assert not observed_V[expected_V == 0].any()
    often = np.flatnonzero(expected_V >= 5)  # the rest are counted as one
    groups = [np.array([token]) for token in often] + [np.setdiff1d(np.flatnonzero(expected_V), often)]
    observed, expected = (
        [counts_V[group].sum() for group in groups if len(group)] for counts_V in (observed_V, expected_V)
    )
    assert chisquare(observed, np.array(expected) * (len(drawn) / sum(expected))).pvalue > 0.001


def test_a_token_of_a_real_vocabulary_counts_as_two_bytes_in_hugging_faces_order(made):
    """Tokens that are compressed to another length where their bytes stand the other way about."""
    for tokens in ([300, 1, 300, 2] * 10, [5, 1280] * 3 + [9] * 40):
        wanted = made[1]._retrieve_compression_ratio(torch.tensor(tokens), 51_865)
        assert compression_ratio(tokens, 51_865) == wanted


@pytest.mark.parametrize("temperatures", [(), (0.2,), (0.0, -0.2), (0.0, 0.0)])
def test_temperatures_that_make_no_sense_are_refused(temperatures):
    with pytest.raises(UserError, match=r"--fallback\.temperatures"):
        Fallback(temperatures=temperatures)
