"""As much of the Hugging Face hub as a commit asks for; the token it wants is hf_right. And what may go wrong there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest


class Fault(NamedTuple):
    """What is answered to a path with `part` in it, and what a command says then."""

    part: str
    status: int
    answer: object
    said: str


NO_STORAGE = {"objects": [{"oid": "1", "size": 1, "error": {"code": 422, "message": "You need more storage"}}]}
NO_LICENCE = {"errors": [{"message": '"license" must be one of [mit, …]'}], "warnings": []}
FAULTS = (
    Fault(
        "/store/",
        403,
        {"error": "expired"},
        r"nothing is published \(Error while uploading .*safetensors.* 403 .*again",
    ),
    Fault(
        "/objects/batch", 200, NO_STORAGE, r"nothing is published \(LFS batch API returned errors.* more storage.*again"
    ),
    Fault("/validate-yaml", 400, NO_LICENCE, r'nothing is published \(Invalid metadata .*"license" must be one of'),
    Fault("/repos/create", 200, b"<html>", "is not the hub, but perhaps a network's page to sign in on"),
)


class _Hub(BaseHTTPRequestHandler):
    """The hub's part of a commit: which files are large, where those go, and the commit itself."""

    asked: list[tuple[str, str, str, bytes]]
    files: tuple[str, ...]
    fault: Fault | None = None

    def log_message(self, *_):
        """Nothing."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path.split("?")[0], self.headers.get("Authorization", ""), body))
        here = f"http://{self.headers['Host']}"
        if self.fault and self.fault.part in self.path:
            return self.answer(self.fault.answer, self.fault.status)
        if self.path.endswith("/agent-harnesses"):  # the client's own, of no concern here
            return self.answer({})
        if self.headers.get("Authorization") != "Bearer hf_right" and self.command != "PUT":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path.endswith("/repos/create"):
            space = json.loads(body).get("type") == "space"
            return self.answer({"url": f"{here}/{'spaces/' if space else ''}anna/base-it"})
        if "/tree/" in self.path:
            return self.answer([{"type": "file", "path": path, "oid": "0", "size": 1} for path in self.files])
        if "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if path.endswith(".safetensors") else "regular" for path in files]
            found = [
                {"path": path, "uploadMode": mode, "shouldIgnore": False}
                for path, mode in zip(files, modes, strict=True)
            ]
            return self.answer({"files": found})
        if self.path.endswith("/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{here}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer({"objects": objects, "transfer": "basic"})
        return self.answer(
            {"commitUrl": f"{here}/anna/base-it/commit/1", "commitOid": "1", "commitMessage": "", "success": True}
        )

    do_PUT = do_GET = do_POST

    def answer(self, content, status=200):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def commit_hub(*files: str, fault: Fault | None = None) -> Iterator[tuple[str, list[tuple[str, str, str, bytes]]]]:
    """Address of a hub, whose repository has these files, and what it was asked: method, path, token, body."""
    asked: list[tuple[str, str, str, bytes]] = []
    handler = type("OneHub", (_Hub,), {"asked": asked, "files": files, "fault": fault})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask_here(monkeypatch: pytest.MonkeyPatch, endpoint: str, offline: bool = False) -> None:
    """Have the client in this process, which has read the environment, ask the hub at `endpoint`."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    for name, value in {"ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": offline}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
