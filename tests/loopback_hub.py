"""A Hub on this machine: what its real client asks for, answered from a folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0" * 40


@contextmanager
def loopback_hub(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve `folder`/{datasets,models}/org/name/REVISION/...; yields the paths that are asked."""
    asked: list[str] = []

    class Handler(_Handler):
        root, paths = folder, asked

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path
    paths: list[str]

    def do_HEAD(self) -> None:
        self._file(self._parts(), body=False)

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[0] == "api":
            self._api(parts)
        else:
            self._file(parts, body=True)

    def log_message(self, *_: object) -> None:
        self.paths.append(f"{self.command} {unquote(urlsplit(self.path).path)}")

    def _parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _api(self, parts: list[str]) -> None:
        home = self._home(parts[1], "/".join(parts[2:4]), parts[5])
        if home is None:
            return
        files = sorted(file for file in home.rglob("*") if file.is_file())
        names = [str(file.relative_to(home)) for file in files]
        if parts[4] == "tree":
            answer: object = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in zip(names, files, strict=True)
            ]
        else:
            answer = {
                "id": "some/repo",
                "sha": COMMIT,
                "siblings": [{"rfilename": n} for n in names],
            }
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, parts: list[str], *, body: bool) -> None:
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        home = self._home(kind, "/".join(parts[:2]), parts[3])
        if home is None:
            return
        file = home / "/".join(parts[4:])
        if not file.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._answer(200, data, headers, body=body)

    def _home(self, kind: str, repo: str, revision: str) -> Path | None:
        home = self.root / kind / repo
        if not home.is_dir():
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        folders = (
            [home / revision.replace("/", "-")] if revision != COMMIT else list(home.iterdir())
        )
        if not folders[0].is_dir():
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return folders[0]

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)
