"""The engine beside transformers in float32, and what its rounded products compute beside those that are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import logging, pipeline

from serving import products, pytorch
from serving.decoder import Heard
from serving.media import SAMPLE_RATE, load_audio
from serving.products import has_bfloat16, product
from serving.pytorch import PyTorchWhisper
from serving.transcribe import Transcriber

HERE = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()


@pytest.fixture(scope="module")
def clips(sample_corpus: Path) -> list[np.ndarray]:
    return [load_audio(path) for path in sorted((sample_corpus / "clips").glob("*.mp3"))[:4]]


def transcriber(folder: Path, bfloat16: bool) -> Transcriber:
    """One without 8 bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch, "has_eight_bits", lambda _: False)
        patch.setattr(pytorch, "has_bfloat16", lambda _: bfloat16)
        return Transcriber(folder)


def test_in_float32_clips_give_the_text_of_transformers_own_pipeline(clips, base_model_dir, monkeypatch) -> None:
    """With no position of the silence left out and no weight rounded, word for word."""
    monkeypatch.setattr(pytorch, "STRIDE", pytorch.POSITIONS)
    exact = transcriber(base_model_dir, bfloat16=False)
    peer = pipeline("automatic-speech-recognition", model=str(base_model_dir), device="cpu")
    for audio_N in clips[:2]:
        got = exact.transcribe_audio(audio_N)
        greedy = {"task": "transcribe", "num_beams": 1}  # the pipeline's own are five
        want = peer({"raw": audio_N, "sampling_rate": SAMPLE_RATE}, generate_kwargs=greedy)
        assert got.text == want["text"].strip()
        assert (got.seconds, got.language) == (audio_N.size / SAMPLE_RATE, "it")
        (segment,) = got.segments
        assert segment.text == got.text
        assert 0.0 <= segment.start < segment.end <= got.seconds


def likely(engine: PyTorchWhisper, heard: Heard, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities (B, L, V) of what follows each token, of every window."""
    cache, found = engine._cache(len(heard.sounding)), []
    with torch.inference_mode():
        for token in tokens:
            given_B1 = torch.full((len(heard.sounding), 1), token)
            found.append(engine._logits(given_B1, cache, heard).log_softmax(-1))
    return torch.stack(found, 1)


def test_bfloat16_hears_what_float32_hears(clips, base_model_dir) -> None:
    """Thinned and whole windows in one batch, on any processor: bfloat16 is 8 bits of mantissa there, too.

    A divergence of 0.001 nats: measured are 0.0001; 8-bit weights have 0.004, an encoder in 8 bits has 0.03.
    """
    sounds = [clips[0], np.concatenate([*clips, *clips])[: 30 * SAMPLE_RATE], clips[1]]
    exact, half = (transcriber(base_model_dir, bfloat16) for bfloat16 in (False, True))
    log_mel_BMF = exact.features(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    prompt = exact.vocabulary.prompt("it", "transcribe", timestamps=False)
    said, heard, times = [], [], []
    for one in (exact, half):
        engine = one.engine
        heard.append(engine.hear(log_mel_BMF, [sound.size for sound in sounds], lambda: False))
        said = said or engine.write(heard[0], [0, 1, 2], prompt, 0.0, lambda: False)[1].tokens
        times.append(engine.times(heard[-1], 1, prompt, said))
    assert heard[0].keys[0].dtype == torch.float32
    assert {x.dtype for x in (*heard[1].keys, *heard[1].values)} == {torch.bfloat16}
    assert len(said) > 40
    want, got = (likely(one.engine, some, [*prompt, *said]) for one, some in zip((exact, half), heard, strict=True))
    assert float((want.exp() * (want - got)).sum(-1).mean()) < 1e-3
    assert np.median(np.abs(np.subtract(*times))) <= 0.02


def test_bfloat16_is_for_processors_with_a_matrix_unit_for_it(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert has_bfloat16(HERE)
    assert not has_bfloat16(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": True})
    assert not has_bfloat16(HERE)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as of an older PyTorch
    assert not has_bfloat16(HERE)


@pytest.mark.skipif(not products.has_eight_bits(HERE), reason="PyTorch has no 8-bit products here")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_of_eight_bits_do_not_overflow(sign: int) -> None:
    """A hundredth: half a step of 7 bits."""
    weight_NM, x = sign * torch.ones(64, 512), torch.ones(3, 512)
    got = product(weight_NM, torch.zeros(64), eight_bits=True)(x)
    torch.testing.assert_close(got, torch.full((3, 64), sign * 512.0), rtol=0.01, atol=0.0)
