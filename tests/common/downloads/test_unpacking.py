"""Archives of strangers write nothing that they should not."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.downloads import unpacking
from common.downloads.unpacking import BadArchive
from tests.common.downloads.malicious import MALICIOUS, regular, tar_with
from tests.common.downloads.server import files_below


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_archives_write_nothing(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(MALICIOUS[name])
    folder = tmp_path / "x/y/data"
    with pytest.raises(BadArchive, match="leads outside|has a link or a device") as caught:
        unpacking.unpack(archive, folder, {"a": "a"})
    assert "do not trust it" in str(caught.value)
    assert files_below(tmp_path) == {"archive"}
    assert not list(folder.iterdir())
    assert not Path("/tmp/structseg-evil").exists()


def test_permissions_of_an_archive_are_not_taken_over(tmp_path: Path) -> None:
    info, content = regular("a/program")
    info.mode = 0o4777
    (tmp_path / "archive").write_bytes(tar_with((info, content)))
    unpacking.unpack(tmp_path / "archive", tmp_path, {"a": "a"})
    assert not (tmp_path / "a/program").stat().st_mode & 0o4111
