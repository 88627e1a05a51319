"""Connections that are cut, refused or missing, and files that change meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.downloads import http
from common.errors import UserError
from tests.common.downloads.server import Server, download, settings


def test_a_connection_that_is_cut_goes_on(server: Server, voc_files: dict) -> None:
    config = settings(server, voc_files)
    server.cuts = [1000, 3000]
    download(config, "voc")
    assert server.asked == [None, "bytes=1000-", "bytes=4000-", None]


def test_a_download_that_failed_goes_on_when_it_is_started_again(server: Server, voc_files: dict) -> None:
    config = settings(server, voc_files)
    server.cuts = [1000, *[0] * http.TRIES]
    with pytest.raises(UserError, match="ended after 1000 of .* what has come is kept, run again to go on"):
        download(config, "voc")
    server.cuts, server.asked = [], []
    download(config, "voc")
    assert server.asked == ["bytes=1000-", None]


def test_a_download_that_was_killed_at_its_end_is_whole(
    server: Server, voc_files: dict, tmp_path: Path
) -> None:
    config = settings(server, voc_files)
    target = tmp_path / "data/voc/.downloads/VOCtrainval_11-May-2012.tar"
    target.parent.mkdir(parents=True)
    http.resume(server.address(target.name), target.with_name(f"{target.name}.part"))
    download(config, "voc")
    assert server.asked == [None, f"bytes={len(voc_files[target.name])}-", None]


def test_a_file_that_has_changed_since_is_downloaded_anew(server: Server, voc_files: dict) -> None:
    name = "VOCtrainval_11-May-2012.tar"
    old = settings(server, voc_files | {name: bytes(20000)})
    server.cuts = [1000, *[0] * http.TRIES]
    with pytest.raises(UserError):
        download(old, "voc")
    server.cuts = []
    download(settings(server, voc_files), "voc")


@pytest.mark.parametrize("lacking", ["versions", "ranges"])
def test_servers_that_cannot_go_on_begin_again(server: Server, voc_files: dict, lacking: str) -> None:
    setattr(server, lacking, False)
    server.cuts = [1000]
    config = settings(server, voc_files)
    download(config, "voc")
    assert server.asked[1] == (None if lacking == "versions" else "bytes=1000-")


def test_without_a_network_it_says_what_to_do(server: Server, voc_files: dict, tmp_path: Path) -> None:
    config = settings(server, voc_files)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match="cannot be reached .*refused.*: if this machine is offline, download it"
    ) as e:
        download(config, "voc")
    assert str(tmp_path / "data/voc") in str(e.value) and "download.files.VOC" in str(e.value)
    (tmp_path / "data/voc/VOCtrainval_11-May-2012.tar").write_bytes(voc_files["VOCtrainval_11-May-2012.tar"])
    (tmp_path / "data/voc/benchmark.tgz").write_bytes(voc_files["benchmark.tgz"][:-1])
    with pytest.raises(UserError, match="benchmark.tgz has the SHA-256 .*delete it and run again"):
        download(config, "voc")
    (tmp_path / "data/voc/benchmark.tgz").write_bytes(voc_files["benchmark.tgz"])
    download(config, "voc")
    assert (tmp_path / "data/voc/benchmark.tgz").exists(), "what a user put there is the user's"


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refusals_of_the_server_are_one_sentence(server: Server, voc_files: dict, status: int) -> None:
    config = settings(server, voc_files)
    server.status = status
    with pytest.raises(
        UserError, match=rf"\({status} .*download.files.VOCtrainval_11-May-2012.tar.address"
    ) as caught:
        download(config, "voc")
    assert "\n" not in str(caught.value)
