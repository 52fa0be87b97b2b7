"""Manifests in the three common ways: what each line becomes, and which lines are left out."""

import csv
import gzip
import json

import numpy as np
import pytest
import soundfile
from upath import UPath

from data.audio import decode
from data.clips import CorpusError
from data.sources import SourceOptions, read_split


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path, header, *rows, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def cut(path, text="Ciao.", start=0.0, duration=2.0, **more):
    """One utterance as Lhotse writes it."""
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": path}], "duration": 2.0}
    said = {"id": "s", "recording_id": "r", "start": 0.0, "duration": duration, "text": text, "speaker": "anna"}
    supervisions = [said | {"language": "Italian"}]
    return {"type": "MonoCut", "id": f"cut-{start}", "start": start, "duration": duration, "channel": 0,
            "supervisions": supervisions, "recording": recording} | more  # fmt: skip


def rejections(split):
    return [(row.id, row.reason, row.detail) for row in split.rejected]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_metadata_csv_is_read_with_its_quotes(tmp_path, encoding):
    rows = [("a.wav", 'Ha detto "sì",\ne poi?', "anna"), ("sub/b.wav", "Perché", "bice"), ("a.wav", "Due", "anna")]
    write_csv(tmp_path / "metadata.csv", ["file_name", "transcription", "speaker_id"], *rows, encoding=encoding)
    split = read_split(tmp_path, "train")
    assert [(c.id, c.sentence, c.speaker) for c in split.clips] == [
        ("a.wav", 'Ha detto "sì",\ne poi?', "anna"),
        ("sub/b.wav", "Perché", "bice"),
    ]
    assert split.clips[1].audio.path == str(tmp_path / "sub" / "b.wav")
    assert rejections(split) == [("a.wav", "listed twice", "metadata.csv line 5")]


def test_folders_named_as_splits_have_their_own_metadata(tmp_path):
    for name in ("train", "validation", "test"):
        write_lines(tmp_path / name / "metadata.jsonl", [{"file_name": "a.wav", "text": name, "lang": "it-IT"}])
    for asked, name in (("train", "train"), ("dev", "validation"), ("valid", "validation"), ("test", "test")):
        split = read_split(tmp_path, asked)
        assert [(c.id, c.sentence) for c in split.clips] == [(f"{name}/a.wav", name)]
        assert split.language == "it"
    assert len(read_split(tmp_path, "train+validation+test").clips) == 3
    with pytest.raises(CorpusError, match=r"no split 'prova' \(read as manifests\); there are: test, train, valid"):
        read_split(tmp_path, "prova")


def test_a_column_called_split_makes_the_splits(tmp_path):
    rows = [("a.wav", "Uno", "train"), ("b.wav", "Due", "test"), ("c.wav", "Tre", "train")]
    source = write_csv(tmp_path / "metadata.csv", ["file_name", "text", "split"], *rows)
    for where in (source, tmp_path):
        assert [clip.id for clip in read_split(where, "train").clips] == ["a.wav", "c.wav"]
        assert [clip.id for clip in read_split(where, "test").clips] == ["b.wav"]
        with pytest.raises(CorpusError, match=r"no split 'dev' .*there are: test, train"):
            read_split(where, "dev")


def test_a_split_may_be_called_by_a_number(tmp_path):
    rows = [{"file_name": f"{n}.wav", "text": "Uno", "split": n % 2} for n in range(4)]
    manifest = write_lines(tmp_path / "folds.jsonl", rows)
    assert [clip.id for clip in read_split(manifest, "1").clips] == ["1.wav", "3.wav"]
    with pytest.raises(CorpusError, match=r"no split '2' .*; there are: 0, 1"):
        read_split(manifest, "2")


def test_nemo_lines_give_parts_of_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 64_000), 16_000)
    path = write_lines(
        tmp_path / "train_manifest.json",
        [
            {"audio_filepath": "a.wav", "text": "Tutto", "duration": 4.0},
            {"audio_filepath": str(tmp_path / "a.wav"), "text": "Parte", "duration": 1.5, "offset": 2.0, "lang": None},
            {"audio_filepath": "a.wav", "text": "Inizio", "duration": 1, "offset": 0, "id": 3},
            {"audio_filepath": "b.wav", "text": "Inizio", "duration": 1, "offset": 0},
        ],
    )
    split = read_split(path, "whatever")
    assert [(c.id, c.start, c.length, c.seconds) for c in split.clips] == [
        ("a.wav", 0.0, None, 4.0),
        ("a.wav@2.000", 2.0, 1.5, 1.5),
        ("b.wav", 0.0, 1.0, 1.0),
    ]
    assert rejections(split) == [("a.wav", "listed twice", "train_manifest.json line 3")]
    whole_N, _ = decode(split.clips[0].audio.load())
    part = split.clips[1]
    part_N, _ = decode(part.audio.load(), part.start, part.length)
    np.testing.assert_array_equal(part_N, whole_N[32_000:56_000])


@pytest.mark.parametrize("name", ["train.jsonl", "cuts_train.jsonl", "train_manifest.json", "manifest-train.json",
                                  "train.json"])  # fmt: skip
def test_manifests_in_a_folder_are_splits_by_their_names(tmp_path, name):
    write_lines(tmp_path / name, [{"audio_filepath": "a.wav", "text": "Uno"}])
    write_lines(tmp_path / "dev.jsonl", [{"audio_filepath": "b.wav", "text": "Due"}])
    write_lines(tmp_path / "settings.json", [{"unrelated": 1}])
    assert [clip.id for clip in read_split(tmp_path, "train").clips] == ["a.wav"]
    assert [clip.id for clip in read_split(tmp_path, "train+validation").clips] == ["a.wav", "b.wav"]


def test_lhotse_cuts_of_one_supervision_are_clips(tmp_path):
    two_channels = [{"type": "file", "channels": [0, 1], "source": "a.wav"}]
    rows = [
        cut("a.wav"),
        cut("a.wav", start=0.5, duration=1.0),
        cut("a.wav", duration=1.5, id="beginning"),
        cut("a.wav", recording={"sources": two_channels, "duration": 2.0}),
        cut("a.wav", supervisions=[]),
        cut("a.wav", type="MixedCut"),
        cut("a.wav", recording=None),
        cut("../a.wav"),
    ]
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    split = read_split(path, "train")
    assert [(c.id, c.sentence, c.speaker, c.start, c.length, c.seconds) for c in split.clips] == [
        ("cut-0.0", "Ciao.", "anna", 0.0, None, 2.0),
        ("cut-0.5", "Ciao.", "anna", 0.5, 1.0, 1.0),
        ("beginning", "Ciao.", "anna", 0.0, 1.5, 1.5),
    ]
    assert [row.reason for row in split.rejected] == [
        "one of several channels", "not one utterance", "not a MonoCut", "incomplete row",
        "path leaves the corpus folder",
    ]  # fmt: skip


def test_lines_that_name_no_clip_are_rejected_with_their_number(tmp_path):
    path = tmp_path / "train.jsonl"
    good = {"audio_filepath": "a.wav", "text": "Uno", "duration": 1.0}
    lines = [
        json.dumps(good),
        "{",
        "[1]",
        "",
        json.dumps(good | {"text": None}),
        json.dumps(good | {"offset": -1}),
        json.dumps(good | {"duration": "long"}),
        '{"audio_filepath": "a.wav", "text": "Uno", "duration": NaN}',
        json.dumps({"text": "Uno"}),
        json.dumps(good | {"audio_filepath": ""}),
        json.dumps(good | {"audio_filepath": 7}),
        "[" * 100_000,
    ]
    path.write_text("\n".join(lines))
    split = read_split(path, "train")
    assert [clip.id for clip in split.clips] == ["a.wav"]
    assert [(row.reason, row.detail.split(":")[0]) for row in split.rejected] == [
        ("not JSON", "train.jsonl line 2"),
        ("not a JSON object", "train.jsonl line 3"),
        ("incomplete row", "train.jsonl line 5"),
        ("not a time", "train.jsonl line 6"),
        ("not a time", "train.jsonl line 7"),
        ("not a time", "train.jsonl line 8"),
        ("incomplete row", "train.jsonl line 9"),
        ("path leaves the corpus folder", "train.jsonl line 10"),
        ("incomplete row", "train.jsonl line 11"),
        ("not JSON", "train.jsonl line 12"),
    ]


def test_paths_that_leave_the_corpus_folder_are_rejected(tmp_path):
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    for folder in (corpus / "sub", outside):
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.wav", np.ones(1600), 16_000)
    (corpus / "out").symlink_to(outside)
    (corpus / "in").symlink_to("sub")
    bad = [
        "../outside/a.wav",
        "sub/../../outside/a.wav",
        str(outside / "a.wav"),
        "out/a.wav",
        "a\0.wav",
        "s3://x/a.wav",
    ]
    good = ["sub/a.wav", "in/a.wav", str(corpus / "sub" / "b.wav"), "sub/../c.wav"]
    path = write_lines(corpus / "train.jsonl", [{"file_name": name, "text": "Uno"} for name in good + bad])
    split = read_split(path, "train")
    assert [clip.id for clip in split.clips] == ["sub/a.wav", "in/a.wav", "sub/b.wav", "c.wav"]
    assert [(row.id, row.reason) for row in split.rejected] == [(n, "path leaves the corpus folder") for n in bad]


def test_an_audio_root_is_the_folder_that_paths_are_in(tmp_path):
    (tmp_path / "audio").mkdir()
    names = ["a.wav", str(tmp_path / "audio" / "b.wav"), "../c.wav", str(tmp_path / "lists" / "d.wav")]
    path = write_lines(tmp_path / "lists" / "train.jsonl", [{"file_name": name, "text": "Uno"} for name in names])
    split = read_split(path, "train", SourceOptions(audio_root=str(tmp_path / "audio")))
    assert [clip.audio.path for clip in split.clips] == [f"{tmp_path}/audio/a.wav", f"{tmp_path}/audio/b.wav"]
    assert [row.id for row in split.rejected] == names[2:]
    with pytest.raises(CorpusError, match=r"audio root .*nowhere is not a folder"):
        read_split(path, "train", SourceOptions(audio_root=str(tmp_path / "nowhere")))


def test_columns_are_found_or_named_and_missing_ones_listed(tmp_path):
    path = write_csv(tmp_path / "metadata.csv", ["file_name", "sentence", "words", "who"], ("a.wav", "Uno", "uno", "x"))
    assert read_split(path, "train").clips[0].sentence == "Uno"
    clip = read_split(path, "train", SourceOptions(text_column="words", speaker_column="who")).clips[0]
    assert (clip.sentence, clip.speaker) == ("uno", "x")
    with pytest.raises(CorpusError, match=r"no column with the text \(testo\); there are: file_name, sentence, who, w"):
        read_split(path, "train", SourceOptions(text_column="testo"))
    with pytest.raises(CorpusError, match=r"no column with the speaker \(chi\); there are: "):
        read_split(path, "train", SourceOptions(speaker_column="chi"))
    other = write_csv(tmp_path / "other.csv", ["wav", "text"], ("a.wav", "Uno"))
    with pytest.raises(
        CorpusError, match=r"no column with the path \(file_name, audio_filepath\); there are: text, wav"
    ):
        read_split(other, "train")


def test_manifests_that_cannot_be_used_are_named(tmp_path):
    def problem(name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError) as error:
            read_split(tmp_path / name, "train")
        return str(error.value)

    assert "a.jsonl is not UTF-8 text" in problem("a.jsonl", b"\xff\xfe")
    assert "b.jsonl.gz is not gzip, or not whole" in problem("b.jsonl.gz", b"plain")
    assert "c.jsonl names a clip" in problem("c.jsonl", b"\n")
    assert "d.csv names a clip" in problem("d.csv", b"file_name,text\n")
    assert "e.json is neither JSON nor JSON lines" in problem("e.json", b"[{")
    assert "f.jsonl has no column with the path" in problem("f.jsonl", b'{"x": 1}\n')
    assert "the first: incomplete row" in problem("g.csv", b"file_name,text\na.wav\n")
    for name in ("train.jsonl", "train_manifest.json"):
        (tmp_path / "twice" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "twice" / name).write_text("{}")
    with pytest.raises(CorpusError, match=r"both are split 'train': name the one that is meant"):
        read_split(tmp_path / "twice", "train")


def test_a_remote_manifest_leads_to_remote_audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 16_000), 16_000)
    folder = UPath("memory://manifests")
    (folder / "wav" / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    rows = [{"audio_filepath": name, "text": "Uno"} for name in ("wav/a.wav", "../b.wav", "/etc/passwd")]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source in (folder, folder / "train.jsonl"):
        split = read_split(str(source), "train")
        assert split.clips[0].audio.load() == (tmp_path / "a.wav").read_bytes()
        assert [row.id for row in split.rejected] == ["../b.wav", "/etc/passwd"]


@pytest.mark.parametrize("ends", ["metadata.csv", "heard.jsonl"])
def test_pseudo_labels_that_are_not_confident_enough_are_left_out_by_name(tmp_path, ends):
    """As `serving.batch` writes them, and as a table; exactly the least asked for is enough."""
    values = {"a.wav": 0.91, "b.wav": 0.5, "c.wav": 0.49, "d.wav": None, "e.wav": "sure", "f.wav": 1.5}
    if ends == "metadata.csv":
        rows = [(name, "Ciao.", "" if value is None else value) for name, value in values.items()]
        write_csv(tmp_path / ends, ("file_name", "text", "confidence"), *rows)
    else:
        rows = [{"file_name": name, "text": "Ciao.", "confidence": value} for name, value in values.items()]
        write_lines(tmp_path / ends, rows)
    split = read_split(tmp_path / ends, "train", SourceOptions(min_confidence=0.5))
    assert [clip.id for clip in split.clips] == ["a.wav", "b.wav"]
    assert [(name, reason) for name, reason, _ in rejections(split)] == [
        ("c.wav", "not confident enough"),
        ("d.wav", "not confident enough"),
        ("e.wav", "not a confidence"),
        ("f.wav", "not a confidence"),
    ]
    assert [detail.split(": ")[1] for *_, detail in rejections(split)][:2] == ["0.49, asked for 0.5", "none is given"]
    assert len(read_split(tmp_path / ends, "train").clips) == 6


def test_a_source_that_knows_no_confidence_cannot_be_filtered_by_it(tmp_path, sample_corpus):
    manifest = write_lines(tmp_path / "train.jsonl", [{"file_name": "a.wav", "text": "Ciao."}])
    with pytest.raises(CorpusError, match="has no column confidence to filter by; there are: file_name, text"):
        read_split(manifest, "train", SourceOptions(min_confidence=0.5))
    with pytest.raises(CorpusError, match="is a Common Voice folder: --min-confidence takes a manifest"):
        read_split(sample_corpus, "train", SourceOptions(min_confidence=0.5))
