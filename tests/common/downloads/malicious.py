"""Archives that would write outside of the folder that they are unpacked into."""

from __future__ import annotations

import io
import tarfile
import zipfile


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
