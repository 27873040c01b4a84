"""Downloads, from a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rsmamba_cli.datasets.fetch import fetch_dataset, fetch_files
from rsmamba_cli.datasets.info import Download
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.events import Warned

CONTENT = np.random.default_rng(0).bytes(3_000_000)
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, cutting off each of the first ``drops`` answers after a megabyte."""

    drops = 0
    ranges = True
    busy = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", server.address("a.zip"))
            self.end_headers()
            return
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        asked = self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked[6:-1]) if asked and server.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        part = CONTENT[start:]
        if server.drops:
            server.drops -= 1
            part = part[:1_000_000]
        self.wfile.write(part)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, path: str = "a.zip", checksum: str = CHECKSUM) -> Path:
    download = Download(server.address(path), checksum)
    return fetch_files([download], folder, pause=lambda seconds: None)[0]


def test_a_dropped_connection_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.drops = 2
    assert fetch(server, tmp_path / "new").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_an_earlier_attempt_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.partial").write_bytes(CONTENT[:700])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=700-"]


def test_all_that_lacked_was_the_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.partial").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges, server.drops = False, 1
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_redirections_are_followed_and_the_asked_name_is_kept(
    server: Server, tmp_path: Path
) -> None:
    server.busy = 2
    assert fetch(server, tmp_path, "moved/Train.zip?download=1").name == "Train.zip"


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has the sha1 .* instead of 00"):
        fetch(server, tmp_path, checksum="sha1:00")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_checked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    fetch(server, tmp_path)
    assert server.asked == []
    (tmp_path / "a.zip").write_bytes(CONTENT[1:])
    with pytest.raises(DatasetError, match=r"a\.zip"):
        fetch(server, tmp_path)


def test_a_missing_checksum_is_said(server: Server, tmp_path: Path) -> None:
    events: list[object] = []
    fetch_files([Download(server.address("a.zip"))], tmp_path, events.append)
    assert any(isinstance(e, Warned) and "no checksum" in e.message for e in events)


def test_a_refusal_and_silence_are_told_apart(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="answers 404"):
        fetch(server, tmp_path, "gone.zip")
    server.busy = 100
    with pytest.raises(DatasetError, match="answers 503"):
        fetch(server, tmp_path)


def test_datasets_without_a_stable_address_say_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gpcv\.whu\.edu\.cn(.|\n)*loveda"):
        fetch_dataset("whu", tmp_path)
