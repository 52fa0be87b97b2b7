"""A Hugging Face dataset gives the same clips from every form it comes in."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import yaml

from data.clips import ClipError, CorpusError
from data.errors import UserError
from data.hub_rows import DatasetRow
from data.sources import SourceOptions, open_source, read_split

ROWS = 25
STREAMING = SourceOptions(streaming=True)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def wav(number):
    content = io.BytesIO()
    soundfile.write(content, np.full(1600, number / 100), 16_000, format="WAV")
    return content.getvalue()


def make_dataset(rows=ROWS, **columns):
    content = {
        "audio": [{"bytes": wav(n), "path": f"{n}.wav"} for n in range(rows)],
        "text": [f" Frase {n}. " for n in range(rows)],
        "speaker_id": [n % 3 for n in range(rows)],
        "locale": ["it"] * rows,
    }
    return datasets.Dataset.from_dict(content | columns).cast_column("audio", datasets.Audio())


def write_parquet(folder, dataset, split="train", files=3):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = dataset.shard(files, number, contiguous=True)
        part.to_parquet(folder / f"{split}-{number:05d}-of-{files:05d}.parquet", batch_size=4)
    return folder


def check_clips(split, rows=ROWS):
    assert [(c.id, c.sentence, c.speaker) for c in split.clips] == [
        (f"train-row-{n:08d}", f"Frase {n}.", str(n % 3)) for n in range(rows)
    ]
    assert split.language == "it"
    for number, clip in enumerate(pickle.loads(pickle.dumps(split.clips))):
        assert clip.audio.load() == wav(number)


@pytest.mark.parametrize("options", [SourceOptions(), STREAMING])
@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_of_parquet_gives_its_rows(tmp_path, options, inside):
    write_parquet(tmp_path / "corpus" / inside, make_dataset())
    split = read_split(tmp_path / "corpus", "train", options)
    assert split.random_access == (not options.streaming)
    check_clips(split)


@pytest.mark.parametrize("options", [SourceOptions(), STREAMING])
def test_a_saved_dataset_gives_its_rows(tmp_path, options):
    splits = datasets.DatasetDict(train=make_dataset(), validation=make_dataset(2))
    splits.save_to_disk(tmp_path / "dict", num_shards={"train": 2, "validation": 1})
    make_dataset().save_to_disk(tmp_path / "single")
    check_clips(read_split(tmp_path / "dict", "train", options))
    check_clips(read_split(tmp_path / "single", "train", options))
    assert len(read_split(tmp_path / "dict", "train+dev", options).clips) == ROWS + 2


def test_a_stream_is_read_in_any_order_and_over_the_edges_of_its_files(tmp_path):
    clips = read_split(write_parquet(tmp_path / "corpus", make_dataset()), "train", STREAMING).clips
    for number in (20, 21, 3, 3, 4, 8, 9, 24, 0, 16, 12, 7, 6):
        assert clips[number].audio.load() == wav(number)


def test_a_stream_goes_forwards_without_beginning_again(tmp_path, monkeypatch):
    from data import hub_rows

    starts = []
    start = hub_rows._Streamed._from
    monkeypatch.setattr(hub_rows._Streamed, "_from", lambda *a: starts.append(a[1:]) or start(*a))
    clips = read_split(write_parquet(tmp_path / "corpus", make_dataset()), "train[10:]", STREAMING).clips
    assert [clip.audio.load() for clip in clips] == [wav(number) for number in range(10, ROWS)]
    assert starts == [(1, 10)]


def test_planning_a_stream_reads_no_audio(tmp_path, monkeypatch):
    from data import hub_dataset, hub_rows

    asked = []
    load = hub_rows.load_split
    for module in (hub_dataset, hub_rows):
        monkeypatch.setattr(module, "load_split", lambda *a, **k: asked.append(k.get("columns")) or load(*a, **k))
    read_split(write_parquet(tmp_path / "corpus", make_dataset()), "train", STREAMING)
    assert asked == [None, ["text", "speaker_id", "locale"]]


@pytest.mark.parametrize("options", [SourceOptions(), STREAMING])
def test_a_card_that_lists_the_columns_changes_nothing(tmp_path, options):
    """`push_to_hub` writes one; its columns are more than planning reads."""
    dataset = make_dataset()
    info = datasets.DatasetInfo(features=dataset.features)
    card = {"features": info._to_yaml_dict()["features"], "splits": [{"name": "train", "num_examples": ROWS}]}
    write_parquet(tmp_path / "corpus" / "data", dataset)
    text = yaml.safe_dump({"dataset_info": card, "configs": [{"config_name": "default", "data_files": "data/train-*"}]})
    (tmp_path / "corpus" / "README.md").write_text(f"---\n{text}---\n")
    check_clips(read_split(tmp_path / "corpus", "train", options))


def test_ids_come_from_a_column_in_which_all_differ(tmp_path):
    paths = [f"/somewhere/clips/{n}.mp3" for n in range(4)]
    dataset = make_dataset(4, id=[7, 7, 8, 9], path=paths)
    folder = write_parquet(tmp_path / "paths", dataset, files=1)
    for options in (SourceOptions(), STREAMING):
        assert [clip.id for clip in read_split(folder, "train", options).clips] == [f"{n}.mp3" for n in range(4)]
    folder = write_parquet(tmp_path / "ids", make_dataset(3, id=["x", "y", "z"]), files=1)
    assert [clip.id for clip in read_split(folder, "train").clips] == ["x", "y", "z"]


def test_rows_without_text_are_rejected(tmp_path):
    folder = write_parquet(tmp_path / "corpus", make_dataset(3, text=["Uno", None, ""]), files=1)
    split = read_split(folder, "train")
    assert [clip.sentence for clip in split.clips] == ["Uno", ""]
    assert [(row.id, row.reason) for row in split.rejected] == [("train-row-00000001", "incomplete row")]
    assert split.clips[1].audio.load() == wav(2)


def test_a_row_without_audio_is_a_clip_without_a_file(tmp_path):
    dataset = make_dataset(2).cast_column("audio", datasets.Audio(decode=False))
    dataset = dataset.map(lambda row: {"audio": {"bytes": None, "path": None}} if "1" in row["text"] else row)
    folder = write_parquet(tmp_path / "corpus", dataset, files=1)
    for options in (SourceOptions(), STREAMING):
        with pytest.raises(UserError, match=r"no such file: row 1 of .*corpus has no audio"):
            read_split(folder, "train", options).clips[1].audio.load()


def test_columns_are_found_or_named_and_missing_ones_listed(tmp_path):
    dataset = make_dataset(2, testo=["a", "b"], voce=["x", "y"]).rename_column("audio", "suono")
    folder = str(write_parquet(tmp_path / "corpus", dataset, files=1))
    clip = read_split(folder, "train", SourceOptions(text_column="testo", speaker_column="voce")).clips[0]
    assert (clip.sentence, clip.speaker, clip.audio.load()) == ("a", "x", wav(0))
    for options, problem in (
        (SourceOptions(text_column="frase"), r"no column with the text \(frase\); there are: suono, text, speaker_id"),
        (SourceOptions(speaker_column="chi"), r"no column with the speaker \(chi\); there are: suono, text"),
        (SourceOptions(audio_column="audio"), r"no column audio; there are: suono: name one"),
        (SourceOptions(dataset_config="de"), r"'de' not found.*Available: \['default'\]"),
    ):
        for streaming in (False, True):
            with pytest.raises(CorpusError, match=problem):
                read_split(folder, "train", SourceOptions(**vars(options) | {"streaming": streaming}))
    with pytest.raises(CorpusError, match=r"no split 'test' \(read as a Hugging Face dataset\); there are: train"):
        read_split(folder, "test")
    silent = dataset.remove_columns("suono")
    with pytest.raises(CorpusError, match=r"no column of audio; there are: text, speaker_id"):
        read_split(write_parquet(tmp_path / "silent", silent, files=1), "train")


@pytest.mark.parametrize("options", [SourceOptions(), STREAMING])
@pytest.mark.parametrize("form", ["bytes", "paths"])
def test_audio_may_be_bytes_or_paths_without_a_struct(tmp_path, monkeypatch, form, options):
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        (tmp_path / "corpus" / f"{number}.wav").write_bytes(wav(number))
    audio = [wav(n) if form == "bytes" else f"{n}.wav" for n in range(3)]
    dataset = datasets.Dataset.from_dict({"audio": audio, "text": ["Uno", "Due", "Tre"]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.chdir("/")
    clips = read_split(write_parquet(tmp_path / "corpus", dataset, files=1), "train", options).clips
    heard = [clip.audio.load() for clip in clips]
    assert [one if isinstance(one, bytes) else one.read_bytes() for one in heard] == [wav(n) for n in range(3)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("audio", "asked", "problem"),
    [
        ([[0.1, 0.2]], None, "column audio of .*corpus is decoded samples: audio is files' bytes, or their paths"),
        ([{"array": [0.1], "path": "0.wav"}], None, "column audio of .*corpus is decoded samples"),
        ([7], None, r"column audio of .*corpus is Value\('int64'\)"),
        (["0.wav"], "text", "column text of .*corpus is the text: .* name another as audio column"),
    ],
)
def test_a_column_that_holds_no_encoded_audio_is_named_with_what_it_is(tmp_path, audio, asked, problem, streaming):
    dataset = datasets.Dataset.from_dict({"audio": audio, "text": ["Uno"]})
    folder = write_parquet(tmp_path / "corpus", dataset, files=1)
    with pytest.raises(CorpusError, match=problem):
        read_split(folder, "train", SourceOptions(streaming=streaming, audio_column=asked))


@pytest.mark.parametrize("options", [SourceOptions(), STREAMING])
def test_paths_that_leave_the_dataset_are_rejected(tmp_path, options):
    corpus = tmp_path / "corpus"
    (corpus / "clips").mkdir(parents=True)
    for path in (corpus / "clips" / "0.wav", tmp_path / "0.wav"):
        path.write_bytes(wav(0))
    (corpus / "out").symlink_to(tmp_path)
    (corpus / "link.wav").symlink_to(tmp_path / "0.wav")
    inside = ["clips/0.wav", "out/corpus/clips/../clips/0.wav", str(corpus / "clips" / "0.wav")]
    leaving = [str(tmp_path / "0.wav"), "../0.wav", "clips/../../0.wav", "out/0.wav", "link.wav", "s3://x/0.wav"]
    paths = [*inside, *leaving]
    audio = [{"bytes": None, "path": path} for path in paths]
    dataset = datasets.Dataset.from_dict({"audio": audio, "text": ["Uno"] * len(paths)})
    clips = read_split(write_parquet(corpus, dataset, files=1), "train", options).clips
    assert [clip.audio.load().read_bytes() for clip in clips[: len(inside)]] == [wav(0)] * len(inside)
    for clip in clips[len(inside) :]:
        with pytest.raises(ClipError, match="path leaves the corpus folder"):
            clip.audio.load()


def test_files_that_datasets_keeps_itself_are_read(tmp_path, monkeypatch):
    """What it fetches or extracts lies in its cache, not in the dataset's folder."""
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", str(tmp_path / "extracted"))
    (tmp_path / "extracted").mkdir()
    (tmp_path / "extracted" / "0.wav").write_bytes(wav(0))
    audio = [{"bytes": None, "path": str(tmp_path / "extracted" / "0.wav")}]
    dataset = datasets.Dataset.from_dict({"audio": audio, "text": ["Uno"]})
    (clip,) = read_split(write_parquet(tmp_path / "corpus", dataset, files=1), "train").clips
    assert clip.audio.load().read_bytes() == wav(0)


def test_the_files_of_a_dataset_that_are_gone_are_named(tmp_path):
    make_dataset(3).save_to_disk(tmp_path / "corpus")
    clip = read_split(tmp_path / "corpus", "train").clips[0]
    assert isinstance(clip.audio, DatasetRow)
    (file,) = clip.audio.spec.files
    Path(file).unlink()
    with pytest.raises(UserError, match=r"data-00000-of-00001.arrow, a file of .*corpus, is gone"):
        clip.audio.load()


def test_a_prefix_makes_any_folder_a_dataset(tmp_path):
    folder = write_parquet(tmp_path, make_dataset(2), files=1)
    (folder / "train.jsonl").write_text('{"file_name": "a.wav", "text": "Uno"}')
    assert open_source(str(folder)).kind == "manifests"
    assert open_source(f"hf:{folder}").kind == "a Hugging Face dataset"


def test_other_sources_do_without_importing_datasets(sample_corpus):
    program = (
        "import sys; from data.sources import read_split; "
        f"read_split({str(sample_corpus)!r}, 'dev'); assert 'datasets' not in sys.modules and 'av' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
