"""The evaluation's page: the worst clips first, words aligned, the shards' pictures, the corpus's sound, no network."""

import json
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from data.audio import decode, resample
from data.errors import UserError
from data.pictures import TOP
from data.records import Shards
from data.sources import read_split
from jax_train.breakdown import part
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.rate_bars import rate_bars
from jax_train.scores import normaliser
from jax_train.word_pairs import word_pairs
from tests.conftest import REPOSITORY
from tests.page_parser import ALL_LOADED, SCREENS, PageParser, content_of, wait_until

HOSTILE = '<script>document.title="hacked"</script> {{ 7 * 7 }} مرحبا 👩‍🚀'
SCREENSHOTS = REPOSITORY / "build" / "report"


@pytest.fixture(scope="module")
def shards(small_shards):
    return Shards.open(small_shards, "train")


@pytest.fixture(scope="module")
def config(small_shards, shards, tmp_path_factory):
    """Made predictions: one in three right, one in three without its second word, the others loop or are hostile."""
    clean = np.flatnonzero(shards.index["copy"] == 0)
    heard = [shards[row].text for row in clean]
    heard[1::3] = [" ".join(text.split()[:1] + text.split()[2:]) for text in heard[1::3]]
    heard[2] += " sottotitoli creati" * 20
    heard[5] = HOSTILE
    heard[8] = ""
    file = tmp_path_factory.mktemp("predictions") / "made.parquet"
    pq.write_table(pa.table({"id": shards.index["id"][clean], "hypothesis": heard}), file)
    return EvaluateConfig(shards=small_shards, split="train", predictions=file, out=file.parent / "out")


@pytest.fixture(scope="module")
def result(config):
    return evaluate(config)


@pytest.fixture(scope="module")
def rows(result):
    """The clips with an error, in the page's order as its text says it."""
    found = pq.read_table(f"{result['settings']['out']}/predictions.parquet").to_pylist()
    for row in found:
        for kind in ("", "_normalised"):
            row[f"wrong{kind}"] = sum(row[f"{name}{kind}"] for name in ("substitutions", "deletions", "insertions"))
    wrong = [row for row in found if row["wrong"] or row["wrong_normalised"]]
    return sorted(wrong, key=lambda row: (-row["wrong_normalised"], -row["wrong"], row["words_normalised"]))


@pytest.fixture(scope="module")
def text(result):
    return Path(result["settings"]["out"], "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return PageParser(text)


def record_of(shards, row):
    (found,) = np.flatnonzero((shards.index["id"] == row["id"]) & (shards.index["copy"] == 0))
    return shards[found]


def test_the_worst_clips_come_first_and_the_right_ones_not_at_all(page, rows):
    assert [article["aria-label"] for article in page.all("article")] == [f"Clip {row['id']}" for row in rows]
    assert 10 < len(rows) < 40
    assert rows[0]["hallucination"]
    assert rows[0]["repetition"]


def test_words_said_stand_above_words_heard(page, rows):
    said, heard = ([text for text in page.text_of(kind) if text != "∅"] for kind in ("said", "heard"))
    assert said == [word for row in rows for word in row["reference"].split()]
    assert heard == [word for row in rows for word in row["hypothesis"].split()]
    lines = [attributes for _, attributes in page.elements if attributes.get("class") == "aligned"]
    assert all(line["dir"] == "auto" and line["lang"] == "it" for line in lines)


def test_the_page_loads_nothing_and_what_was_heard_stays_text(page):
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")
    assert len(page.all("script")) == 1
    assert '<script>document.title="hacked"</script>' in page.text_of("heard")


def test_pictures_are_the_shards_bytes_and_players_hold_the_recordings(page, rows, shards, sample_corpus):
    """Sound to a step of 16 bits, of clips that stay within ±1."""
    clips = {clip.id: clip for clip in read_split(str(sample_corpus), "train").clips}
    assert len(page.all("img")) == len(page.all("audio")) == len(rows)
    for image, audio, row in zip(page.all("img"), page.all("audio"), rows, strict=True):
        record = record_of(shards, row)
        picture = Image.open(BytesIO(content_of(image["src"], "image/png")))
        np.testing.assert_array_equal(np.asarray(picture)[::-1].T, record.log_mel_q)
        got_N, rate = soundfile.read(BytesIO(content_of(audio["src"], "audio/flac")), dtype="float32")
        want_N = resample(*decode(clips[row["id"]].audio.load()))
        assert rate == 16_000
        np.testing.assert_allclose(got_N, want_N / max(float(np.abs(want_N).max()), 1.0), rtol=0, atol=1 / 32768)


def test_the_figures_on_the_page_are_those_of_the_scores(text, result):
    assert json.loads(Path(result["settings"]["out"], "scores.json").read_text(encoding="utf-8")) == result
    for name in ("wer", "wer_normalised", "cer", "cer_normalised"):
        assert f"<dd>{result[name]:.2f} %</dd>" in text
    assert result["normaliser"] in text
    assert f"<dt>clips with an invented phrase</dt><dd>{result['signs']['hallucinations']}</dd>" in text
    assert "made.parquet" in text


def test_without_the_recordings_the_page_says_so_and_shows_the_log_mels(config, small_shards, tmp_path):
    shutil.copytree(small_shards, tmp_path / "shards")
    manifest = tmp_path / "shards" / "train" / "manifest.json"
    manifest.write_text(re.sub(r'"source": "[^"]*"', '"source": "/gone/corpus"', manifest.read_text()))
    evaluate(replace(config, shards=tmp_path / "shards", out=tmp_path / "out", report_clips=2))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "the recordings are not here: no /gone/corpus" in page
    parsed = PageParser(page)
    assert (len(parsed.all("audio")), len(parsed.all("img")), len(parsed.all("article"))) == (0, 2, 2)


def test_a_recording_that_changed_is_not_played(config, rows, sample_corpus, tmp_path):
    shutil.copytree(sample_corpus, tmp_path / "corpus")
    clips = tmp_path / "corpus" / "clips"
    shutil.copy(clips / rows[1]["id"], clips / rows[0]["id"])
    (clips / rows[1]["id"]).write_bytes(b"no audio" * 200)
    evaluate(replace(config, recordings=str(tmp_path / "corpus"), out=tmp_path / "out", report_clips=3))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "another length than when the shards were made" in page
    assert len(PageParser(page).all("audio")) == 1
    assert page.count("No recording:") == 2


def test_no_clips_are_shown_if_none_are_wanted_and_a_wrong_corpus_is_said(config, tmp_path):
    evaluate(replace(config, out=tmp_path, report_clips=0))
    assert PageParser((tmp_path / "report.html").read_text(encoding="utf-8")).all("article") == []
    with pytest.raises(UserError, match="no/such/corpus"):
        evaluate(replace(config, out=tmp_path, recordings="no/such/corpus"))


def test_words_are_paired_by_their_normalised_form_and_shown_as_written():
    pairs = word_pairs(["Perché no, c'è il sole …"], ["perché ecco c'è sole molto"], normaliser())
    assert [(pair.kind, pair.reference, pair.hypothesis) for pair in pairs[0]] == [
        ("spelling", "Perché", "perché"),
        ("substituted", "no,", "ecco"),
        ("same", "c'è", "c'è"),
        ("deleted", "il", ""),
        ("same", "sole", "sole"),
        ("substituted", "…", "molto"),
    ]
    assert [[pair.kind for pair in clip] for clip in word_pairs(["uno due", "tre"], ["", "tre"], normaliser())] == [
        ["deleted", "deleted"],
        ["same"],
    ]


def test_bars_are_as_high_as_their_rates_and_whiskers_as_long_as_their_intervals():
    counts_CK = np.tile([2, 10, 2, 10, 2, 10, 2, 10], (10, 1))
    counts_CK[:5, 4] = 1
    parts = [part(counts_CK, np.arange(10) < limit) for limit in (3, 10)]
    plot = rate_bars("WER", parts, ["a", "b"], "s")
    heights = [bar.height for bar in plot.bars]
    assert heights[1] / heights[0] == pytest.approx(1.5, rel=1e-3)  # 15 % and 10 %; places have two decimals
    assert len(plot.whiskers) == 1  # three clips have none
    low, high = parts[1]["wer_normalised_interval"]
    scale = heights[1] / parts[1]["wer_normalised"]
    assert abs(plot.whiskers[0].high - plot.whiskers[0].low) == pytest.approx(scale * (high - low), abs=0.1)
    assert plot.bars[0].says == "a s: 10.0 %, 3 clips"
    assert rate_bars("WER", [], [], "s").bars == []


def test_a_part_without_words_takes_its_label_along_and_an_interval_ends_with_the_picture():
    counted = {"wer_normalised": 100.0, "wer_normalised_interval": (50.0, 400.0), "clips": 5}
    plot = rate_bars("WER", [counted | {"wer_normalised": None}, counted], ["a", "b"], "s")
    assert [tick.label for tick in plot.x_ticks] == ["b"]
    assert plot.says == "b s: 100.0 % (50.0 to 400.0), 5 clips"
    assert plot.whiskers[0].high == TOP


@pytest.mark.parametrize("screen", list(SCREENS))
def test_a_browser_shows_and_plays_the_report_from_a_file(screen, browser, config, result, rows):
    """Durations are a file's samples over its rate, so exact."""
    with browser.new_context(**SCREENS[screen]) as context:
        tab = context.new_page()
        complaints, asked = [], []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        address = (config.out / "report.html").as_uri()
        tab.goto(address)
        wait_until(tab, ALL_LOADED)
        durations = tab.evaluate("[...document.querySelectorAll('audio')].map(audio => audio.duration)")
        assert durations == pytest.approx([row["seconds"] for row in rows], abs=1e-4)
        assert tab.evaluate("[...document.images].every(image => image.naturalHeight == 80)")
        assert tab.title() == f"{result['model']} on train – evaluation"
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]  # nothing sticks out
        assert [url for url in asked if not url.startswith(("data:", address))] == []
        tab.locator(".pictures").first.click(position={"x": 100, "y": 50})
        wait_until(tab, "document.querySelector('audio').currentTime > 0")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=SCREENSHOTS / f"{screen}-all.png", full_page=True)
        assert complaints == []
