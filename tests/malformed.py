"""Odd and bad audio files, made on the spot, each with what must become of it.

A sound is 2 s at 48 kHz of harmonics below 3 kHz, so that it is the same at any usual rate; every case has its own,
since clips that sound the same are left out.
"""

import io
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

RATE = 48_000
SILENT, EARLY, UNDECODABLE = "silent", "audio ends early", "does not decode"
TOO_LONG, TOO_SHORT = "longer than 30 s", "shorter than 0.1 s"
GONE, UNREADABLE, LEAVES = "no such file", "cannot be read", "path leaves the corpus folder"
Writer = Callable[[Path, np.ndarray], object]


def sound(name: str, seconds: float = 2.0) -> np.ndarray:
    """The sound of the case `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    time_N = np.arange(round(seconds * RATE)) / RATE
    pitch_hz = rng.uniform(90, 250)
    harmonics = range(1, int(3000 / pitch_hz))
    audio_N = sum(np.sin(2 * np.pi * k * pitch_hz * time_N + rng.uniform(0, 6)) / k for k in harmonics)
    swell_N = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 5) * time_N)
    fade_N = np.minimum(1, np.minimum(time_N, time_N[-1] - time_N) / 0.1)
    return (0.5 * audio_N * swell_N * fade_N / np.abs(audio_N).max()).astype(np.float32)


def encoded(audio_N: np.ndarray, kind: str = "WAV", rate: int = RATE, **options: object) -> bytes:
    """A file of `kind` with `audio_N`, which is at 48 kHz, at `rate`."""
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(audio_N, RATE, rate) if rate != RATE else audio_N, rate, format=kind, **options)
    return file.getvalue()


def plain(path: Path, audio_N: np.ndarray) -> None:
    """The sound as it is."""
    path.write_bytes(encoded(audio_N, subtype="FLOAT"))


def file(change: Callable[[bytes], bytes] = lambda content: content, **options: object) -> Writer:
    """Writes a file whose bytes are changed."""
    return lambda path, audio_N: path.write_bytes(change(encoded(audio_N, **options)))


def samples(change: Callable[[np.ndarray], np.ndarray], **options: object) -> Writer:
    """Writes a float WAV whose samples are changed."""
    options = {"subtype": "FLOAT"} | options
    return lambda path, audio_N: path.write_bytes(encoded(change(audio_N).astype(np.float32), **options))


def given(content: bytes) -> Writer:
    """Writes these very bytes."""
    return lambda path, _: path.write_bytes(content)


def cut(share: float) -> Callable[[bytes], bytes]:
    """The first `share` of a file."""
    return lambda content: content[: round(len(content) * share)]


def patched(place: int, kind: str, *values: int) -> Callable[[bytes], bytes]:
    """Other numbers at a place in a file's header."""
    new = struct.pack(kind, *values)
    return lambda content: content[:place] + new + content[place + len(new) :]


def without_header(mp3: bytes) -> bytes:
    """An MP3 without the first frame, which tells the length."""
    return mp3[mp3.index(mp3[:2], 4) :]


def joined_mp3(path: Path, audio_N: np.ndarray) -> None:
    """Two MP3s in one file, without headers: libsndfile would take 0.9 s of this for all of it."""
    halves = np.split(audio_N, 2)
    rates = (0.0, 0.9)  # of compression: 160 and 16 kb/s
    parts = [
        encoded(half, kind="MP3", rate=16_000, bitrate_mode="CONSTANT", compression_level=level)
        for half, level in zip(halves, rates, strict=True)
    ]
    path.write_bytes(b"".join(map(without_header, parts)))


def late_loudness(path: Path, audio_N: np.ndarray) -> None:
    """An MP3 of variable bit rate without a header: libsndfile would take it for 40 s."""
    long_N = np.concatenate([np.zeros(10 * RATE, np.float32), np.tile(audio_N, 3)])
    path.write_bytes(without_header(encoded(long_N, kind="MP3", bitrate_mode="VARIABLE", compression_level=0.0)))


def hours(path: Path, _: object) -> None:
    """Three hours in a file with a hole, which takes no disk."""
    size = 3 * 3600 * 16_000 * 2
    header = (
        b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    )
    with path.open("wb") as file:
        file.write(header + b"data" + struct.pack("<I", size))
        file.truncate(size + 44)


def cut_webm(path: Path, audio_N: np.ndarray) -> None:
    """Half of a WebM, whose beginning says how long it is."""
    whole = io.BytesIO()
    with av.open(whole, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio_N[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        stream.codec_context.open()
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", RATE, stream.codec_context.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    path.write_bytes(cut(0.5)(whole.getvalue()))


def link(target: str) -> Writer:
    """A symbolic link, from the folder `clips`."""
    return lambda path, _: path.symlink_to(target)


def locked(path: Path, audio_N: np.ndarray) -> None:
    """A file that nobody but root may read."""
    plain(path, audio_N)
    path.chmod(0)


ID3 = b"ID3\x04\0\0" + bytes([0, 0, 0x10, 0]) + bytes(0x800)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + np.random.default_rng(0).bytes(3000) + b"\xff\xd9"
NFD = unicodedata.normalize("NFD", "perché.wav")


@dataclass(frozen=True)
class AudioCase:
    """A clip of the big corpus: used (`reason` empty), or left out for `reason`."""

    name: str
    write: Writer
    reason: str = ""
    sentence: str = "Buongiorno a tutti."
    like: Writer | None = plain
    """Writes a file with the features that the clip must have; None if they are not looked at."""
    within: float = 0.01
    """Mean difference of the features from those, which span 2: resampling twice, 16 bits."""


AUDIO = [
    # Harmless: used, and the same features as the plain file.
    AudioCase("stereo.wav", samples(lambda x: np.stack([x, x], axis=1))),
    AudioCase("8 channels.wav", samples(lambda x: np.stack([x] * 8, axis=1))),
    AudioCase("8kHz.wav", file(rate=8000)),
    AudioCase("11025.flac", file(kind="FLAC", rate=11_025)),
    AudioCase("96kHz.wav", file(rate=96_000)),
    AudioCase("24bit.wav", file(subtype="PCM_24")),
    AudioCase("loud.wav", samples(lambda x: 40 * x), like=plain),
    AudioCase("offset.wav", samples(lambda x: x + 0.002), within=0.03),
    AudioCase("wav called.mp3", file()),
    AudioCase("flac called.wav", file(kind="FLAC")),
    AudioCase("mp3 called.ogg", file(kind="MP3"), like=file(kind="MP3")),
    AudioCase("UPPER.WAV", file()),
    AudioCase("two.dots.wav", file()),
    AudioCase("no-suffix-in-the-table", lambda path, x: plain(path.with_name(path.name + ".mp3"), x)),
    AudioCase("tags.mp3", file(lambda mp3: ID3 + mp3, kind="MP3"), like=file(kind="MP3")),
    AudioCase("old tags.mp3", file(lambda mp3: mp3 + b"TAG" + bytes(125), kind="MP3"), like=file(kind="MP3")),
    AudioCase("zeros before.mp3", file(lambda mp3: bytes(5000) + mp3, kind="MP3"), like=file(kind="MP3")),
    AudioCase("page before.mp3", file(lambda mp3: b"HTTP/1.1 200 OK\r\n" * 9 + mp3, kind="MP3"), like=file(kind="MP3")),
    AudioCase("headless.mp3", file(without_header, kind="MP3"), like=None),
    AudioCase("joined.mp3", joined_mp3, like=None),
    AudioCase("variable without header.mp3", late_loudness, like=None),
    AudioCase("streamed.wav", file(patched(40, "<I", 0xFFFFFFFF))),
    AudioCase("wrong riff size.wav", file(patched(4, "<I", 0))),
    AudioCase("29.999 s.wav", lambda path, _: plain(path, sound(path.name, 29.999)), like=None),
    AudioCase("spaces in the name .wav", file()),
    AudioCase("-rf.wav", file()),
    AudioCase("100%.wav", file()),
    AudioCase("back\\slash.wav", file()),
    AudioCase("quo'te\".wav", file()),
    AudioCase("😀.wav", file()),
    AudioCase("שלום.wav", file()),
    AudioCase(NFD, file()),
    AudioCase("l" * 240 + ".wav", file()),
    AudioCase("locked.wav", locked, "" if os.geteuid() == 0 else UNREADABLE),
    AudioCase("emoji.wav", file(), sentence="Che bello 😀👍🏽!"),
    AudioCase("right to left.wav", file(), sentence="\u202bשלום עולם\u202c مرحبا"),
    AudioCase("quotes.wav", file(), sentence='"Sì", disse: "no'),
    AudioCase("special tokens.wav", file(), sentence="<|endoftext|> Ciao <|it|>"),
    AudioCase("nul.wav", file(), sentence="Ciao\0mondo"),
    AudioCase("controls.wav", file(), sentence="Ciao\x07 mondo\x1b[31m"),
    AudioCase("decomposed.wav", file(), sentence=unicodedata.normalize("NFD", "Perché così?")),
    # Text that is none, or too much.
    AudioCase("no text.wav", plain, "empty sentence", sentence=""),
    AudioCase("spaces.wav", plain, "empty sentence", sentence=" \u00a0 \u2003"),
    AudioCase("invisible.wav", plain, "empty sentence", sentence="\u200b\ufeff\0"),
    AudioCase("10,000 characters.wav", plain, "more than 443 tokens", sentence="ab cd " * 1667),
    # Files that are no audio.
    AudioCase("zero bytes.mp3", given(b""), UNDECODABLE),
    AudioCase("only tags.mp3", given(ID3), UNDECODABLE),
    AudioCase("text.mp3", given("Così non è un suono.\n".encode() * 200), UNDECODABLE),
    AudioCase("text.gsm", given("Così non è un suono.\n".encode() * 200), UNDECODABLE),
    AudioCase("page.mp3", given(b"<!DOCTYPE html><html><body>404 Not found</body></html>" * 20), UNDECODABLE),
    AudioCase("picture.mp3", given(JPEG), UNDECODABLE),
    AudioCase("noise.mp3", given(np.random.default_rng(1).bytes(30_000)), UNDECODABLE),
    AudioCase("half a header.wav", file(cut(0.0001)), UNDECODABLE),
    AudioCase("0 Hz.wav", file(patched(24, "<I", 0)), UNDECODABLE),
    AudioCase("1 Hz.wav", file(patched(24, "<I", 1)), "not a sample rate"),
    AudioCase("2 GHz.wav", file(patched(24, "<I", 2_000_000_000)), "not a sample rate"),
    AudioCase("4 GHz.wav", file(patched(24, "<I", 4_000_000_000)), UNDECODABLE),
    AudioCase("no channels.wav", file(patched(22, "<H", 0)), UNDECODABLE),
    # Cut audio, which its header gives away.
    *(
        AudioCase(f"cut at {share}.{kind.lower()}", file(cut(share), kind=kind), EARLY)
        for kind in ("MP3", "WAV", "AIFF", "AU", "RF64", "W64", "OGG")
        for share in (0.9, 0.6)
    ),
    AudioCase("cut.opus", file(cut(0.6), kind="OGG", subtype="OPUS"), EARLY),
    AudioCase("cut.flac", file(cut(0.6), kind="FLAC"), UNDECODABLE),
    AudioCase("cut.webm", cut_webm, EARLY),
    AudioCase("cut in a frame.mp3", file(lambda mp3: without_header(mp3)[:-40], kind="MP3"), EARLY),
    AudioCase("hole.mp3", file(lambda mp3: mp3[: len(mp3) // 3] + mp3[len(mp3) // 2 :], kind="MP3"), EARLY),
    AudioCase("twice the size.wav", file(patched(40, "<I", 4 * RATE * 2)), EARLY),
    # Too long, too short, nothing to hear.
    AudioCase("3 hours.wav", hours, TOO_LONG),
    AudioCase(
        "3 hours.mp3", lambda path, x: path.write_bytes(without_header(encoded(x, "MP3", 16_000)) * 5400), TOO_LONG
    ),
    AudioCase("30.001 s.flac", lambda path, _: path.write_bytes(encoded(sound("", 30.001), "FLAC")), TOO_LONG),
    AudioCase("header alone.wav", samples(lambda x: x[:0]), TOO_SHORT),
    AudioCase("data size 0.wav", file(patched(40, "<I", 0)), TOO_SHORT),
    AudioCase("one sample.wav", samples(lambda x: x[:1]), TOO_SHORT),
    AudioCase("0.05 s.wav", samples(lambda x: x[: RATE // 20]), TOO_SHORT),
    AudioCase("zeros.wav", samples(np.zeros_like), SILENT),
    AudioCase("-90 dB.wav", samples(lambda x: x * 3e-5), SILENT),
    AudioCase("only an offset.wav", samples(lambda x: np.full_like(x, 0.5)), SILENT),
    AudioCase("opposite channels.wav", samples(lambda x: np.stack([x, -x], axis=1)), SILENT),
    AudioCase("nan.wav", samples(lambda x: x * np.nan), "samples are not finite"),
    AudioCase("nan at the end.wav", samples(lambda x: np.append(x, np.nan)), "samples are not finite"),
    AudioCase("infinite.wav", samples(lambda x: np.append(x, -np.inf)), "samples are not finite"),
    AudioCase("beyond all measure.wav", samples(lambda x: x * 1e30), "samples are not finite"),
    # What is no file, or is elsewhere.
    AudioCase("missing.mp3", lambda *_: None, GONE),
    AudioCase("folder.wav", lambda path, _: path.mkdir(), UNREADABLE),
    AudioCase("pipe.wav", lambda path, _: os.mkfifo(path), UNREADABLE),
    AudioCase("dangling.wav", link("nowhere.wav"), GONE),
    AudioCase("circle.wav", link("circle.wav"), UNREADABLE),
    AudioCase("zero device.wav", link("/dev/zero"), LEAVES),
    AudioCase("outside.wav", link("../../outside/secret.wav"), LEAVES),
    AudioCase("outside by way of inside.wav", link("outside.wav"), LEAVES),
    AudioCase("again.wav", link("stereo.wav"), "same audio as another clip"),
    AudioCase("../outside.wav", lambda *_: None, "path is not a file name"),
    AudioCase("../../outside/secret.wav", lambda *_: None, "path is not a file name"),
    AudioCase("{outside}/secret.wav", lambda *_: None, "path is not a file name"),
    AudioCase("..", lambda *_: None, "path is not a file name"),
    AudioCase("x" * 300 + ".wav", lambda *_: None, UNREADABLE),
]
