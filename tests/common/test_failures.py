"""How stages fail, and what a retry of the same workflow does."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import WORKFLOW, Diverged, UserError
from common.failures import Failure, recording_failure


def fail(path: Path, error: Exception, stage: str = "train") -> list[int]:
    """Fails in a stage; returns whether it was begun."""
    begun: list[int] = []
    with pytest.raises(type(error)), recording_failure(path, stage):
        begun.append(1)
        raise error
    return begun


@pytest.mark.parametrize("error", [UserError("a.png is broken: repair it"), Diverged("the loss is nan")])
def test_a_retry_does_not_repeat_a_hopeless_failure(
    error: UserError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv(WORKFLOW, "host-1-2")
    assert fail(path, error)
    with pytest.raises(UserError, match=str(error)) as caught, recording_failure(path, "train"):
        pytest.fail("it was begun again")
    assert caught.value.kind == error.kind
    failure = Failure.read(path)
    assert (failure.error, failure.kind, failure.workflow) == (str(error), error.kind, "host-1-2")
    assert fail(path, OSError("other"), stage="evaluate"), "another stage is not concerned"


def test_another_workflow_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv(WORKFLOW, "host-1-2")
    fail(path, UserError("a.png is broken"))
    monkeypatch.setenv(WORKFLOW, "host-3-4")
    with recording_failure(path, "train"):
        pass
    assert not path.exists()


def test_without_a_workflow_everything_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WORKFLOW, raising=False)
    path = tmp_path / "error.json"
    assert fail(path, UserError("no")) and fail(path, UserError("no"))


def test_a_crash_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKFLOW, "host-1-2")
    path = tmp_path / "error.json"
    assert fail(path, OSError("the disk is full")) and fail(path, OSError("the disk is full"))
