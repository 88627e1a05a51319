"""Downloads from a server on this machine: whole, cut, changed, damaged and malicious ones."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common import archives, download
from common import config as configuration
from common.datasets import load, names
from common.datasets.camvid import ORIGINAL, SEGNET
from common.errors import UserError
from common.files import locked, read_json
from tests.common import layouts
from tests.common.test_datasets import write_camvid
from tests.conftest import TINY, clone, run


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


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "CHUNK", 512)
    for name in names():
        monkeypatch.delenv(getattr(load(name), "environment", "") or "SBD_ROOT", raising=False)
    monkeypatch.setenv("STRUCTSEG_DATA", str(tmp_path / "data"))


def packed(folder: Path, form: str) -> bytes:
    """All of a folder as an archive."""
    base = shutil.make_archive(str(folder.parent / f"{folder.name}-packed"), form, folder)
    return Path(base).read_bytes()


def settings(server: Server, files: dict[str, bytes], digests: bool = True) -> dict:
    """A configuration that takes the files from the server."""
    server.files |= files
    given = {
        name: {
            "address": server.address(name),
            "sha256": hashlib.sha256(content).hexdigest() if digests else None,
        }
        for name, content in files.items()
    }
    options = {"camvid_full": {"module": "camvid", "layout": "original"}}
    return configuration.complete(TINY | {"dataset_options": options, "download": {"files": given}})


@pytest.fixture
def voc(tmp_path: Path) -> dict[str, bytes]:
    """VOC and SBD as they are published."""
    return {
        "VOCtrainval_11-May-2012.tar": packed(layouts.write_voc(tmp_path / "voc"), "tar"),
        "benchmark.tgz": packed(layouts.write_sbd(tmp_path / "sbd"), "gztar"),
    }


@pytest.fixture
def camvid(tmp_path: Path) -> dict[str, bytes]:
    """The SegNet tutorial as GitHub packs it."""
    name = SEGNET[0].name
    write_camvid(tmp_path / "tutorial" / name.removesuffix(".zip") / "CamVid")
    return {name: packed(tmp_path / "tutorial", "zip")}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_dataset_is_downloaded_checked_and_unpacked(server: Server, voc: dict, tmp_path: Path) -> None:
    config = settings(server, voc)
    folder = download.download(config, "voc")
    assert folder == tmp_path / "data/voc"
    dataset = configuration.dataset(config, "voc")
    assert [len(dataset.names(split)) for split in dataset.splits] == [2, 1, 3]
    for name in dataset.names("sbd"):
        dataset.read("sbd", name)
    record = read_json(folder / ".downloads/benchmark.tgz.json")
    assert record["sha256"] == hashlib.sha256(voc["benchmark.tgz"]).hexdigest()
    assert (record["published"], record["bytes"]) == (True, len(voc["benchmark.tgz"]))
    left = {Path(name).suffix for name in files_below(folder)}
    assert not left & {".tar", ".tgz", ".part"}, "archives go when they are unpacked"


def test_what_is_there_is_left_alone(server: Server, voc: dict) -> None:
    config = settings(server, voc)
    folder = download.download(config, "voc")
    shutil.rmtree(folder / "benchmark_RELEASE")
    server.asked.clear()
    download.download(config, "voc")
    assert len(server.asked) == 1, "SBD alone"
    download.download(config, "voc")
    assert len(server.asked) == 1


def test_data_of_ones_own_is_not_downloaded_again(server: Server, voc: dict, tmp_path: Path) -> None:
    """The environment may name the folder VOC2012 itself."""
    layouts.write_aug(layouts.write_voc(tmp_path / "mine"))
    os.environ["VOC_ROOT"] = str(tmp_path / "mine/VOCdevkit/VOC2012")
    try:
        download.download(settings(server, voc), "voc")
    finally:
        del os.environ["VOC_ROOT"]
    assert not server.asked
    assert not (tmp_path / "mine/VOCdevkit/VOC2012/.downloads").exists()


def test_a_connection_that_is_cut_goes_on(server: Server, voc: dict) -> None:
    config = settings(server, voc)
    server.cuts = [1000, 3000]
    download.download(config, "voc")
    assert server.asked == [None, "bytes=1000-", "bytes=4000-", None]


def test_a_download_that_failed_goes_on_when_it_is_started_again(server: Server, voc: dict) -> None:
    config = settings(server, voc)
    server.cuts = [1000, *[0] * download.TRIES]
    with pytest.raises(UserError, match="ended after 1000 of .* what has come is kept, run again to go on"):
        download.download(config, "voc")
    server.cuts, server.asked = [], []
    download.download(config, "voc")
    assert server.asked == ["bytes=1000-", None]


def test_a_download_that_was_killed_at_its_end_is_whole(server: Server, voc: dict, tmp_path: Path) -> None:
    config = settings(server, voc)
    target = tmp_path / "data/voc/.downloads/VOCtrainval_11-May-2012.tar"
    target.parent.mkdir(parents=True)
    download._continue(server.address(target.name), target.with_name(f"{target.name}.part"))
    download.download(config, "voc")
    assert server.asked == [None, f"bytes={len(voc[target.name])}-", None]


def test_a_file_that_has_changed_since_is_downloaded_anew(server: Server, voc: dict) -> None:
    name = "VOCtrainval_11-May-2012.tar"
    old = settings(server, voc | {name: bytes(20000)})
    server.cuts = [1000, *[0] * download.TRIES]
    with pytest.raises(UserError):
        download.download(old, "voc")
    server.cuts = []
    download.download(settings(server, voc), "voc")


@pytest.mark.parametrize("lacking", ["versions", "ranges"])
def test_servers_that_cannot_go_on_begin_again(server: Server, voc: dict, lacking: str) -> None:
    setattr(server, lacking, False)
    server.cuts = [1000]
    config = settings(server, voc)
    download.download(config, "voc")
    assert server.asked[1] == (None if lacking == "versions" else "bytes=1000-")


def test_another_digest_is_refused(server: Server, voc: dict, tmp_path: Path) -> None:
    config = settings(server, voc)
    server.files["benchmark.tgz"] = voc["benchmark.tgz"] + b"\0"
    with pytest.raises(
        UserError, match=r"benchmark.tgz has the SHA-256 \w{64}, not \w{64} .*was deleted, run again"
    ):
        download.download(config, "voc")
    assert not (tmp_path / "data/voc/benchmark_RELEASE").exists()
    server.files |= voc
    download.download(config, "voc")


def test_where_no_digest_is_published_it_is_told(
    server: Server, camvid: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = download.download(settings(server, camvid, digests=False), "camvid")
    (content,) = camvid.values()
    digest = hashlib.sha256(content).hexdigest()
    assert f"is published; this one has the SHA-256 {digest}" in capsys.readouterr().out
    record = read_json(folder / f".downloads/{SEGNET[0].name}.json")
    assert (record["published"], record["sha256"]) == (False, digest)
    assert configuration.dataset(settings(server, {}), "camvid").read("train", "train_0")[0].shape == (
        36,
        48,
        3,
    )


@pytest.mark.parametrize("flat", [True, False])
def test_camvid_of_the_original_size(server: Server, tmp_path: Path, flat: bool) -> None:
    """The archive of the labels has no folder."""
    source = layouts.write_original_camvid(tmp_path / "source")
    stills, labels = tmp_path / "stills", tmp_path / "labels"
    shutil.move(source / "701_StillsRaw_full", stills / "701_StillsRaw_full")
    shutil.move(source / "LabeledApproved_full", labels if flat else labels / "LabeledApproved_full")
    files = {ORIGINAL[0].name: packed(labels, "zip"), ORIGINAL[1].name: packed(stills, "zip")}
    config = settings(server, files)
    download.download(config, "camvid_full")
    dataset = configuration.dataset(config, "camvid_full")
    for split in dataset.splits:
        for name in dataset.names(split):
            dataset.read(split, name)


@pytest.mark.parametrize("name", ["VOCtrainval_11-May-2012.tar", "benchmark.tgz", SEGNET[0].name])
@pytest.mark.parametrize("damage", ["half", "tail", "garbage", "empty"])
def test_damaged_archives_leave_nothing(
    server: Server, voc: dict, camvid: dict, tmp_path: Path, name: str, damage: str
) -> None:
    files = voc | camvid
    content = files[name]
    files[name] = {
        "half": content[: len(content) // 2],
        "tail": content[:-2000],
        "garbage": b"<html>The page has moved</html>" * 100,
        "empty": b"",
    }[damage]
    if damage == "tail" and name.endswith(".tar"):
        files[name] = content[: content.index(b"2007_000002.png") + 700]  # tar ends in two empty blocks
    entry = "camvid" if name == SEGNET[0].name else "voc"
    with pytest.raises(
        UserError, match=rf"{re.escape(name)} (cannot be unpacked|lacks).*was deleted, run again"
    ) as caught:
        download.download(settings(server, files, digests=False), entry)
    assert "\n" not in str(caught.value)
    part = {"camvid": "train", "voc": "VOCdevkit"}[entry]
    if name != "benchmark.tgz":
        assert not (tmp_path / "data" / entry / part).exists()
    assert not list((tmp_path / "data" / entry).glob(".unpacking*"))
    left = {path.name for path in (tmp_path / "data" / entry / ".downloads").iterdir()}
    assert left <= {"lock", "VOCtrainval_11-May-2012.tar.json"}


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def regular(name: str, content: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def zip_with(name: str, link: bool = False) -> bytes:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(name)
    if link:
        info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("a/good", b"good")
        opened.writestr(info, b"../../../evil")
    return buffer.getvalue()


MALICIOUS = {
    "parent": tar_with(regular("a/good"), regular("../evil")),
    "parent-inside": tar_with(regular("a/good"), regular("a/../../../evil")),
    "absolute": tar_with(regular("a/good"), regular("/tmp/structseg-evil")),
    "unwanted-parent": tar_with(regular("a/good"), regular("b/../../evil")),
    "link-outside": tar_with(special("a/link", tarfile.SYMTYPE, "../../.."), regular("a/link/evil")),
    "link-absolute": tar_with(regular("a/good"), special("a/link", tarfile.SYMTYPE, "/etc")),
    "hard-link": tar_with(regular("a/good"), special("a/link", tarfile.LNKTYPE, "../../evil")),
    "device": tar_with(regular("a/good"), special("a/null", tarfile.CHRTYPE)),
    "fifo": tar_with(regular("a/good"), special("a/fifo", tarfile.FIFOTYPE)),
    "zip-parent": zip_with("../evil"),
    "zip-absolute": zip_with("/tmp/structseg-evil"),
    "zip-link": zip_with("a/link", link=True),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_archives_write_nothing(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(MALICIOUS[name])
    folder = tmp_path / "x/y/data"
    with pytest.raises(archives.BadArchive, match="leads outside|has a link or a device") as caught:
        archives.unpack(archive, folder, {"a": "a"})
    assert "do not trust it" in str(caught.value)
    assert files_below(tmp_path) == {"archive"}
    assert not list(folder.iterdir())
    assert not Path("/tmp/structseg-evil").exists()


def test_a_malicious_download_is_refused_and_deleted(server: Server, voc: dict, tmp_path: Path) -> None:
    files = voc | {"VOCtrainval_11-May-2012.tar": MALICIOUS["parent"]}
    with pytest.raises(UserError, match="leads outside: do not trust it; it was deleted"):
        download.download(settings(server, files, digests=False), "voc")
    assert not (tmp_path / "data/evil").exists() and not (tmp_path / "data/voc/evil").exists()


def test_what_a_killed_process_left_of_unpacking_goes(server: Server, voc: dict, tmp_path: Path) -> None:
    left = tmp_path / "data/voc/.unpacking-x"
    left.mkdir(parents=True)
    download.download(settings(server, voc), "voc")
    assert not left.exists()


def test_unpacking_that_was_killed_goes_on(server: Server, camvid: dict, tmp_path: Path) -> None:
    """Its parts appear one after the other, the lists last; what is there stays."""
    config = settings(server, camvid)
    folder = tmp_path / "data/camvid"
    (folder / "train").mkdir(parents=True)
    (folder / "train/mark").touch()
    (folder / ".downloads").mkdir()
    (name,) = camvid
    (folder / ".downloads" / name).write_bytes(camvid[name])
    download.download(config, "camvid")
    assert not server.asked, "the archive was there"
    assert (folder / "train/mark").exists()
    assert (folder / "valannot/val_0.png").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(
    server: Server, voc: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRUCTSEG_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match="dataset voc cannot be written to .*file/voc: "):
        download.download(settings(server, voc), "voc")


def test_two_at_a_time_are_refused(server: Server, voc: dict, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "data/voc/.downloads/lock"),
        pytest.raises(UserError, match="is being written by process"),
    ):
        download.download(settings(server, voc), "voc")


def test_permissions_of_an_archive_are_not_taken_over(tmp_path: Path) -> None:
    info, content = regular("a/program")
    info.mode = 0o4777
    (tmp_path / "archive").write_bytes(tar_with((info, content)))
    archives.unpack(tmp_path / "archive", tmp_path, {"a": "a"})
    assert not (tmp_path / "a/program").stat().st_mode & 0o4111


def test_a_full_disk_is_one_sentence(server: Server, voc: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=2000)
    config = settings(server, voc)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GB more, for which the disk of .* has no room"):
        download.download(config, "voc")
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda p: usage._replace(free=10**9 * (p.name == ".downloads"))
    )
    with pytest.raises(UserError, match="needs more room than the disk"):
        download.download(config, "voc")


def test_without_a_network_it_says_what_to_do(server: Server, voc: dict, tmp_path: Path) -> None:
    config = settings(server, voc)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match="cannot be reached .*refused.*: if this machine is offline, download it"
    ) as e:
        download.download(config, "voc")
    assert str(tmp_path / "data/voc") in str(e.value) and "download.files.VOC" in str(e.value)
    (tmp_path / "data/voc/VOCtrainval_11-May-2012.tar").write_bytes(voc["VOCtrainval_11-May-2012.tar"])
    (tmp_path / "data/voc/benchmark.tgz").write_bytes(voc["benchmark.tgz"][:-1])
    with pytest.raises(UserError, match="benchmark.tgz has the SHA-256 .*delete it and run again"):
        download.download(config, "voc")
    (tmp_path / "data/voc/benchmark.tgz").write_bytes(voc["benchmark.tgz"])
    download.download(config, "voc")
    assert (tmp_path / "data/voc/benchmark.tgz").exists(), "what a user put there is the user's"


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refusals_of_the_server_are_one_sentence(server: Server, voc: dict, status: int) -> None:
    config = settings(server, voc)
    server.status = status
    with pytest.raises(
        UserError, match=rf"\({status} .*download.files.VOCtrainval_11-May-2012.tar.address"
    ) as caught:
        download.download(config, "voc")
    assert "\n" not in str(caught.value)


def test_a_login_is_told_before_anything_is_downloaded(tmp_path: Path) -> None:
    config = configuration.complete(TINY)
    with pytest.raises(
        UserError, match="leftImg8bit_trainvaltest.zip is not to be had without a login: register"
    ):
        download.download(config, "cityscapes")
    source = layouts.write_cityscapes(tmp_path / "source")
    for folder in ("leftImg8bit", "gtFine"):
        part = tmp_path / folder
        shutil.move(source / folder, part / folder)
        (part / "license.txt").write_text("terms")
        (tmp_path / f"data/cityscapes/{folder}_trainvaltest.zip").write_bytes(packed(part, "zip"))
    download.download(config, "cityscapes")
    assert configuration.dataset(config, "cityscapes").names("val") == ["lindau_000000_000019"]


def test_pascal_context_comes_in_two_archives(server: Server, tmp_path: Path) -> None:
    source = layouts.write_context(tmp_path / "source")
    shutil.move(source / "59_context_labels", tmp_path / "masks/59_context_labels")
    files = {
        "VOCtrainval_03-May-2010.tar": packed(source, "tar"),
        "59_context_labels.tar.gz": packed(tmp_path / "masks", "gztar"),
    }
    config = settings(server, files)
    download.download(config, "pascal_context")
    dataset = configuration.dataset(config, "pascal_context")
    dataset.read("val", dataset.names("val")[0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ({"VOC.tar": {}}, "download.files: unknown file 'VOC.tar'.*choose from .*benchmark.tgz"),
        ({"benchmark.tgz": {"address": "ftp://x/y"}}, "download.files.benchmark.tgz.address"),
        ({"benchmark.tgz": {"sha256": "abc"}}, "download.files.benchmark.tgz.sha256"),
        ({"benchmark.tgz": {"md5": "abc"}}, "unknown key 'md5'"),
    ],
)
def test_wrong_settings_are_one_sentence(text: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        configuration.complete(TINY | {"download": {"files": text}})


def test_there_is_nothing_to_download_of_digits() -> None:
    with pytest.raises(UserError, match="dataset digits: there is nothing to download"):
        download.download(configuration.complete(TINY), "digits")


def test_official_addresses_are_those_of_torchvision() -> None:
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    config = configuration.complete(TINY)
    archive = {
        a.name: a.address
        for n in ("voc", "pascal_context")
        for a in configuration.dataset(config, n).archives
    }
    assert archive["benchmark.tgz"] == SBDataset.url
    for year in ("2012", "2010"):
        known = DATASET_YEAR_DICT[year]
        assert archive[known["filename"]] == known["url"]


def test_snakemake_gets_a_dataset(server: Server, camvid: dict, tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    (name,) = camvid
    server.files |= camvid
    address = f'download={{"files": {{"{name}": {{"address": "{server.address(name)}"}}}}}}'
    server.status = 404
    failed = run("snakemake", "data_camvid", "--config", address, cwd=folder, check=False)
    assert failed.returncode != 0
    assert f"{server.address(name)} is refused (404" in failed.stderr
    server.status = None
    done = run("snakemake", "data_camvid", "--config", address, cwd=folder)
    assert (tmp_path / "data/camvid/train.txt").exists()
    assert f"dataset camvid is in {tmp_path / 'data/camvid'}" in done.stdout
    log = (folder / "results/datasets/camvid.download.log").read_text()
    assert "this one has the SHA-256" in log
