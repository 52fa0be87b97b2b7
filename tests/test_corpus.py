"""What a corpus is called: its own name, or the hub's, and never the folders of somebody's machine."""

import pytest

from jax_train.corpus import corpus_name, dataset_fields, facts


@pytest.mark.parametrize(
    ("source", "language", "name"),
    [
        ("/data/cv-corpus-11.0/it", "it", "cv-corpus-11.0/it"),
        ("/data/cv-corpus-11.0/sv-SE/", "sv", "cv-corpus-11.0/sv-SE"),
        ("cv-corpus-11.0/it", "it", "cv-corpus-11.0/it"),
        ("/home/anna/interviste", "it", "interviste"),
        ("/home/anna/it.tar.gz", "it", "it.tar.gz"),
        ("s3://secret-bucket/speech/radio", "it", "radio"),
        ("../corpora/wav", "it", "wav"),
        ("hf:org/speech", "it", "org/speech"),
        ("hf://datasets/org/speech", "it", "speech"),
        ("it", "it", "it"),
        (".", "it", "corpus"),
    ],
)
def test_a_path_gives_its_last_part_and_the_one_before_a_language(source, language, name):
    assert corpus_name({"source": source, "language": language}) == name


def test_a_dataset_of_the_hub_has_its_name_configuration_and_revision_there():
    dataset = {"name": "mozilla-foundation/common_voice_11_0", "config": "it", "revision": "0123abc"}
    data = {"source": "mozilla-foundation/common_voice_11_0", "dataset": dataset, "language": "it", "split": "test"}
    assert dataset_fields(data) == {
        "dataset_type": "mozilla-foundation/common_voice_11_0",
        "dataset_name": "mozilla-foundation/common_voice_11_0",
        "dataset_config": "it",
        "dataset_split": "test",
        "dataset_revision": "0123abc",
    }


def test_another_corpus_has_a_type_without_signs_that_the_hub_does_not_take():
    found = dataset_fields({"source": "/data/Voci d'Italia", "language": "it", "split": "dev"})
    assert (found["dataset_type"], found["dataset_name"]) == ("voci-d-italia", "Voci d'Italia")
    assert (found["dataset_config"], found["dataset_revision"]) == ("it", None)


def test_scores_keep_where_their_clips_came_from_and_the_checksum_of_these():
    manifest = {"source": "it", "split": "test", "language": "it", "index_sha256": "ab", "shards": [], "records": 3}
    assert facts(manifest) == {"source": "it", "split": "test", "language": "it", "index_sha256": "ab"}
