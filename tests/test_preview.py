"""The preview: one page that asks nothing of any server, shows what shards hold, and plays what they were made of."""

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from data.audio import decode
from data.augment import find_recipe
from data.errors import UserError
from data.featurize import FeaturizeConfig, featurize
from data.preview import PreviewConfig, preview, shard_job
from data.records import Record, Shards
from data.shard_jobs import make_copy
from data.sources import read_split
from tests.page_parser import ALL_LOADED, SCREENS, PageParser, content_of, wait_until

REPOSITORY = Path(__file__).resolve().parent.parent
SCREENSHOTS = REPOSITORY / "build" / "preview"
HOSTILE = '<script>document.title="hacked"</script> <b>&amp;</b> "quoted" \'so\' {{ 7 * 7 }}'
ARABIC = "مرحبا بالعالم، كيف حالك اليوم؟"
EMOJI = "👩‍🚀 Perché no? È già «così»."


@pytest.fixture(scope="module")
def corpus(sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips with hard sentences, and one clip for each of some reasons to leave it out."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "clips").mkdir()
    with (sample_corpus / "train.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:16]
    for row in rows[:12]:
        shutil.copy(sample_corpus / "clips" / row["path"], folder / "clips")
    for row, sentence in zip(rows, (HOSTILE, ARABIC, EMOJI), strict=False):
        row["sentence"] = sentence
    rows[3]["client_id"] = '"><img src=http://example.com/x.png>'
    (folder / "clips" / rows[12]["path"]).write_bytes(b"<b>no audio</b>" * 200)
    rows[13]["sentence"] = ""  # 14 and 15: no such file
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def config(corpus: Path, base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PreviewConfig:
    output = tmp_path_factory.mktemp("page") / "preview.html"
    config = PreviewConfig(str(corpus), str(base_model_dir), clips=12, output=str(output))
    preview(config)
    return config


@pytest.fixture(scope="module")
def page(config: PreviewConfig) -> PageParser:
    return PageParser(Path(config.output).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def records(config: PreviewConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """What featurize makes of the same corpus with the same settings."""
    shards = tmp_path_factory.mktemp("shards")
    featurize(
        FeaturizeConfig(config.source, str(shards), config.model, copies=2, workers=1, max_rejected="50%"),
    )
    opened = Shards.open(shards, "train")
    return [opened[position] for position in range(len(opened))]


def test_every_clip_is_there_with_all_its_versions(page):
    assert len(page.all("article")) == 12
    assert len(page.all("audio")) == len(page.all("img")) == 12 * 3
    assert all(audio["controls"] is None and audio["aria-label"] for audio in page.all("audio"))
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_page_loads_nothing_from_anywhere(page):
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert page.all("link") == page.all("iframe") == []
    (policy,) = (meta["content"] for meta in page.all("meta") if "content" in meta and "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")


def test_sentences_of_any_kind_are_text_and_nothing_else(page):
    sentences = page.text_of("sentence")
    assert sentences[:3] == [HOSTILE, ARABIC, EMOJI]
    marked = [attributes for _, attributes in page.elements if attributes.get("class") == "sentence"]
    assert all(attributes["dir"] == "auto" and attributes["lang"] == "it" for attributes in marked)
    assert len(page.all("script")) == 1
    assert not any("example.com" in str(attributes) for _, attributes in page.elements)


def test_the_log_mels_are_the_bytes_of_the_shards(page, records):
    for image, record in zip(page.all("img"), records, strict=True):
        picture = Image.open(BytesIO(content_of(image["src"], "image/png")))
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture)[::-1].T, record.log_mel_q)
        assert (image["width"], image["height"]) == tuple(map(str, record.log_mel_q.shape))


def test_the_players_hold_the_audio_behind_the_records(page, records):
    """Within a step of 16 bits; and of the length that the record says."""
    for audio, record in zip(page.all("audio"), records, strict=True):
        samples_N, rate = soundfile.read(BytesIO(content_of(audio["src"], "audio/flac")), dtype="float32")
        assert rate == 16_000
        assert samples_N.ndim == 1
        assert len(samples_N) / rate == pytest.approx(record.seconds, abs=1e-6)
        assert 0.001 < np.abs(samples_N).max() <= 1


def test_a_player_holds_the_very_samples(page, config):
    """Of copies that stay within ±1, to half a step of 16 bits; others are the same but for a factor."""
    split = read_split(config.source, "train")
    job = shard_job(config, split)
    audios = iter(page.all("audio"))
    for clip in split.clips[:12]:
        native_N, rate = decode(clip.audio.load())
        for copy in range(3):
            want_N, _ = make_copy(native_N, rate, copy, clip.id, job)
            got_N, _ = soundfile.read(BytesIO(content_of(next(audios)["src"], "audio/flac")), dtype="float32")
            peak = max(float(np.abs(want_N).max()), 1.0)
            np.testing.assert_allclose(got_N, want_N / peak, rtol=0, atol=1 / 32768)


def test_what_was_drawn_is_told_in_words(page, config):
    text = Path(config.output).read_text(encoding="utf-8")
    drawn = [attributes for _, attributes in page.elements if attributes.get("aria-label") == "What was drawn"]
    assert 12 <= len(drawn) <= 24  # most of 24 copies; the clean ones have none
    assert "<li>gain −" in text
    assert " dB</li>" in text
    assert str(find_recipe("standard")).splitlines()[1].strip() in text


def test_rejected_clips_are_counted_by_reason_with_examples(page, config):
    text = Path(config.output).read_text(encoding="utf-8")
    counts = dict(zip(page.text_of("reason"), page.text_of("count"), strict=True))
    assert counts == {"no such file": "2", "does not decode": "1", "empty sentence": "1"}
    assert "4 of 16 clips cannot be used." in text
    assert "<dt>left out</dt><dd>25.0%</dd>" in text.replace("'", '"')


def test_rows_that_name_no_clip_are_not_counted_among_the_clips_looked_at(config, corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    with (tmp_path / "corpus" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("short\n" * 5)
    output = tmp_path / "page.html"
    preview(replace(config, source=str(tmp_path / "corpus"), clips=1, sample=4, output=str(output)))
    text = output.read_text(encoding="utf-8")
    assert "1 of 4 clips cannot be used; of all rows of the source, 5 name no clip of their own." in text
    assert "<dd>25.0%</dd>" in text


def test_the_page_says_how_large_it_is(config):
    size = Path(config.output).stat().st_size
    assert f"One file of {size / 1e6:.1f} MB" in Path(config.output).read_text(encoding="utf-8")


def test_the_same_settings_write_the_same_page(config, tmp_path):
    again = replace(config, clips=2, output=str(tmp_path / "a.html"))
    preview(again)
    first = (tmp_path / "a.html").read_bytes()
    preview(again)
    assert (tmp_path / "a.html").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_finished_shards_tell_of_all_clips(config, sample_corpus, tmp_path):
    shards = tmp_path / "shards"
    model = config.model
    featurize(FeaturizeConfig(config.source, str(shards), model, copies=0, workers=1, max_rejected="50%"))
    output = tmp_path / "page.html"
    preview(replace(config, shards=str(shards), clips=2, sample=1, output=str(output)))
    text = output.read_text(encoding="utf-8")
    assert f"all 12 clips in the finished shards {shards / 'train'}" in text
    assert "12 clips: 9 in 10 have" in text
    assert "does not decode" in text
    assert len(PageParser(text).all("article")) == 2
    with pytest.raises(
        UserError, match=r"shards/dev holds none of the clips of dev of .*, but others: name the source"
    ):
        preview(replace(config, source=str(sample_corpus), split="dev", shards=str(_as_dev(shards))))


def _as_dev(shards: Path) -> Path:
    """The same shards, as if they were another corpus's dev."""
    (shards / "train").rename(shards / "dev")
    return shards


def test_shards_that_are_not_finished_are_not_asked(config, tmp_path):
    output = tmp_path / "page.html"
    preview(replace(config, shards=str(tmp_path / "none"), clips=1, sample=4, copies=0, output=str(output)))
    assert "4 clips from all over the 16 of the split" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clips": 0}, "clips is 0; it takes 1 or more"),
        ({"sample": 0}, "sample is 0; it takes 1 or more"),
        ({"copies": -1}, "copies is -1; it takes 0 or more"),
        ({"recipe": "loud"}, "no recipe 'loud'"),
        ({"source": "nowhere"}, "nowhere"),
        ({"split": "prova"}, "has no split 'prova'"),
        ({"model": "nowhere"}, "no model: nowhere"),
    ],
)
def test_a_wrong_setting_is_named_and_writes_nothing(config, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        preview(replace(config, output=str(tmp_path / "page.html"), **change))
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_without_a_usable_clip_is_an_error_that_says_why(config, corpus, tmp_path):
    bare = tmp_path / "corpus"
    (bare / "clips").mkdir(parents=True)
    shutil.copy(corpus / "train.tsv", bare)
    with pytest.raises(UserError, match=r"can be used: 15 × no such file, 1 × empty sentence"):
        preview(replace(config, source=str(bare), output=str(tmp_path / "page.html")))


def test_a_place_that_cannot_be_written_is_an_error(config, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder"):
        preview(replace(config, clips=1, sample=1, output=str(tmp_path / "folder")))
    with pytest.raises(UserError, match="nowhere"):
        preview(replace(config, clips=1, sample=1, output=str(tmp_path / "nowhere" / "page.html")))


def test_the_recipe_none_has_no_copies(config, tmp_path):
    output = tmp_path / "page.html"
    preview(replace(config, recipe="none", clips=2, output=str(output)))
    assert len(PageParser(output.read_text(encoding="utf-8")).all("audio")) == 2


def test_the_command_writes_the_page_and_says_so(config, tmp_path):
    command = [sys.executable, "-m", "data.preview", "--source", config.source, "--model", config.model]
    options = ["--clips", "1", "--sample", "2", "--copies", "1", "--output", str(tmp_path / "page.html")]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert f"{tmp_path / 'page.html'}: 1 clip in 2 versions, " in run.stdout


@pytest.mark.parametrize("screen", list(SCREENS))
def test_a_browser_shows_and_plays_the_page_from_a_file(screen, browser, config, records):
    """Durations are a file's samples over its rate, so exact."""
    with browser.new_context(**SCREENS[screen]) as context:
        tab = context.new_page()
        complaints, asked = [], []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(Path(config.output).as_uri())
        wait_until(tab, ALL_LOADED)
        durations = tab.evaluate("[...document.querySelectorAll('audio')].map(audio => audio.duration)")
        assert durations == pytest.approx([record.seconds for record in records], abs=1e-4)
        assert tab.evaluate("[...document.images].every(image => image.naturalHeight == 80)")
        assert tab.title() == f"train of {config.source} – preview"
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]  # nothing sticks out
        assert [url for url in asked if not url.startswith(("data:", Path(config.output).as_uri()))] == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=SCREENSHOTS / f"{screen}.png")
        tab.screenshot(path=SCREENSHOTS / f"{screen}-all.png", full_page=True)
        assert complaints == []


def test_a_click_on_a_picture_plays_from_there_and_silences_the_others(browser, config):
    with browser.new_context() as context:
        tab = context.new_page()
        tab.goto(Path(config.output).as_uri())
        wait_until(tab, ALL_LOADED)
        players = tab.locator("audio")
        players.nth(1).evaluate("audio => { audio.loop = true; return audio.play(); }")
        tab.locator(".pictures").first.click(position={"x": 200, "y": 100})
        wait_until(tab, "document.querySelectorAll('audio')[1].paused")
        assert players.first.evaluate("audio => audio.currentTime") > 0
        line = tab.locator(".now").first
        assert line.evaluate("line => parseFloat(line.style.left)") > 0
        tab.emulate_media(color_scheme="dark")
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        tab.emulate_media(color_scheme="light")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != dark
