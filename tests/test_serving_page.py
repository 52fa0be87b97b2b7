"""The page over HTTP, as a program uses it: text and segments, plain words for what cannot be read, nothing kept."""

import csv
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jiwer
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from serving.port import PortError
from serving.server import ShareError, serve
from tests.page_process import REPOSITORY, Page, free_port, running_page


@pytest.fixture(scope="module")
def page(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running_page(base_model_dir, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def clip(sample_corpus: Path) -> tuple[Path, str]:
    """A test clip and its sentence."""
    with (sample_corpus / "test.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return sample_corpus / "clips" / row["path"], row["sentence"]


def client(page: Page, language: str = "en") -> Client:
    return Client(page.url, verbose=False, analytics_enabled=False, headers={"Accept-Language": language})


def test_a_file_gives_its_text(page: Page, clip: tuple[Path, str]) -> None:
    """Half of the words: base itself errs on some; the exact text is compared in test_serving_transcribe.py."""
    recording, sentence = clip
    text = client(page).predict(handle_file(str(recording)), api_name="/transcribe")
    assert jiwer.wer(sentence.lower(), text.lower()) < 0.5


@pytest.mark.parametrize(
    ("language", "says"),
    [("en-GB", "This file could not be read as audio or video."), ("it-IT", "Il file non è leggibile")],
)
def test_a_file_that_is_no_recording_is_answered_in_plain_words(page: Page, tmp_path, language: str, says: str) -> None:
    (tmp_path / "letter.mp3").write_bytes(b"Cara Anna, " * 1000)
    with pytest.raises(AppError, match=says) as caught:
        client(page, language).predict(handle_file(str(tmp_path / "letter.mp3")), api_name="/transcribe")
    assert "letter" not in str(caught.value)


def test_no_recording_is_answered_in_plain_words(page: Page) -> None:
    with pytest.raises(AppError, match="There is no recording yet"):
        client(page).predict(None, api_name="/transcribe")


def test_segments_come_with_times_words_and_the_language(page: Page, clip: tuple[Path, str]) -> None:
    recording, sentence = clip
    found = client(page).predict(
        handle_file(str(recording)), language="it", translate=False, words=True, api_name="/segments"
    )
    assert found["language"] == "it"
    assert found["text"] == " ".join(segment["text"] for segment in found["segments"])
    times = [(word["start"], word["end"]) for segment in found["segments"] for word in segment["words"]]
    assert len(times) == len(found["text"].split())
    assert times == sorted(times)
    assert 0 <= times[0][0] < times[-1][1] <= found["seconds"]
    assert jiwer.wer(sentence.lower(), found["text"].lower()) < 0.5


def test_a_language_the_model_does_not_know_is_answered_in_plain_words(page: Page, clip: tuple[Path, str]) -> None:
    with pytest.raises(AppError, match="This model does not know that language"):
        client(page).predict(handle_file(str(clip[0])), "tlh", api_name="/transcribe")


def test_the_api_is_two_endpoints_and_both_are_described(page: Page) -> None:
    endpoints = client(page).view_api(print_info=False, return_format="dict")["named_endpoints"]
    names = {name: [given["parameter_name"] for given in what["parameters"]] for name, what in endpoints.items()}
    assert names == {
        "/transcribe": ["recording", "language", "translate"],
        "/segments": ["recording", "language", "translate", "words"],
    }
    for what in httpx.get(f"{page.url}gradio_api/info").json()["named_endpoints"].values():
        assert what["description"]


def test_the_readmes_client_works_as_it_stands(page: Page, clip: tuple[Path, str], capsys, monkeypatch) -> None:
    readme = (REPOSITORY / "serving" / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(clip[0].parent)
    exec(program.replace("http://127.0.0.1:7860/", page.url).replace("talk.mp3", clip[0].name), {})
    printed = capsys.readouterr().out
    (line,) = printed.splitlines()  # a clip of one passage: its time, and its text
    assert jiwer.wer(clip[1].lower(), line.partition(" ")[2].lower()) < 0.5


def test_uploads_lie_in_the_pages_own_folder(page: Page, clip: tuple[Path, str]) -> None:
    """That they are gone when it stops, `running_page` checks at its end."""
    client(page).predict(handle_file(str(clip[0])), api_name="/transcribe")
    assert [file.name for file in page.uploads.rglob("*.mp3")].count(clip[0].name) >= 1


class Launched:
    """What Gradio's page tells of a launch: its own address, and the tunnel's if there is one."""

    def __init__(self, public_url: str | None, fails: Exception | None = None) -> None:
        self.public_url, self.fails, self.is_closed = public_url, fails, False
        self.server_name, self.not_by_proxy = "", ""

    def launch(self, **settings: object) -> tuple[None, str, str | None]:
        self.server_name, self.not_by_proxy = settings["server_name"], os.environ["no_proxy"]
        if self.fails:
            raise self.fails
        return None, "http://127.0.0.1:7860/", self.public_url if settings["share"] else None

    def close(self, verbose: bool) -> None:
        self.is_closed = not verbose


def test_a_shared_page_gives_its_public_address() -> None:
    launched = Launched("https://abc.gradio.live")
    with serve(launched, "127.0.0.1", 7860, share=True) as url:
        assert url == "https://abc.gradio.live"
    with serve(launched, "127.0.0.1", 7860) as url:
        assert url == "http://127.0.0.1:7860/"


def test_a_page_without_the_tunnel_it_should_have_is_closed_and_says_so() -> None:
    launched = Launched(None)
    with pytest.raises(ShareError, match="no public link"), serve(launched, "127.0.0.1", 7860, share=True):
        pass
    assert launched.is_closed


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(("host", "listens"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "[::1]")])
def test_gradio_asks_its_own_page_and_no_proxy_whether_it_is_up(
    name: str, host: str, listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the real page does behind a proxy that is not there: tests/watched_page.py."""
    for each in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(each, "example.com" if each == name else "")
    launched = Launched(None)
    with serve(launched, host, 7860):
        assert launched.server_name == listens
        assert launched.not_by_proxy == os.environ["NO_PROXY"] == f"example.com,{host},localhost"


@pytest.mark.parametrize(
    "fault", [httpx.ConnectError("refused"), httpx.InvalidURL("bad"), ValueError("no localhost"), OSError("taken")]
)
def test_a_page_that_cannot_be_served_there_is_told_in_a_line(fault: Exception) -> None:
    told = rf"127\.0\.0\.1:7860: .*\({fault}\); choose another --"
    with pytest.raises(PortError, match=told), serve(Launched(None, fault), "127.0.0.1", 7860):
        pass


def start(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "serving.app", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_port_in_use_is_one_line_and_exit_code_2(base_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = start("--model", str(base_model_dir), "--port", str(port))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: 127.0.0.1:{port}: cannot be listened on (Address already in use)")
    assert err.count("\n") == 1


def test_a_model_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, out, err = start("--model", str(tmp_path / "nowhere"), "--port", str(free_port()))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'nowhere'}: no such folder")
    assert err.count("\n") == 1
