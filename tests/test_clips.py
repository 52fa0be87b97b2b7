"""Reading Common Voice's layout, and any audio file."""

import csv

import numpy as np
import pytest
import soundfile

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


def test_a_corpus_that_cannot_be_used_is_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(CorpusError, match=r"no corpus: .*nowhere is not a folder"):
        read_split(tmp_path / "nowhere", "train")
    with pytest.raises(CorpusError, match=r"not in Common Voice's layout: it has no clips/"):
        read_split(tmp_path, "train")
    (tmp_path / "clips").mkdir()
    with pytest.raises(CorpusError, match=r"has no split 'train' \(train.tsv\); there are: none"):
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
