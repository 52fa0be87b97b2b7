"""A stand-in for YouTube: one HTTPS server on loopback that answers for all of its hosts, with its own certificate."""

import datetime
import gc
import http.server
import io
import ipaddress
import json
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.media import SAMPLE_RATE
from serving.reach import Reach
from serving.youtube import Video

ID = "dQw4w9WgXcQ"
SOUND = "https://rr1---sn-abc.googlevideo.com/videoplayback?itag=140&expire=4102444800"
VIDEO = Video(ID, "Titolo", 2.0, None, f"https://www.youtube.com/watch?v={ID}")
PAGE = b"""<html><script>ytcfg.set({"INNERTUBE_CONTEXT": {"client": {"clientName": "WEB"}}});</script></html>"""
LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
# Others' names too: that they are not asked must not be the certificate's doing.
NAMES = (
    "*.youtube.com",
    "youtube.com",
    "*.googlevideo.com",
    "*.ytimg.com",
    "*.youtube.com.evil.example",
    "evil.example",
    "evilyoutube.com",
    "localhost",
)


def certificate(folder: Path) -> Path:
    """A self-signed certificate for YouTube's hosts, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, NAMES), LOOPBACK]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec", "os.posix_spawn")
EVENTS: list[tuple[str, Any]] = []
sys.addaudithook(lambda event, given: EVENTS.append((event, given)) if event in WATCHED else None)


@dataclass
class StandIn:
    """What was asked, and what is answered."""

    port: int
    certificate: Path
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Host and path of every request."""
    player: dict[str, object] = field(default_factory=dict)
    """The player's answer, to whatever client."""
    answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    """By path: something else than the default."""

    def reach(self, addresses: dict[str, list[str]] | None = None) -> Reach:
        """The product's reach with this server in place of YouTube's addresses; the rules for hosts are its own."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        return Reach(
            resolve=lambda host: (addresses or {}).get(host, ["127.0.0.1"]),
            permits=lambda address: address == "127.0.0.1",
            port=self.port,
            context=context,
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Without a past; at the end, nothing else was connected to, no name asked for, and no program run."""
        self.asked.clear()
        self.answers.clear()
        EVENTS.clear()
        yield
        happened = list(EVENTS)
        connected = {given[1] for event, given in happened if event == "socket.connect"}
        assert connected <= {("127.0.0.1", self.port)}
        assert {given[0] for event, given in happened if event == "socket.getaddrinfo"} <= {"127.0.0.1"}
        assert [given for event, given in happened if not event.startswith("socket.")] == []
        domains = {host.split(":")[0].split(".", 1)[-1] for host, _ in self.asked}
        assert domains <= {"youtube.com", "googlevideo.com", "ytimg.com"}

    @contextmanager
    def with_video(self) -> Iterator[None]:
        """Watched, with a video that may be seen and its sound."""
        with self.watched():
            self.player = playable()
            self.answers["/videoplayback"] = lambda ask: ask.give("audio/wav", clip())
            yield


def playable(seconds: int = 2, url: str = SOUND, **details: object) -> dict[str, object]:
    """The player's answer for a video that may be seen."""
    stream = {
        "itag": 140,
        "url": url,
        "mimeType": 'audio/mp4; codecs="mp4a.40.2"',
        "bitrate": 130_000,
        "approxDurationMs": str(seconds * 1000),
        "audioSampleRate": "44100",
        "audioChannels": 2,
    }
    return {
        "playabilityStatus": {"status": "OK"},
        "videoDetails": {"videoId": ID, "title": "Ciao <b>\n mondo", "lengthSeconds": str(seconds), **details},
        "streamingData": {"expiresInSeconds": "21540", "adaptiveFormats": [stream]},
    }


def clip() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(2 * SAMPLE_RATE) / 10).astype(np.float32), SAMPLE_RATE, format="WAV")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    standin: StandIn

    def answer(self) -> None:
        host, path = self.headers["Host"], self.path.split("?")[0]
        self.standin.asked.append((host, path))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path in self.standin.answers:
            self.standin.answers[path](self)
        elif path == "/youtubei/v1/player":
            self.give("application/json", json.dumps(self.standin.player).encode())
        elif path.startswith("/youtubei/"):
            self.give("application/json", b"{}")
        else:
            self.give("text/html", PAGE)

    do_GET = do_POST = do_HEAD = answer

    def give(self, kind: str, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""


@contextmanager
def standin(folder: Path) -> Iterator[StandIn]:
    path = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    handler = type("Bound", (Handler,), {})
    with Quiet(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        handler.standin = StandIn(server.server_port, path)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler.standin
        server.shutdown()
        thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # connections that yt-dlp broke off, lest another module's tests meet them
