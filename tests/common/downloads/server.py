"""A server on this machine whose answers may be cut, changed or refused, and datasets that it has."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common.config import entries, reading
from common.config.entries import Config
from common.stages import download as stage
from tests.conftest import TINY


class Server(ThreadingHTTPServer):
    """Files by name, and what is to go wrong with them.

    Attributes:
        files: The content by name.
        cuts: After how many bytes the next answers end.
        versions: Whether answers have an ETag.
        ranges: Whether parts can be asked for.
        status: What to answer instead.
        asked: The Range header of every request, or None.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.versions = self.ranges = True
        self.status: int | None = None
        self.asked: list[str | None] = []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        content = server.files.get(self.path.rpartition("/")[2])
        if server.status or content is None:
            self.send_error(server.status or 404)
            return
        version = f'"{hashlib.sha256(content).hexdigest()}"'
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == version:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.versions:
            self.send_header("ETag", version)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


def packed(folder: Path, form: str) -> bytes:
    """All of a folder as an archive."""
    base = shutil.make_archive(str(folder.parent / f"{folder.name}-packed"), form, folder)
    return Path(base).read_bytes()


def settings(server: Server, files: dict[str, bytes], digests: bool = True) -> dict:
    """A configuration that takes the files from the server."""
    server.files |= files
    sources = {
        name: {
            "address": server.address(name),
            "sha256": hashlib.sha256(content).hexdigest() if digests else None,
        }
        for name, content in files.items()
    }
    options = {"camvid_full": {"module": "camvid", "layout": "original"}}
    return reading.complete(TINY | {"dataset_options": options, "download": {"files": sources}})


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def download(config: Config, name: str) -> Path:
    """What the verb does, and the dataset's folder."""
    stage.run(argparse.Namespace(config=config, dataset=name))
    return entries.dataset(config, name).folder
