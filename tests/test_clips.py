"""Reading Common Voice's layout, and any audio file."""

import csv
import os

import numpy as np
import pytest
import soundfile
from upath import UPath

from data.audio import decode, resample
from data.clips import ClipError, CorpusError
from data.sources import read_split

HEADER = "client_id\tpath\tsentence\tlocale"


def make_corpus(folder, rows, header=HEADER, encoding="utf-8"):
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return folder


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_sample_corpus_reads_as_the_csv_module_reads_it(sample_corpus, split):
    got = read_split(sample_corpus, split)
    with (sample_corpus / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        want = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(c.id, c.sentence, c.speaker) for c in got.clips] == [
        (row["path"], row["sentence"], row["client_id"]) for row in want
    ]
    assert got.language == "it"
    assert all(clip.audio.load().is_file() for clip in got.clips)


def test_the_folder_above_the_only_language_is_taken_too(sample_corpus):
    assert read_split(sample_corpus.parent, "dev") == read_split(sample_corpus, "dev")


def test_quotation_marks_are_text_and_a_byte_order_mark_is_not(tmp_path):
    corpus = make_corpus(tmp_path, ['s\ta.mp3\t"Sì, disse\tit', 's\tb.mp3\tE "poi"?\tit'], encoding="utf-8-sig")
    assert [clip.sentence for clip in read_split(corpus, "train").clips] == ['"Sì, disse', 'E "poi"?']


def test_rows_that_name_no_clip_are_rejected_with_their_line(tmp_path):
    rows = [
        "s\ta.mp3\tUno.\tit",
        "s\t../a.mp3\tDue.\tit",
        "s\t/etc/passwd\tTre.\tit",
        "s\t\tQuattro.\tit",
        "s\ta.mp3\tUno.\tit",
    ]
    split = read_split(make_corpus(tmp_path, [*rows, "s\tb.mp3"]), "train")
    assert [clip.id for clip in split.clips] == ["a.mp3"]
    assert [(r.id, r.reason, r.detail) for r in split.rejected] == [
        ("../a.mp3", "path is not a file name", "train.tsv line 3"),
        ("/etc/passwd", "path is not a file name", "train.tsv line 4"),
        ("", "path is not a file name", "train.tsv line 5"),
        ("a.mp3", "listed twice", "train.tsv line 6"),
        ("b.mp3", "incomplete row", "train.tsv line 7 has 2 columns"),
    ]


@pytest.mark.parametrize(("last", "cut"), [("s\tb.mp3", True), ("s\tb.mp3\tDu", True), ("s\tb.mp3\tDue.\t", False)])
def test_a_row_that_was_cut_does_not_hide_the_language(tmp_path, last, cut):
    """A row without its locale may be cut in the sentence too; a locale that is empty says nothing of the language."""
    split = read_split(make_corpus(tmp_path, ["s\ta.mp3\tUno.\tit", last]), "train")
    assert split.language == "it"
    rejected = [("b.mp3", "incomplete row", f"train.tsv line 3 has {len(last.split())} columns")] if cut else []
    assert [(r.id, r.reason, r.detail) for r in split.rejected] == rejected


def test_a_corpus_that_cannot_be_used_is_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(CorpusError, match=r"no corpus: .*nowhere is not a folder"):
        read_split(tmp_path / "nowhere", "train")
    with pytest.raises(CorpusError, match=r"is not in a layout that is known; a source is a Common Voice folder"):
        read_split(tmp_path, "train")
    (tmp_path / "clips").mkdir()
    with pytest.raises(CorpusError, match=r"has no split 'train' \(read as a Common Voice folder\); there are: none"):
        read_split(tmp_path, "train")
    with pytest.raises(CorpusError, match=r"has no split 'prova'.*there are: train"):
        read_split(make_corpus(tmp_path, ["s\ta.mp3\tUno.\tit"]), "prova")
    with pytest.raises(CorpusError, match=r"train.tsv lists no clips"):
        read_split(make_corpus(tmp_path, []), "train")
    with pytest.raises(CorpusError, match=r"has no column client_id, sentence; its first line is: path text"):
        read_split(make_corpus(tmp_path, ["a.mp3\tUno."], header="path\ttext"), "train")
    with pytest.raises(CorpusError, match=r"none of the 1 rows of .*train.tsv names a clip; the first: path is not"):
        read_split(make_corpus(tmp_path, ["s\t..\tUno.\tit"]), "train")
    with pytest.raises(CorpusError, match=r"train.tsv is not UTF-8"):
        read_split(make_corpus(tmp_path, ["s\ta.mp3\tPerché.\tit"], encoding="latin-1"), "train")


@pytest.mark.parametrize("inside", ["clips/a.wav", "dev.jsonl"])
def test_a_source_whose_name_is_not_utf8_is_named(tmp_path, inside):
    source = tmp_path / os.fsdecode(b"caf\xe9")
    (source / inside).parent.mkdir(parents=True)
    (source / inside).touch()
    with pytest.raises(CorpusError, match=r"caf\\udce9' is not UTF-8, .* give it another name"):
        read_split(source, "dev")


def test_columns_of_other_releases_and_names_without_a_suffix_are_taken(tmp_path):
    header = "sentence_id\tclient_id\tpath\tsentence\tvariant\tlocale"
    rows = ["1\ts\ta\tUno.\t\tit-IT", "2\ts\tb.mp3\tDue.\t\tit-IT", "3\ts\ta.mp3\tUno.\t\tit-IT"]
    split = read_split(make_corpus(tmp_path, rows, header), "train")
    assert [(clip.id, clip.audio.path.rpartition("/")[2]) for clip in split.clips] == [
        ("a.mp3", "a.mp3"),
        ("b.mp3", "b.mp3"),
    ]
    assert [(row.id, row.reason) for row in split.rejected] == [("a.mp3", "listed twice")]
    assert split.language == "it"
    first = read_split(make_corpus(tmp_path, ["s\ta\tUno."], "client_id\tpath\tsentence"), "train")
    assert (first.clips[0].id, first.language) == ("a.mp3", None)


def test_the_corpus_tells_durations_if_it_has_them(tmp_path):
    corpus = make_corpus(tmp_path, ["s\ta.mp3\tUno.\tit", "s\tb.mp3\tDue.\tit"])
    (corpus / "clip_durations.tsv").write_text("clip\tduration[ms]\na.mp3\t1500\nc.mp3\tlong\n")
    assert [clip.seconds for clip in read_split(corpus, "train").clips] == [1.5, None]


def test_the_clips_folder_may_be_a_link_but_a_clip_may_not_lead_out(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.mp3", "secret.txt"):
        (elsewhere / name).write_bytes(b"a")
    corpus = make_corpus(tmp_path / "corpus", ["s\ta.mp3\tUno.\tit", "s\tb.mp3\tDue.\tit", "s\tc.mp3\tTre.\tit"])
    (corpus / "clips").rmdir()
    (corpus / "clips").symlink_to(elsewhere)
    (elsewhere / "b.mp3").symlink_to("a.mp3")
    (elsewhere / "c.mp3").symlink_to("/etc/hostname")
    linked, inside, outside = read_split(corpus, "train").clips
    assert linked.audio.load().read_bytes() == inside.audio.load().read_bytes() == b"a"
    with pytest.raises(ClipError, match="path leaves the corpus folder"):
        outside.audio.load()


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"nothing://a/b cannot be read: .*nothing"):
        read_split("nothing://a/b", "train")
    corpus = make_corpus(tmp_path, ["s\ta.mp3\tUno.\tit"])
    (corpus / "train.tsv").unlink()
    (corpus / "train.tsv").mkdir()
    with pytest.raises(CorpusError, match=r"cannot be read: .*Is a directory"):
        read_split(corpus, "train")
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(CorpusError, match=r"notes.txt is not a source: a file ends in .tar.gz, .tgz, .tar, .jsonl"):
        read_split(tmp_path / "notes.txt", "train")


def test_a_remote_corpus_is_read_as_a_local_one(sample_corpus):
    remote = UPath("memory://common-voice/it")
    lines = (sample_corpus / "dev.tsv").read_text(encoding="utf-8").splitlines()[:4]
    (remote / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for line in lines[1:]:
        name = line.split("\t")[1]
        (remote / "clips" / name).write_bytes((sample_corpus / "clips" / name).read_bytes())
    for source in (remote, remote.parent):
        got = read_split(str(source), "dev").clips
        want = read_split(sample_corpus, "dev[:3]").clips
        assert [(c.id, c.sentence) for c in got] == [(c.id, c.sentence) for c in want]
        assert [c.audio.load() for c in got] == [c.audio.load().read_bytes() for c in want]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 2), (48_000, 1)])
def test_any_file_becomes_the_same_tone_at_16_khz(tmp_path, suffix, rate, channels):
    """A 440 Hz tone stays the strongest frequency; 1 Hz: the transform's resolution over the second looked at."""
    tone_N = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone_N] * channels, axis=1), rate)
    audio_N = resample(*decode(path))
    assert audio_N.dtype == np.float32
    assert audio_N.ndim == 1
    assert abs(len(audio_N) - 32_000) <= 0.05 * 16_000  # MP3 adds a frame or two
    spectrum = np.abs(np.fft.rfft(audio_N[8000:24_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_speed_changes_tempo_and_pitch_in_the_one_resampling():
    tone_N = np.sin(2 * np.pi * 400 * np.arange(96_000) / 48_000).astype(np.float32)
    fast_N = resample(tone_N, 48_000, speed=1.1)
    assert abs(len(fast_N) - 32_000 / 1.1) <= 1
    assert abs(int(np.abs(np.fft.rfft(fast_N[4000:20_000])).argmax()) - 440) <= 1


def test_clips_that_cannot_be_used_say_why(tmp_path):
    def reason(name, audio_N=None, content=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        if audio_N is not None:
            soundfile.write(path, audio_N, 16_000, subtype="FLOAT")
        with pytest.raises(ClipError) as error:
            decode(path)
        return error.value.reason

    assert reason("missing.mp3") == "no such file"
    assert reason("text.mp3", content=b"this is no audio at all" * 99) == "does not decode"
    assert reason("nothing.mp3", content=b"") == "does not decode"
    assert reason("empty.wav", np.zeros(0)) == "shorter than 0.1 s"
    assert reason("short.wav", np.zeros(1599)) == "shorter than 0.1 s"
    assert reason("long.wav", np.zeros(480_001)) == "longer than 30 s"
    assert reason("nan.wav", np.full(16_000, np.nan)) == "samples are not finite"
