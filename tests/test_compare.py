"""Two models on the same clips: differences against jiwer, the clips that changed, and what cannot be compared."""

import json
import os
import shutil
import sys
from dataclasses import replace

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from data.errors import UserError, command
from data.records import Shards
from jax_train.compare import CompareConfig, compare, main, predictions_of, table
from jax_train.evaluate import EvaluateConfig, evaluate
from jax_train.scores import SCORES, normaliser
from tests.conftest import REPOSITORY
from tests.page_parser import ALL_LOADED, SCREENS, PageParser, wait_until

SCREENSHOTS = REPOSITORY / "build" / "compare"
CHANGES = {3: "prima", 6: "prima", 9: "dopo"}  # clips where B is right and A added a word, or the other way
N_OTHERWISE = 1


def heard_by(side: str, texts: list[str]) -> list[str]:
    """Both miss the second word of every third clip; each adds words where `CHANGES` gives it."""
    heard = [" ".join(text.split()[:1] + text.split()[2:]) if n % 3 == 1 else text for n, text in enumerate(texts)]
    for clip, extra in CHANGES.items():
        if (side == "a") == (extra == "prima"):
            heard[clip] = f"{extra} {heard[clip]}" + " ancora" * (clip == 6)
    heard[12] += "!" * (side == "b")  # another transcript with as many errors
    return heard


@pytest.fixture(scope="module")
def texts(small_shards):
    shards = Shards.open(small_shards, "train")
    clean = np.flatnonzero(shards.index["copy"] == 0)
    return {shards.index["id"][row]: shards[row].text for row in clean}


@pytest.fixture(scope="module")
def config(small_shards, texts, tmp_path_factory):
    """A is what evaluate wrote, B such a file alone and in another order."""
    root = tmp_path_factory.mktemp("compare")
    for side in "ab":
        table = pa.table({"id": list(texts), "hypothesis": heard_by(side, list(texts.values()))})
        pq.write_table(table, root / f"{side}.parquet")
        evaluate(
            EvaluateConfig(
                small_shards, predictions=root / f"{side}.parquet", split="train", out=root / side, report_clips=0
            )
        )
    table = pq.read_table(root / "b" / "predictions.parquet")
    pq.write_table(table.take(list(reversed(range(len(table))))), root / "turned.parquet")
    return CompareConfig(str(root / "a"), str(root / "turned.parquet"), small_shards, "train", root / "out")


@pytest.fixture(scope="module")
def result(config):
    return compare(config)


@pytest.fixture(scope="module")
def page(result, config):
    """The page's text; `result` is what wrote it."""
    assert json.loads((config.out / "compare.json").read_text()) == result
    return (config.out / "compare.html").read_text(encoding="utf-8")


def test_the_differences_are_jiwers(result, texts):
    normal, references = normaliser(), list(texts.values())
    rates = {}
    for side in "ab":
        pairs = references, heard_by(side, references)
        clean = [[normal(text) for text in some] for some in pairs]
        found = jiwer.wer(*pairs), jiwer.cer(*pairs), jiwer.wer(*clean), jiwer.cer(*clean)
        rates[side] = dict(zip(SCORES, (100 * rate for rate in found), strict=True))
    for name in SCORES:
        assert result["a"][name] == pytest.approx(rates["a"][name], rel=1e-12)  # one division apart
        assert result["b"][name] == pytest.approx(rates["b"][name], rel=1e-12)
        found = result["over_clips"][name]
        assert found["difference"] == pytest.approx(rates["b"][name] - rates["a"][name], abs=1e-9)
        low, high = found["interval"]
        assert low <= found["difference"] <= high
        assert 0 < found["p_value"] <= 1
    assert result["over_speakers"] is None  # two speakers
    assert result["clips"] == len(texts) == 40
    assert "remove_diacritics=False" in result["a"]["normaliser"]


def test_clips_are_counted_by_how_they_changed(result):
    assert result["changed"] == {"better": 2, "worse": 1, "otherwise": N_OTHERWISE, "not": 40 - 3 - N_OTHERWISE}


def test_the_clips_that_changed_most_come_first_with_both_transcripts(page, texts):
    ids, parsed = list(texts), PageParser(page)
    articles = [article["aria-label"] for article in parsed.all("article")]
    # Two words; then one word, B worse before B better; then no more errors than before.
    assert articles == [f"Clip {ids[clip]}" for clip in (6, 9, 3, 12)]
    a, b = (heard_by(side, list(texts.values())) for side in "ab")
    heard = [word for word in parsed.text_of("heard") if word != "∅"]
    assert heard == [word for clip in (6, 9, 3, 12) for text in (a[clip], b[clip]) for word in text.split()]
    assert "2 fewer" in page
    assert "1 more" in page
    assert len(parsed.all("audio")) == len(parsed.all("img")) == len(articles)


def test_a_model_compared_with_itself_does_not_differ(config, tmp_path):
    found = compare(replace(config, b=config.a, shards=None, out=tmp_path))
    assert all(found["over_clips"][name]["p_value"] == 1 for name in SCORES)
    assert found["changed"] == {"better": 0, "worse": 0, "otherwise": 0, "not": 40}
    page = PageParser((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert page.all("article") == page.all("audio") == []


def test_without_shards_the_page_has_the_words_alone(config, tmp_path):
    compare(replace(config, shards=None, out=tmp_path, report_clips=2))
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "Give --shards to see and hear the clips." in page
    assert len(PageParser(page).all("article")) == 2
    assert PageParser(page).all("img") == []


def test_models_of_one_name_are_evaluated_each_into_its_own_folder(
    small_model_dir, small_shards, tmp_path, monkeypatch
):
    other = tmp_path / small_model_dir.name
    shutil.copytree(small_model_dir, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value * 10 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    config = CompareConfig(str(small_model_dir), str(other), small_shards, out=tmp_path / "out", batch_size=1, limit=2)
    found = compare(config)
    assert (found["a"]["name"], found["b"]["name"]) == (str(small_model_dir), str(other))
    for side, model in (("a", small_model_dir), ("b", other)):
        scores = json.loads((tmp_path / "out" / side / "scores.json").read_text())
        assert scores["model"] == str(model)
        assert scores["wer"] == found[side]["wer"]
        assert found[side]["lacks"] == ["the split's first 2 clips alone"]
    heard = [pq.read_table(tmp_path / "out" / side / "predictions.parquet")["hypothesis"] for side in "ab"]
    assert heard[0] != heard[1]
    # Two clips: a difference, but nothing of how sure it is, anywhere.
    for name in SCORES:
        assert [found["over_clips"][name][what] for what in ("interval", "p_value", "improved")] == [None] * 3
    assert "no interval and no p: fewer than 5 clips" in table(found)
    assert "not the split's scores: the split's first 2 clips alone\n" in table(found)
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "Fewer than 5 clips with words say nothing of others" in page
    assert "<dt>p-value</dt><dd>–</dd>" in page
    assert "Not the split’s scores: <bdi>the split&#39;s first 2 clips alone</bdi>." in page
    with monkeypatch.context() as patch:
        patch.setattr("jax_train.evaluate.BatchDecoder", None)
        assert compare(config) == found  # by the same models' evaluations, which are whole
    os.utime(other / "model.safetensors", ns=(1, 1))
    assert compare(config) == found
    weights_b = json.loads((tmp_path / "out" / "b" / "scores.json").read_text())["weights"]
    assert weights_b["model.safetensors"][1] == 1  # evaluated again


def test_sides_that_were_not_transcribed_alike_are_named(config, tmp_path):
    """What is beside predictions.parquet says how it was made; of B's other file nothing is known."""
    made = {}
    for side, changes in (("a", {}), ("b", {"windows": "thinned", "num_beams": 5, "language": "en"})):
        shutil.copytree(config.out.parent / side, tmp_path / side)
        scores = json.loads((tmp_path / side / "scores.json").read_text())
        scores["settings"] |= {"predictions": None} | changes
        (tmp_path / side / "scores.json").write_text(json.dumps(scores))
        made[side] = str(tmp_path / side)
    found = compare(replace(config, **made, shards=None, out=tmp_path / "out"))
    assert (found["a"]["lacks"], found["b"]["lacks"]) == ([], ["thinned windows, so not the score of whole windows"])
    assert "not the split's scores: B: thinned windows" in table(found)
    assert found["unlike"] == [
        "windows: whole in A, thinned in B",
        "beams: 1 in A, 5 in B",
        "language: it in A, en in B",
    ]
    assert "not the models alone: they were not transcribed alike (windows: whole in A, thinned in B;" in table(found)
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "not transcribed alike (<bdi>windows: whole in A, thinned in B; beams: 1 in A, 5 in B" in page
    assert compare(replace(config, a=made["a"], shards=None, out=tmp_path / "other"))["unlike"] == []


def test_a_model_or_run_is_evaluated_by_the_options_given(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("jax_train.compare.evaluate", lambda *options, **more: asked.append((*options, more)))
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    options = {"split": "dev", "out": out, "recordings": "r", "batch_size": 3, "limit": 5, "compute_dtype": "bfloat16"}
    config = CompareConfig("model", str(run), tmp_path, **options)
    assert predictions_of(config.a, config, out) == predictions_of(config.b, config, out) == out / "predictions.parquet"
    wanted = [EvaluateConfig(tmp_path, model="model", **options), EvaluateConfig(tmp_path, run=run, **options)]
    assert asked == [(settings, {"again": False}) for settings in wanted]


def test_speakers_are_drawn_with_all_their_clips_and_scores_are_of_their_own_file_alone(tmp_path):
    """B mishears all four clips of every second speaker: sqrt(4) times as wide; ±25 % by the draws of 20 speakers."""
    for side in "ab":
        heard = ["uno tre" if side == "b" and clip % 8 < 4 else "uno due" for clip in range(80)]
        columns = {"id": [f"{clip}" for clip in range(80)], "speaker": [f"{clip // 4}" for clip in range(80)]}
        pq.write_table(
            pa.table(columns | {"reference": ["uno due"] * 80, "hypothesis": heard}), tmp_path / f"{side}.parquet"
        )
    (tmp_path / "scores.json").write_text('{"settings": {"windows": "thinned"}}')  # of a predictions.parquet
    found = compare(CompareConfig(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), out=tmp_path / "out"))
    clips, speakers = found["over_clips"]["wer"], found["over_speakers"]["wer"]
    assert clips["difference"] == speakers["difference"] == 25
    assert np.ptp(speakers["interval"]) / np.ptp(clips["interval"]) == pytest.approx(2, rel=0.25)
    assert found["a"]["lacks"] == found["b"]["lacks"] == []


def shortened(table: pa.Table) -> pa.Table:
    return table.slice(2)


def reworded(table: pa.Table) -> pa.Table:
    references = ["altro", *table["reference"].to_pylist()[1:]]
    return table.set_column(table.column_names.index("reference"), "reference", [references])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shortened, r"not the same clips: .* alone has 2 \(.*evaluate both on one split with one --limit"),
        (reworded, r"1 \(.*\) have other references in .*: evaluate both again"),
        (lambda table: table.drop_columns(["speaker"]), "lacks the column speaker"),
    ],
)
def test_transcripts_that_cannot_be_compared_are_said_and_nothing_is_written(config, tmp_path, change, said):
    pq.write_table(change(pq.read_table(config.b)), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=said):
        compare(replace(config, b=str(tmp_path / "other.parquet"), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": "no/such/run", "shards": None}, "no/such/run holds no predictions.parquet: evaluate it first"),
        ({"a": "no/such/model"}, "no/such/model"),
        ({"b": ""}, "name what to compare: make compare A=… B=…"),
        ({"report_clips": -1}, "--report-clips -1"),
        ({"split": "test"}, "of the compared clips: name their shards and split"),
    ],
)
def test_bad_input_is_said(config, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        compare(replace(config, **{"out": tmp_path, **change}))


def test_the_command_prints_the_table_and_where_the_page_is(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jax_train.compare.compilation_cache", lambda: None)  # the tests have set their own
    monkeypatch.setattr(sys, "argv", ["compare", "--a", config.a, "--b", config.b, "--out", str(tmp_path)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"A {config.a}", f"B {config.b}", "40 clips of both"]
    found = json.loads((tmp_path / "compare.json").read_text())
    over = found["over_clips"]["wer"]
    rates = [f"{found['a']['wer']:.2f}", f"{found['b']['wer']:.2f}", f"{over['difference']:+.2f}"]
    assert (lines[4].split()[:4], lines[4].split()[-1]) == (["wer", *rates], f"{over['p_value']:.4f}")
    assert lines[-4:] == [
        "2 clips better, 1 worse, 36 with the same transcript",
        "normalised: transformers BasicTextNormalizer(remove_diacritics=False)",
        str(tmp_path / "compare.html"),
        str(tmp_path / "compare.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["compare", "--a", "no/such/run", "--b", config.b])
    with pytest.raises(SystemExit) as ended:
        command(main)()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: no/such/run holds no predictions.parquet")


@pytest.mark.parametrize("screen", list(SCREENS))
@pytest.mark.usefixtures("result")
def test_a_browser_shows_and_plays_the_comparison_from_a_file(screen, browser, config):
    with browser.new_context(**SCREENS[screen]) as context:
        tab = context.new_page()
        complaints, asked = [], []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        address = (config.out / "compare.html").as_uri()
        tab.goto(address)
        wait_until(tab, ALL_LOADED)
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]  # nothing sticks out
        assert [url for url in asked if not url.startswith(("data:", address))] == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=SCREENSHOTS / f"{screen}-all.png", full_page=True)
        assert complaints == []
