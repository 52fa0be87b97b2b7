"""What people take away reads back as what was said, by webvtt-py, pysubs2 and FFmpeg, whatever was said."""

import json
import re
from html import unescape
from itertools import pairwise
from pathlib import Path
from unicodedata import category, east_asian_width

import av
import pysubs2
import pytest
import webvtt

from serving.subtitles import FORMATS, JOINER, as_json, cues, safe_stem, srt, txt, vtt, write
from serving.transcript import Segment, Transcript, Word

HOSTILE = [
    "Ciao, mondo.",
    "a --> b",
    "00:00:01,000 --> 00:00:09,000 finto",
    "<i>corsivo</i> & <script>alert(1)</script>",
    "{\\an8}in alto &amp; &lt;b&gt;",
    "due\n\nrighe\r\n\r\n7\n00:00:00,000 --> 00:00:01,000\ndi più",
    "42",
    "WEBVTT",
    "NOTE nessuna",
    "un\u2028altro\u0085fine\u0000zero\u001b[31m",
    "perché è già così — 😀 「日本」 שלום",
    "1 < 2 > 0 && {x}",
]


def transcript_of(texts: list[str], seconds: float = 2.0) -> Transcript:
    segments = tuple(Segment(i * seconds, (i + 1) * seconds, text) for i, text in enumerate(texts))
    return Transcript(" ".join(texts), segments, len(texts) * seconds, "it")


def said(text: str) -> str:
    """As one line, without control characters."""
    return re.sub(r"\s+", " ", re.sub(r"[\0\x1b]", "", text.replace("\u2028", " ").replace("\u0085", " ")))


def test_webvtt_py_reads_every_cue_as_it_was_said() -> None:
    captions = list(webvtt.from_string(vtt(transcript_of(HOSTILE))))
    unescaped = [
        c.raw_text.replace("\n", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for c in captions
    ]
    assert unescaped == [said(text) for text in HOSTILE]
    assert all("<" not in c.raw_text and "-->" not in c.raw_text for c in captions)
    assert [(c.start_in_seconds, c.end_in_seconds) for c in captions] == [
        (2 * i, 2 * i + 2) for i in range(len(HOSTILE))
    ]


def test_pysubs2_reads_every_cue_as_it_was_said() -> None:
    read = pysubs2.SSAFile.from_string(srt(transcript_of(HOSTILE)), format_="srt", keep_html_tags=True)
    heard = [event.text.replace(JOINER, "").replace("\\N", " ") for event in read]
    assert heard == [said(text) for text in HOSTILE]
    assert [(event.start, event.end) for event in read] == [(2000 * i, 2000 * i + 2000) for i in range(len(HOSTILE))]


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_ffmpeg_reads_every_cue_as_it_was_said(tmp_path: Path, suffix: str) -> None:
    """Its decoders give the text as ASS, where a brace would be markup: they write one as a brace, escaped, and {}."""
    path = write(transcript_of(HOSTILE), tmp_path, "x")[suffix]
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        shown = [
            subtitle.ass.decode().split(",", 8)[-1]
            for packet in packets
            for subtitle in container.streams.subtitles[0].codec_context.decode2(packet).rects
        ]
    assert [(packet.pts * packet.time_base, packet.duration * packet.time_base) for packet in packets] == [
        (2 * i, 2) for i in range(len(HOSTILE))
    ]
    for text, heard in zip(HOSTILE, shown, strict=True):
        assert heard.replace(JOINER, "").replace("\\N", " ").replace("\\{{}", "{") == said(text)


@pytest.mark.parametrize(
    ("seconds", "srt_says", "vtt_says"),
    [
        (0.0, "00:00:00,000", "00:00:00.000"),
        (0.0004, "00:00:00,000", "00:00:00.000"),
        (1.9996, "00:00:02,000", "00:00:02.000"),
        (59.9999, "00:01:00,000", "00:01:00.000"),
        (3599.9994, "00:59:59,999", "00:59:59.999"),
        (3600.02, "01:00:00,020", "01:00:00.020"),
        (360_000.5, "100:00:00,500", "100:00:00.500"),
    ],
)
def test_times_are_rounded_to_the_nearest_millisecond(seconds: float, srt_says: str, vtt_says: str) -> None:
    transcript = Transcript("sì", (Segment(seconds, seconds + 10, "sì"),), seconds + 10)
    assert srt(transcript).splitlines()[1].startswith(f"{srt_says} --> ")
    assert vtt(transcript).splitlines()[2].startswith(f"{vtt_says} --> ")


def test_cues_never_overlap_run_backwards_or_vanish() -> None:
    times = [(0.0, 2.0), (1.5, 3.0), (2.9, 2.9), (2.9, 2.9), (5.0, 4.0), (-1.0, 6.0), (6.0004, 6.0003)]
    found = list(cues(Transcript("", tuple(Segment(*time, "x") for time in times), 6.0)))
    assert len(found) == len(times)
    assert all(cue.start < cue.end for cue in found)
    assert all(one.end <= two.start for one, two in pairwise(found))


LONG = (
    "Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, ché la diritta via era smarrita; ahi quanto"
    " a dir qual era è cosa dura esta selva selvaggia e aspra e forte che nel pensier rinova la paura!"
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何"
    "でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。"
)
KOREAN = (
    "안녕하세요 오늘은 기계 학습과 그 응용에 대해서 이야기해 보려고 합니다"
    " 여러분 모두에게 아주 흥미로운 주제가 될 것이라고 생각합니다"
)
THAI = (
    "สวัสดีครับวันนี้เราจะมาพูดคุยกันเกี่ยวกับเรื่องของการเรียนรู้ของเครื่องจักรและการประยุกต์ใช้งานในชีวิตประจำวัน"
    "ของพวกเราทุกคนซึ่งเป็นเรื่องที่น่าสนใจเป็นอย่างมากสำหรับคนรุ่นใหม่ในยุคปัจจุบันนี้"
)
KHMER = "ខ្ញុំស្រឡាញ់ប្រទេសកម្ពុជាហើយខ្ញុំចង់រៀនភាសាខ្មែរឱ្យបានល្អប្រសើរជាងមុនព្រោះវាជាភាសាដ៏ពិរោះ" * 2
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one picture of three


@pytest.mark.parametrize(
    ("text", "between"),
    [
        (LONG, " "),
        (JAPANESE, ""),
        ("Ciao.", " "),
        (KOREAN, " "),
        ("x" * 200, ""),
        ("https://example.org/" + "y" * 100 + " e poi", ""),
        (THAI, ""),
        (KHMER, ""),
        (FAMILY * 30, ""),
    ],
)
@pytest.mark.parametrize("seconds", [1.0, 8.0, 29.0])
def test_a_long_passage_is_cut_into_cues_that_can_be_read(text: str, between: str, seconds: float) -> None:
    """Lines of 42 columns, two for a character of East Asia; a word that is longer is broken, but no letter is."""
    found = list(cues(Transcript(text, (Segment(10.0, 10.0 + seconds, text),), 60.0)))
    shown = between.join(between.join(cue.text.split("\n")) for cue in found)
    assert shown == text if between else shown.replace(" ", "") == text.replace(" ", "")
    for cue in found:
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        for line in lines:
            columns = sum(2 if east_asian_width(c) in "WF" else 1 for c in line)
            assert columns <= 42
            assert category(line[0])[0] != "M"
            assert line[0] not in "ำ\u200d"
            assert line[-1] not in "เแโใไ\u17d2\u200d"
        assert 0 < cue.end - cue.start <= 7000
    assert found[0].start == 10_000
    assert found[-1].end <= 10_000 + 1000 * seconds
    assert all(one.end <= two.start for one, two in pairwise(found))
    if text in (LONG, JAPANESE, KOREAN, THAI, KHMER):
        lengths = [len(cue.text) for cue in found]
        assert min(lengths) > max(lengths) / 3  # no word is left over alone


def test_cues_of_one_passage_last_as_their_words_do() -> None:
    """Spoken fast at first and then slowly: a word each half second, then one each second."""
    said = LONG.split()
    starts = [0.5 * i if i < 10 else i - 5.0 for i in range(len(said))]
    words = tuple(Word(start, start + 0.4, word) for start, word in zip(starts, said, strict=True))
    found = list(cues(Transcript(LONG, (Segment(0.0, 40.0, LONG, words),), 60.0)))
    assert len(found) > 3
    shown = [word for cue in found for word in cue.segment.words]
    assert shown == list(words)
    for cue in found:
        assert cue.text.split() == [word.text for word in cue.segment.words]
        assert cue.start == round(1000 * cue.segment.words[0].start)
        assert cue.end == min(round(1000 * cue.segment.words[-1].end), cue.start + 7000)


@pytest.mark.parametrize("text", [LONG, JAPANESE, *HOSTILE])
def test_a_cut_passage_reads_back_whole(text: str) -> None:
    transcript = Transcript(text, (Segment(0.0, 29.0, text),), 29.0)
    plain = "".join(said(text).split())
    captions = [unescape(caption.raw_text) for caption in webvtt.from_string(vtt(transcript))]
    assert "".join("".join(captions).split()) == plain
    events = pysubs2.SSAFile.from_string(srt(transcript), format_="srt", keep_html_tags=True)
    assert "".join("".join(event.text.replace("\\N", " ") for event in events).replace(JOINER, "").split()) == plain


@pytest.mark.parametrize("segments", [(), (Segment(0.0, 1.0, ""), Segment(1.0, 2.0, " \n\t"))])
def test_silence_gives_files_without_cues(segments: tuple[Segment, ...]) -> None:
    silence = Transcript("", segments, 2.0)
    assert list(webvtt.from_string(vtt(silence))) == []
    assert len(pysubs2.SSAFile.from_string(srt(silence), format_="srt")) == 0
    assert txt(silence) == "\n"
    assert json.loads(as_json(silence))["text"] == ""


WORDS = (Word(1.0, 1.4, "Ciao,"), Word(1.5, 1.9, "<mondo>"), Word(1.5, 2.1, "e"), Word(9.0, 9.5, "ciao!"))
SPOKEN = Segment(1.0, 3.0, "Ciao, <mondo> e ciao!", WORDS)


def test_words_stand_in_webvtt_at_their_times_where_these_increase() -> None:
    said = vtt(Transcript(SPOKEN.text, (SPOKEN,), 3.0))
    assert said.splitlines()[3] == "Ciao, <00:00:01.500>&lt;mondo&gt; e ciao!"
    (caption,) = webvtt.from_string(said)
    assert caption.text.replace("&lt;", "<").replace("&gt;", ">") == SPOKEN.text


def test_json_holds_words_where_there_are_some() -> None:
    document = json.loads(as_json(Transcript("Ciao", (SPOKEN, Segment(3.0, 4.00049, "Ciao")), 4.00049, "it")))
    assert document["language"] == "it"
    assert document["seconds"] == 4.0
    assert document["segments"][0]["words"][1] == {"start": 1.5, "end": 1.9, "text": "<mondo>"}
    assert document["segments"][1] == {"start": 3.0, "end": 4.0, "text": "Ciao"}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("lezione 3.mp3", "lezione 3"),
        ("riunione del 3.5", "riunione del 3.5"),
        ("clip.tar.gz", "clip.tar"),
        ("film.mp4", "film"),
        ("video.3gp", "video"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\io\\voce.wav", "voce"),
        ("/", "transcript"),
        ("", "transcript"),
        ("..", "transcript"),
        (".bashrc", "bashrc"),
        ("-rf.wav", "rf"),
        ("a\nb\r\x00c\x7f.wav", "a b c"),
        ("foto\u202egpj.exe", "fotogpj"),
        ("\u200f\u2066ciao\u2069.wav", "ciao"),
        ('a<b>:"c|d?*.wav', "a_b___c_d__"),
        ("CON", "_CON"),
        ("nul.tar.wav", "_nul.tar"),
        ("com1.wav", "_com1"),
        ("LPT².mp3", "_LPT²"),
        ("console.wav", "console"),
        ("perche\u0301.mp3", "perché"),
        ("punto. .mp3", "punto"),
        ("\ud800x.wav", "x"),
    ],
)
def test_file_names_are_safe_and_still_tell_what_it_is(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


def test_every_format_is_written_whatever_the_name(tmp_path: Path) -> None:
    files = write(transcript_of([*HOSTILE, "\ud800"]), tmp_path, "è" * 300 + ".mp3")
    assert files.keys() == FORMATS.keys() == {"txt", "srt", "vtt", "json"}
    for suffix, path in files.items():
        assert path.parent == tmp_path
        assert path.name == "è" * 60 + f".{suffix}"
        assert path.read_text(encoding="utf-8")
