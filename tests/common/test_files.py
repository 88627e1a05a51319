"""Files are whole or not there; a lock is held by one."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import check_writable, digest, locked, read_json, replacing, write_json


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_folder_that_can_be_made_is_not_made_to_know_that(tmp_path: Path) -> None:
    check_writable(tmp_path / "results/of/mine")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("file/results", "file is in the way: move that away"),
        ("link", "give yourself the right to write there"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/proc/none")
    with pytest.raises(UserError, match=sentence):
        check_writable(tmp_path / name)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing: run the earlier stage"):
        read_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(UserError, match="cannot be read .*: delete it"):
        read_json(tmp_path / "half.json")


def test_the_digest_depends_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest(json.loads('{"b": [2], "a": 1}'))
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 10


def _hold(path: Path, held: multiprocessing.Event, release: multiprocessing.Event) -> None:
    with locked(path):
        held.set()
        release.wait(30)


def test_a_lock_keeps_others_out_until_its_holder_is_gone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    holder.start()
    assert held.wait(60)
    with (
        pytest.raises(UserError, match=f"is being written by process {holder.pid}"),
        locked(tmp_path / "lock"),
    ):
        pass
    holder.kill()
    holder.join()
    with locked(tmp_path / "lock"):
        pass
