"""Downloads of datasets: whole, damaged, changed and malicious ones."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from common.config import entries, reading
from common.datasets.camvid import ORIGINAL, SEGNET
from common.errors import UserError
from common.files import locked, read_json, write_record
from tests.common.datasets import layouts
from tests.common.downloads.malicious import MALICIOUS
from tests.common.downloads.server import Server, download, files_below, packed, settings
from tests.conftest import TINY, clone, run


def test_a_dataset_is_downloaded_checked_and_unpacked(
    server: Server, voc_files: dict, tmp_path: Path
) -> None:
    config = settings(server, voc_files)
    folder = download(config, "voc")
    assert folder == tmp_path / "data/voc"
    dataset = entries.dataset(config, "voc")
    assert [len(dataset.names(split)) for split in dataset.splits] == [2, 1, 3]
    for name in dataset.names("sbd"):
        dataset.read("sbd", name)
    record = read_json(folder / ".downloads/benchmark.tgz.json")
    assert record["sha256"] == hashlib.sha256(voc_files["benchmark.tgz"]).hexdigest()
    assert (record["published"], record["bytes"]) == (True, len(voc_files["benchmark.tgz"]))
    left = {Path(name).suffix for name in files_below(folder)}
    assert not left & {".tar", ".tgz", ".part"}, "archives go when they are unpacked"


def test_what_is_there_is_left_alone(server: Server, voc_files: dict) -> None:
    config = settings(server, voc_files)
    folder = download(config, "voc")
    shutil.rmtree(folder / "benchmark_RELEASE")
    server.asked.clear()
    download(config, "voc")
    assert len(server.asked) == 1, "SBD alone"
    download(config, "voc")
    assert len(server.asked) == 1


def test_data_of_ones_own_is_not_downloaded_again(server: Server, voc_files: dict, tmp_path: Path) -> None:
    """The environment may name the folder VOC2012 itself."""
    layouts.write_aug(layouts.write_voc(tmp_path / "own"))
    os.environ["VOC_ROOT"] = str(tmp_path / "own/VOCdevkit/VOC2012")
    try:
        download(settings(server, voc_files), "voc")
    finally:
        del os.environ["VOC_ROOT"]
    assert not server.asked
    assert not (tmp_path / "own/VOCdevkit/VOC2012/.downloads").exists()


def test_another_digest_is_refused(server: Server, voc_files: dict, tmp_path: Path) -> None:
    config = settings(server, voc_files)
    server.files["benchmark.tgz"] = voc_files["benchmark.tgz"] + b"\0"
    with pytest.raises(
        UserError, match=r"benchmark.tgz has the SHA-256 \w{64}, not \w{64} .*was deleted, run again"
    ):
        download(config, "voc")
    assert not (tmp_path / "data/voc/benchmark_RELEASE").exists()
    server.files |= voc_files
    download(config, "voc")


def test_a_mirror_is_compared_with_the_published_digest(server: Server, voc_files: dict) -> None:
    config = settings(server, voc_files)
    for source in config["download"]["files"].values():
        del source["sha256"]
    with pytest.raises(UserError, match=r"has the SHA-256 \w{64}, not e14f763270cf193d"):
        download(config, "voc")


def test_a_digest_of_ones_own_leaves_the_address(server: Server, voc_files: dict) -> None:
    config = settings(server, voc_files)
    name = "VOCtrainval_11-May-2012.tar"
    config["download"]["files"] = {name: {"sha256": None}}
    folder = entries.dataset(config, "voc").folder
    folder.mkdir(parents=True)
    for archive, content in voc_files.items():
        (folder / archive).write_bytes(content)
    with pytest.raises(UserError, match=r"benchmark.tgz has the SHA-256 \w{64}, not 6a5a2918d5c7"):
        download(config, "voc")
    receipt = read_json(folder / f".downloads/{name}.json")
    assert receipt["address"].endswith(f"/voc2012/{name}") and not receipt["published"]


def test_another_file_than_before_is_told(
    server: Server, camvid_files: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(server, camvid_files, digests=False)
    folder = download(config, "camvid")
    receipt = folder / f".downloads/{SEGNET[0].name}.json"
    record = read_json(receipt)
    del record["record_sha256"]
    write_record(receipt, record | {"sha256": "0" * 64})
    (folder / "test.txt").unlink()
    download(config, "camvid")
    assert f"had the SHA-256 {'0' * 64} when it was got before" in capsys.readouterr().out
    receipt.write_text("{}")
    (folder / "test.txt").unlink()
    with pytest.raises(UserError, match="cannot be read .*: delete it and run again"):
        download(config, "camvid")


def test_where_no_digest_is_published_it_is_told(
    server: Server, camvid_files: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = download(settings(server, camvid_files, digests=False), "camvid")
    (content,) = camvid_files.values()
    digest = hashlib.sha256(content).hexdigest()
    assert f"is published; this one has the SHA-256 {digest}" in capsys.readouterr().out
    record = read_json(folder / f".downloads/{SEGNET[0].name}.json")
    assert (record["published"], record["sha256"]) == (False, digest)
    assert entries.dataset(settings(server, {}), "camvid").read("train", "train_0")[0].shape == (
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
    download(config, "camvid_full")
    dataset = entries.dataset(config, "camvid_full")
    for split in dataset.splits:
        for name in dataset.names(split):
            dataset.read(split, name)


@pytest.mark.parametrize("name", ["VOCtrainval_11-May-2012.tar", "benchmark.tgz", SEGNET[0].name])
@pytest.mark.parametrize("damage", ["half", "tail", "garbage", "empty"])
def test_damaged_archives_leave_nothing(
    server: Server, voc_files: dict, camvid_files: dict, tmp_path: Path, name: str, damage: str
) -> None:
    files = voc_files | camvid_files
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
        download(settings(server, files, digests=False), entry)
    assert "\n" not in str(caught.value)
    part = {"camvid": "train", "voc": "VOCdevkit"}[entry]
    if name != "benchmark.tgz":
        assert not (tmp_path / "data" / entry / part).exists()
    assert not list((tmp_path / "data" / entry).glob(".unpacking*"))
    left = {path.name for path in (tmp_path / "data" / entry / ".downloads").iterdir()}
    assert left <= {"lock", "VOCtrainval_11-May-2012.tar.json"}


def test_a_malicious_download_is_refused_and_deleted(server: Server, voc_files: dict, tmp_path: Path) -> None:
    files = voc_files | {"VOCtrainval_11-May-2012.tar": MALICIOUS["parent"]}
    with pytest.raises(UserError, match="leads outside: do not trust it; it was deleted"):
        download(settings(server, files, digests=False), "voc")
    assert not (tmp_path / "data/evil").exists() and not (tmp_path / "data/voc/evil").exists()


def test_what_a_killed_process_left_of_unpacking_goes(
    server: Server, voc_files: dict, tmp_path: Path
) -> None:
    left = tmp_path / "data/voc/.unpacking-x"
    left.mkdir(parents=True)
    download(settings(server, voc_files), "voc")
    assert not left.exists()


def test_unpacking_that_was_killed_goes_on(server: Server, camvid_files: dict, tmp_path: Path) -> None:
    """Its parts appear one after the other, the lists last; what is there stays."""
    config = settings(server, camvid_files)
    folder = tmp_path / "data/camvid"
    (folder / "train").mkdir(parents=True)
    (folder / "train/mark").touch()
    (folder / ".downloads").mkdir()
    (name,) = camvid_files
    (folder / ".downloads" / name).write_bytes(camvid_files[name])
    download(config, "camvid")
    assert not server.asked, "the archive was there"
    assert (folder / "train/mark").exists()
    assert (folder / "valannot/val_0.png").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(
    server: Server, voc_files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRUCTSEG_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match="dataset voc cannot be written to .*file/voc: "):
        download(settings(server, voc_files), "voc")


def test_two_at_a_time_are_refused(server: Server, voc_files: dict, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "data/voc/.downloads/lock"),
        pytest.raises(UserError, match="is being written by process"),
    ):
        download(settings(server, voc_files), "voc")


def test_a_full_disk_is_one_sentence(
    server: Server, voc_files: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=2000)
    config = settings(server, voc_files)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GB more, for which the disk of .* has no room"):
        download(config, "voc")
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=10**9 * (p.name == ".downloads")))
    with pytest.raises(UserError, match="needs more room than the disk"):
        download(config, "voc")


def test_a_login_is_told_before_anything_is_downloaded(empty_data: Path, tmp_path: Path) -> None:
    config = reading.complete(TINY)
    with pytest.raises(
        UserError, match="leftImg8bit_trainvaltest.zip is not to be had without a login: register"
    ):
        download(config, "cityscapes")
    source = layouts.write_cityscapes(tmp_path / "source")
    for folder in ("leftImg8bit", "gtFine"):
        part = tmp_path / folder
        shutil.move(source / folder, part / folder)
        (part / "license.txt").write_text("terms")
        (tmp_path / f"data/cityscapes/{folder}_trainvaltest.zip").write_bytes(packed(part, "zip"))
    download(config, "cityscapes")
    assert entries.dataset(config, "cityscapes").names("val") == ["lindau_000000_000019"]


def test_pascal_context_comes_in_two_archives(server: Server, tmp_path: Path) -> None:
    source = layouts.write_context(tmp_path / "source")
    shutil.move(source / "59_context_labels", tmp_path / "masks/59_context_labels")
    files = {
        "VOCtrainval_03-May-2010.tar": packed(source, "tar"),
        "59_context_labels.tar.gz": packed(tmp_path / "masks", "gztar"),
    }
    config = settings(server, files)
    download(config, "pascal_context")
    dataset = entries.dataset(config, "pascal_context")
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
        reading.complete(TINY | {"download": {"files": text}})


def test_there_is_nothing_to_download_of_digits() -> None:
    with pytest.raises(UserError, match="dataset digits: there is nothing to download"):
        download(reading.complete(TINY), "digits")


def test_official_addresses_are_those_of_torchvision() -> None:
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    config = reading.complete(TINY)
    archive = {
        a.name: a.address for n in ("voc", "pascal_context") for a in entries.dataset(config, n).archives
    }
    assert archive["benchmark.tgz"] == SBDataset.url
    for year in ("2012", "2010"):
        known = DATASET_YEAR_DICT[year]
        assert archive[known["filename"]] == known["url"]


def test_snakemake_gets_a_dataset(server: Server, camvid_files: dict, tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    (name,) = camvid_files
    server.files |= camvid_files
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
