"""An uploaded file may be anything, and reads no other file and no address. The traps are shown to work on FFmpeg as it
comes, where it falls for them."""

import http.server
import io
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from serving.errors import AudioError
from serving.media import (
    SAMPLE_RATE,
    decoded,
    load_audio,
)

SECRET_HZ = 440.0


class Secrets(http.server.SimpleHTTPRequestHandler):
    """Gives out the files of its folder, and remembers who asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder with a recording that nobody uploaded, the address that serves it too, and what was asked there."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    tone_N = 0.5 * np.sin(2 * np.pi * SECRET_HZ * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    soundfile.write(folder / "secret.wav", tone_N.astype(np.float32), SAMPLE_RATE)
    with av.open(folder / "secret.ts", "w", format="mpegts") as out, av.open(folder / "secret.wav") as source:
        stream = out.add_stream("mp2", rate=SAMPLE_RATE, layout="mono")
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE, frame_size=stream.frame_size)
        for frame in source.decode(audio=0):
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
        out.mux(stream.encode())
    asked: list[str] = []
    handler = type("Handler", (Secrets,), {"asked": asked})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *given: handler(*given, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def hls(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n".encode()


def hls_key(target: str) -> bytes:
    return hls("data:audio/x;base64,AAAA").replace(
        b"#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF'.encode()
    )


def concat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def dash(target: str) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"'
        ' profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="audio/mp4">'
        f'<Representation id="0" bandwidth="1000"><BaseURL>{target}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ).encode()


def svg(target: str) -> bytes:
    return (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' width="8" height="8"><image xlink:href="{target}" width="8" height="8"/></svg>'
    ).encode()


def sdp(target: str) -> bytes:
    host = target.split("//")[-1].split("/")[0].split(":")[0] or "127.0.0.1"
    return f"v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 {host}\nt=0 0\nm=audio 5004 RTP/AVP 0\n".encode()


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def avi_with_playlist(target: str) -> bytes:
    """An AVI whose subtitle track (GAB2) is a playlist: FFmpeg once opened what it names, and showed it as pictures."""
    playlist = hls(target)
    gab2 = b"GAB2\0" + struct.pack("<HI", 2, 2) + b"x\0" + struct.pack("<HI", 4, len(playlist)) + playlist
    main = struct.pack("<14I", 40_000, 0, 0, 0, 1, 0, 1, 0, 8, 8, 0, 0, 0, 0)
    subtitle = b"txts" + b"\0" * 4 + struct.pack("<10I", 0, 0, 0, 1, 1, 0, 1, 0, 0, 0) + b"\0" * 4
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", subtitle) + chunk(b"strf", b"\0" * 40))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + stream)
    return chunk(b"RIFF", b"AVI " + header + chunk(b"LIST", b"movi" + chunk(b"00tx", gab2)))


def mov_elsewhere(target: str) -> bytes:
    """A movie whose track says: my samples lie in that other file (a `dref` of the kind that FFmpeg can follow)."""
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, SAMPLE_RATE), np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
    data = out.getvalue()
    place = data.index(struct.pack(">I4sI", 12, b"url ", 1), data.index(b"dref"))  # flag 1: in this file
    name = target.encode() + b"\0" * (len(target) % 2)
    alias = b"\0" * 10 + bytes([1]) + b"x".ljust(27, b"\0") + b"\0" * 12 + bytes([10]) + b"secret.wav".ljust(63, b"\0")
    alias += b"\0" * 16 + struct.pack(">HH", 1, 1) + b"\0" * 16 + struct.pack(">HH", 2, len(name)) + name
    alias += struct.pack(">HH", 0xFFFF, 0)
    alias = struct.pack(">I4sI", len(alias) + 12, b"alis", 0) + alias
    data = data[:place] + alias + data[place + 12 :]
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.rindex(box, 0, place) - 4
        size = struct.unpack(">I", data[at : at + 4])[0] + len(alias) - 12
        data = data[:at] + struct.pack(">I", size) + data[at + 4 :]
    return data


TRAPS: dict[str, Callable[..., bytes]] = {
    "list.m3u8": hls,
    "key.m3u8": hls_key,
    "list.ffconcat": concat,
    "list.mpd": dash,
    "picture.svg": svg,
    "stream.sdp": sdp,
    "film.avi": avi_with_playlist,
    "film.mov": mov_elsewhere,
    "frame%03d.jpg": hls,
    "photo.jpg": lambda target: target.encode(),
    "list.pls": lambda target: f"[playlist]\nFile1={target}\nNumberOfEntries=1\n".encode(),
    "list.asx": lambda target: f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>'.encode(),
    "talk.mp3": hls,
    "voice.wav": concat,
}


def hears_the_secret(audio_N: np.ndarray) -> bool:
    spectrum = np.abs(np.fft.rfft(audio_N, SAMPLE_RATE))  # bins are 1 Hz apart
    return bool(spectrum.max() > 0 and abs(spectrum.argmax() - SECRET_HZ) < 2)


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in TRAPS for target in ("{folder}/secret.ts", "{url}/secret.ts")]
    + [
        (name, target)
        for name in ("list.m3u8", "list.ffconcat", "film.mov")
        for target in (
            "secret.ts",
            "file://{folder}/secret.wav",
            "concat:{folder}/secret.ts|{url}/secret.ts",
            "subfile,,start,0,end,0,,:{folder}/secret.ts",
            "crypto:{url}/secret.wav",
        )
    ],
)
def test_a_file_that_names_others_reads_nothing(
    name: str, target: str, secrets: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, asked = secrets
    monkeypatch.chdir(folder)  # so that a plain name would be found
    path = folder / name
    path.write_bytes(TRAPS[name](target.format(folder=folder, url=url)))
    try:
        with decoded(path) as audio_N:
            heard = float(np.abs(audio_N).max())
    except AudioError:
        heard = 0.0
    assert heard == 0.0  # the movie holds a silence of its own, in place of what it names
    assert asked == []


@pytest.mark.parametrize(
    ("name", "target", "options"),
    [
        ("list.m3u8", "{url}/secret.ts", {"protocol_whitelist": "file,http,tcp"}),
        ("list.m3u8", "secret.ts", {"allowed_extensions": "ALL"}),
        ("list.ffconcat", "secret.wav", {}),
        ("film.mov", "{folder}/secret.wav", {"enable_drefs": "1", "use_absolute_path": "1"}),
    ],
)
def test_the_same_files_are_traps_for_ffmpeg_as_it_comes(
    name: str, target: str, options: dict[str, str], secrets: tuple[Path, str, list[str]]
) -> None:
    """Otherwise the test above would prove little."""
    folder, url, asked = secrets
    path = folder / name
    path.write_bytes(TRAPS[name](target.format(folder=folder, url=url)))
    with av.open(str(path), options=options) as container:
        heard_N = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert hears_the_secret(heard_N.astype(np.float32))
    assert bool(asked) == ("url" in target)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_audio_errors_or_sound(tmp_path: Path, seed: int, sample_corpus: Path) -> None:
    rng = np.random.default_rng(seed)
    clip = sorted((sample_corpus / "clips").glob("*.mp3"))[0]
    source = [mov_elsewhere("x"), clip.read_bytes(), avi_with_playlist("x"), dash("x")][seed % 4]
    data = np.frombuffer(source, np.uint8).copy()
    places = rng.integers(0, data.size, max(1, data.size // 50))
    data[places] = rng.integers(0, 256, places.size, np.uint8)
    (tmp_path / "x").write_bytes(data.tobytes())
    try:
        samples = load_audio(tmp_path / "x").size
    except AudioError:
        samples = 160
    assert samples >= 160
