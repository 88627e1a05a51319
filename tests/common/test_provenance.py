"""What records say of the code that results were made by."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from common import provenance
from tests.conftest import ROOT


class Code(NamedTuple):
    commit: str | None
    code: str


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with a little code, results and a configuration, which this process takes for its own."""
    folder = tmp_path / "repository"
    for name in (
        "common/runs/plan.py",
        "common/tables/notes.py",
        "methods/ce.py",
        "cuda/chain.cu",
        "config.yaml",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1\n")
    (folder / "results/reference").mkdir(parents=True)
    (folder / "results/reference/published.csv").write_text("a,b\n")
    (folder / ".gitignore").write_text("__pycache__\nresults/*\n!results/reference\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git(folder, *arguments)
    monkeypatch.setattr(provenance, "ROOT", folder)
    yield folder
    forget()


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def forget() -> None:
    """As in a new process."""
    provenance.commit.cache_clear()
    provenance.code.cache_clear()


def now() -> Code:
    forget()
    record = provenance.Provenance.now("a CPU")
    assert record.code
    return Code(record.commit, record.code)


def symlinked_results(folder: Path) -> None:
    """Results on another disk, as the README has it."""
    (folder / "results").rename(folder.parent / "results")
    (folder / "results").symlink_to(folder.parent / "results")


def written(name: str, text: str = "2\n") -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        symlinked_results,
        written("results/leaderboard.md"),
        written("results/reference/published.csv"),
        written("config.yaml"),
        written("my.yaml"),
        written("notes.txt"),
        written("methods/README.md"),
        written("methods/__pycache__/ce.pyc"),
        written("data/image.png"),
        lambda folder: (folder / "methods/ce.py").touch(),
    ],
)
def test_what_is_no_code_is_no_change(change: Callable[[Path], object], repository: Path) -> None:
    before = now()
    change(repository)
    assert now() == before and before.commit and "+" not in before.commit


@pytest.mark.parametrize(
    "change",
    [
        written("methods/ce.py"),
        written("methods/own.py"),
        written("common/runs/plan.py"),
        written("common/runs/new.py"),
        written("cuda/chain.cu"),
        lambda folder: (folder / "methods/ce.py").unlink(),
        lambda folder: (folder / "methods/ce.py").rename(folder / "methods/bce.py"),
    ],
)
def test_other_code_is_told_apart(change: Callable[[Path], object], repository: Path) -> None:
    before = now()
    change(repository)
    after = now()
    assert after.commit == f"{before.commit}+changes" and after.code != before.code


def test_two_uncommitted_changes_are_two_codes_and_a_commit_of_one_is_none(repository: Path) -> None:
    written("methods/own.py", "1\n")(repository)
    one = now()
    written("methods/own.py", "2\n")(repository)
    two = now()
    assert one.commit == two.commit and one.code != two.code
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    assert now().code == two.code and "+" not in str(now().commit)


def test_code_that_only_shows_results_is_not_theirs(repository: Path) -> None:
    before = now()
    written("common/tables/notes.py")(repository)
    assert now().code == before.code


def test_outside_git_the_code_is_known(repository: Path) -> None:
    before = now()
    (repository / ".git").rename(repository.parent / "gone")
    assert now() == Code(None, before.code)


def test_records_tell_of_the_code_of_the_start(repository: Path) -> None:
    forget()
    provenance.note_code()
    before = provenance.code(), provenance.commit()
    written("methods/ce.py")(repository)
    record = provenance.Provenance.now("a CPU")
    assert (record.code, record.commit) == before


def test_a_job_takes_note_of_the_code_before_anything_else(tmp_path: Path) -> None:
    """The configuration cannot even be read, and the code is known."""
    script = (
        "import sys\nfrom common import provenance\nfrom common.__main__ import main\n"
        "sys.argv = ['', 'controls', '--configfile', 'nowhere.yaml', '--dataset', 'a', '--model', 'b']\n"
        "try:\n    main()\nexcept SystemExit:\n    print(provenance.code.cache_info().currsize)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "1", result.stderr
