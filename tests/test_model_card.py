"""The model card says what was measured and with what, and keeps what people wrote in it."""

import dataclasses
import json

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from data.errors import UserError
from jax_train.card_scores import scores_of
from jax_train.config import PUBLISHED
from jax_train.model_card import base_model, model_card, renamed
from jax_train.runlog import write_json

RATES = {"wer": 24.7, "cer": 6.139, "wer_normalised": 14.506, "cer_normalised": 4.4965}
NORMALISER = "transformers BasicTextNormalizer(remove_diacritics=False)"
MANIFEST = {
    "source": "/home/anna/cv-corpus-11.0/it",
    "split": "train",
    "language": "it",
    "records": 800,
    "copies": 1,
    "seconds": 1843.7,
    "clean_seconds": 900.0,
    "rejected": {"too long": 2, "silent": 1},
    "recipe": {"name": "standard", "speed": [0.9, 1.1], "speed_probability": 0.8},
}
SETTINGS = {
    "shards": "s",
    "run": "r",
    "model": "openai/whisper-base",
    "language": "it",
    "learning_rate": 5e-5,
    "lora": {"rank": 0},
}
SETTINGS |= {"base_model": "openai/whisper-base"}
RECORD = {
    "name": "base-it",
    "run": "somewhere",
    "step": 9,
    "language": "it",
    "format": "huggingface",
    "dtype": "float16",
    "parity": {"max_abs_logit_difference": 1.2e-5, "max_abs_logit": 30.0},
    "rounding": {"max_abs_logit_difference": 0.02, "changed_transcripts": 1},
    "transcripts": {"clips": 4},
}


TEST = {"source": "/mnt/fleurs/it", "split": "test", "language": "it", "index_sha256": "0123456789abcdef" * 4}


def made_run(folder):
    """The files of a run that its card is made of, with scores of its step, of another, and none that is a number."""
    scores = RATES | {"normaliser": NORMALISER, "clips": 83, "speech_seconds": 324.0, "model": "run step 9"}
    scores |= {"settings": {"compute_dtype": "float32"}, "intervals": {"over_clips": {"wer": [20.1, 29.9]}}}
    scores |= {"data": TEST}
    for split, changes in {"test": {}, "old": {"model": "run step 19"}, "empty": {"wer": float("nan")}}.items():
        (folder / f"evaluate-{split}").mkdir(parents=True)
        write_json(folder / f"evaluate-{split}" / "scores.json", scores | {"split": split} | changes)
    write_json(folder / "config.json", SETTINGS)
    write_json(folder / "data.json", MANIFEST)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"curves")
    return folder


@pytest.fixture
def run(tmp_path):
    """A run's folder."""
    return made_run(tmp_path / "run")


@pytest.fixture
def card(run):
    """The card of an export of the run."""
    path = run / "README.md"
    path.write_text(model_card(run, RECORD, "base-it"), encoding="utf-8")
    return path


def test_the_hub_reads_the_scores_of_the_exported_step_from_the_card(run, card):
    read = ModelCard.load(card).data
    results = read.eval_results
    assert {result.dataset_split for result in results} == {"test"}
    found = {result.metric_name: (result.metric_type, result.metric_value) for result in results}
    assert found["WER, as written"] == ("wer", 24.7)
    assert found[f"WER, normalised ({NORMALISER})"] == ("wer", 14.51)
    assert (read.model_name, read.language, read.library_name) == ("base-it", "it", "transformers")
    assert (read.base_model, read.pipeline_tag) == ("openai/whisper-base", "automatic-speech-recognition")
    written = metadata_load(card)["model-index"][0]
    fields = {"name": "fleurs/it", "type": "fleurs-it", "config": "it", "split": "test"}  # not the training corpus
    assert [result["dataset"] for result in written["results"]] == [fields]
    assert [scores["split"] for scores in scores_of(run, 9)] == ["test"]


def test_only_the_score_of_a_whole_split_of_a_known_corpus_is_given_to_the_hub(run):
    """Thinned, cut short, in part, folded, or from before the corpus was noted: in the table with what it is."""
    whole = json.loads((run / "evaluate-test" / "scores.json").read_text())
    others = {
        "thin": {"windows": "thinned"},
        "some": {"limit": 40},
        "fold": {"fold": {"of": 5, "number": 2}},
        "short": {"asked_new_tokens": 60},
        "beams": {"num_beams": 5, "timestamps": {"begin": 50_364}},
    }
    for name, settings in others.items():
        changed = whole | {"split": name, "settings": whole["settings"] | settings}
        (run / f"evaluate-{name}").mkdir()
        write_json(run / f"evaluate-{name}" / "scores.json", changed)
    (run / "evaluate-ancient").mkdir()
    ancient = {key: value for key, value in whole.items() if key != "data"}
    write_json(run / "evaluate-ancient" / "scores.json", ancient | {"split": "ancient"})
    text = model_card(run, RECORD, "base-it")
    (run / "README.md").write_text(text, encoding="utf-8")
    results = ModelCard.load(run / "README.md").data.eval_results
    beams = "WER, as written; 5 beams, whole windows, with timestamps"
    names = {
        result.metric_name
        for result in results
        if result.metric_type == "wer" and "normalised" not in result.metric_name
    }
    assert names == {"WER, as written", beams}
    assert len(results) == 8
    for said in (
        "- fleurs/it, thin (in part or thinned): 83 clips, 0.09 hours; greedy, thinned windows; computed in float32; "
        "not the split's score: thinned windows, so not the score of whole windows; SHA-256",
        "not the split's score: the split's first 40 clips alone",
        "not the split's score: fold 2 of 5 alone",
        "not the split's score: transcripts cut after 60 tokens",
        "- fleurs/it, beams: 83 clips, 0.09 hours; 5 beams, whole windows, with timestamps; computed in float32",
        "| corpus not recorded, ancient | 24.70 %",
    ):
        assert said in text


def test_a_score_of_another_language_than_its_clips_says_so_and_one_with_a_rate_that_is_none_is_left_out(run):
    scores = json.loads((run / "evaluate-test" / "scores.json").read_text())
    for written, said in (("it", "greedy, whole windows; computed"), ("en", "whole windows, written in en; computed")):
        settings = scores["settings"] | {"language": written}
        write_json(run / "evaluate-test" / "scores.json", scores | {"settings": settings})
        text = model_card(run, RECORD, "base-it")
        assert said in text
        assert ("WER, as written; greedy, whole windows, written in en" in text) == (written == "en")
    write_json(run / "evaluate-test" / "scores.json", scores | {"cer_normalised": float("inf")})
    assert scores_of(run, 9) == []


def test_hours_that_would_count_the_copies_are_left_out_and_a_data_set_is_told_with_its_revision(run):
    older = {key: value for key, value in MANIFEST.items() if key != "clean_seconds"}
    dataset = {"name": "org/voices", "config": "it", "revision": "0123abc"}
    write_json(run / "data.json", older | {"dataset": dataset})
    text = model_card(run, RECORD, "base-it")
    assert "- org/voices, config `it`, revision `0123abc`, split `train`, language `it`\n- 400 clips\n" in text
    assert "with them 800 recordings, 0.51 hours" in text
    write_json(run / "data.json", older | {"copies": 0})
    assert "\n- 800 clips, 0.51 hours\n" in model_card(run, RECORD, "base-it")


def test_a_base_model_is_named_to_the_hub_only_if_it_is_the_hubs(run):
    for settings, said in [
        ({"base_model": "anna/whisper-voci"}, "anna/whisper-voci"),
        ({"model": "models/tiny", "base_model": None}, None),
        ({"model": "openai/whisper-base"}, "openai/whisper-base"),  # runs of earlier versions
        ({"model": "models/tiny"}, None),
    ]:
        old = {"model": "models/tiny", "language": "it"}
        assert base_model(old | settings) == said
    write_json(run / "config.json", SETTINGS | {"model": "models/tiny", "base_model": None})
    text = model_card(run, RECORD, "base-it")
    assert "base_model:" not in text
    assert "fine-tuned for `it` from tiny, 9 steps." in text


def test_a_renamed_card_keeps_what_people_wrote_and_shows_how_to_get_the_model(run):
    for form, fetched, used in [
        ("huggingface", "", 'pipeline("automatic-speech-recognition", model="anna/base-it")'),
        ("ctranslate2", "hf download anna/base-it --local-dir base-it", 'WhisperModel("base-it")'),
        ("ggml", "hf download anna/base-it --local-dir base-it", "whisper-cli -m base-it/ggml-model.bin -l it"),
    ]:
        record = RECORD | {"format": form, "name": "local-folder"}
        card = model_card(run, record, "local-folder").replace("## Data", "Ours, with love.\n\n## Data")
        assert "hf download" not in card
        published = renamed(card, record, "local-folder", "anna/base-it")
        assert fetched in published
        assert used in published
        assert "# anna/base-it\n" in published
        assert "Ours, with love." in published
        assert "local-folder" not in published
        (run / "README.md").write_text(published, encoding="utf-8")
        assert ModelCard.load(run / "README.md").data.model_name == "anna/base-it"


def test_a_name_that_yaml_escapes_or_of_a_model_without_scores_is_replaced_too(run):
    old = """l'anna: "è" #2"""
    for step, title in ((9, "model-index"), (7, "model_name")):
        record = RECORD | {"step": step, "name": old}
        mine = model_card(run, record, old).replace("language: it\n", "language: it  # mine\nextra: [1]\n")
        published = renamed(mine, record, old, "anna/base-it")
        assert title in published
        assert "language: it  # mine\nextra: [1]\n" in published
        (run / "README.md").write_text(published, encoding="utf-8")
        found = metadata_load(run / "README.md")
        assert (found["model-index"][0]["name"] if step == 9 else found["model_name"]) == "anna/base-it"
    with pytest.raises(UserError, match=r"README\.md: the model card's metadata, .* are no YAML"):
        renamed("---\nlicense: [\n---\n", RECORD, old, "anna/base-it")


def test_a_setting_that_was_left_to_the_trainer_is_told_as_it_was_used_and_a_fold_as_left_out(run):
    sizes = dataclasses.asdict(PUBLISHED["base"])
    (run / "model").mkdir()
    write_json(run / "model" / "config.json", {"model_type": "whisper"} | sizes)
    fold = {"of": 5, "number": 2, "by": "speaker", "seed": 0}
    left = {"learning_rate": 0.0, "steps": 0, "optimizer": "adamw", "fold": fold}
    write_json(run / "config.json", SETTINGS | left)
    text = model_card(run, RECORD, "base-it")
    assert "| learning_rate | 2.5e-05 |" in text
    assert "| steps | 9 |" in text
    said = "- fold 2 of 5 (by speaker, drawn with seed 0) was left out of training; the clips and hours above are"
    assert said in text.partition("## Data")[2].partition("## Training")[0]
    write_json(run / "config.json", SETTINGS | {"fold": fold | {"of": 0}})
    assert "- fold" not in model_card(run, RECORD, "base-it")


def test_the_card_names_data_settings_scores_and_checks(card):
    text = card.read_text(encoding="utf-8")
    for said in (
        "| fleurs/it, test | 24.70 % [20.10, 29.90] | 14.51 % | 6.14 % | 4.50 % |",
        "fleurs/it, test: 83 clips, 0.09 hours; greedy, whole windows; computed in float32; SHA-256",
        "measured on the checkpoint, before conversion to huggingface, float16",
        "- cv-corpus-11.0/it, split `train`, language `it`\n- 400 clips, 0.25 hours\n",
        "- augmented copies: 1 of each clip; with them 800 recordings, 0.51 hours\n",
        f"normalised: {NORMALISER}",
        "recipe `standard`: speed [0.9, 1.1]; speed_probability 0.8",
        "- 3 more were left out",
        "| learning_rate | 5e-05 |",
        "they differ by at most 1.2e-05 (the largest is 30.0)",
        "4 of 4 real clips",
        "changed logits by at most 2.0e-02, and 1 of those transcripts",
        'pipeline("automatic-speech-recognition", model="base-it")',
    ):
        assert said in text
    assert "/home/anna" not in text  # the corpus is named, not the machine's folders


@pytest.mark.parametrize(("form", "said"), [("ctranslate2", "faster_whisper"), ("ggml", "whisper-cli -m base-it/ggml")])
def test_the_card_of_another_format_says_how_that_is_used(run, form, said):
    other = {"program": form, "clips": 4, "different": 1, "token_error_rate": 0.025}
    text = model_card(run, RECORD | {"format": form, "program": other}, "base-it")
    assert said in text
    assert f"{form} transcribes 3 of them alike; 2.5% of the tokens differ" in text


def test_a_run_that_was_not_scored_has_no_scores_in_its_card(run):
    text = model_card(run, RECORD | {"step": 7}, "base-it")
    assert "None was measured of this step" in text
    assert "model-index" not in text
