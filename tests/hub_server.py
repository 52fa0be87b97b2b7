"""As much of the Hugging Face hub as `datasets` and downloads of models ask for, over a folder of repositories."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = re.compile(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
API = re.compile(r"/api/(?:datasets|models)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/[^/]+(?:/(.*))?)?")


class _Hub(BaseHTTPRequestHandler):
    folder: Path
    requests: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if match := RESOLVE.fullmatch(path):
            file = self.folder / match[1] / match[2]
            if file.is_file():
                return self.send_file(file.read_bytes())
            known = (self.folder / match[1]).is_dir()
            return self.send(404, b"", "EntryNotFound" if known else "RepoNotFound")
        match = API.fullmatch(path)
        repository = self.folder / match[1] if match else None
        if match is None or repository is None or not repository.is_dir():
            return self.send(404, b"{}", "RepoNotFound")
        entries = [self.entry(repository, file) for file in sorted(repository.rglob("*"))]
        if match[2] == "tree":
            inside = f"{match[3]}/" if match[3] else ""
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            listed = [entry for entry in entries if str(entry["path"]).startswith(inside)]
            listed = [entry for entry in listed if deep or "/" not in str(entry["path"])[len(inside) :]]
            return self.send(200 if listed else 404, json.dumps(listed).encode(), "" if listed else "EntryNotFound")
        if match[2] == "paths-info":
            asked = set(json.loads(body).get("paths", ())) if body.startswith(b"{") else set()
            return self.send(200, json.dumps([entry for entry in entries if entry["path"] in asked]).encode())
        files = [{"rfilename": entry["path"]} for entry in entries if entry["type"] == "file"]
        info = {"id": match[1], "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": []}
        info |= {"downloads": 0, "likes": 0, "siblings": files}
        return self.send(200, json.dumps(info).encode())

    @staticmethod
    def entry(repository: Path, file: Path) -> dict[str, object]:
        name = file.relative_to(repository).as_posix()
        if file.is_dir():
            return {"type": "directory", "path": name, "oid": COMMIT}
        content = file.read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def send_file(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked is None:
            return self.send(200, content, **etag)
        start, stop = int(asked[1]), min(int(asked[2] or len(content) - 1) + 1, len(content))
        return self.send(
            206, content[start:stop], **etag, **{"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        )

    def send(self, status: int, content: bytes, error: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def hub_server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with the repositories in `folder` (org/name), and what it was asked for so far."""
    requests: list[str] = []
    handler = type("Hub", (_Hub,), {"folder": folder, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
