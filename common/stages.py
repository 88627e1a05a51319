"""What every stage shares: its arguments, and how it fails."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from common import config as configuration
from common import devices, runs
from common.errors import HOPELESS, WORKFLOW, DiskFull, LoaderDied, OutOfMemory, UserError
from common.files import disk_full, no_room, read_json, write_json


def arguments(description: str, *selection: str, listed: bool = True) -> argparse.Namespace:
    """Parses the arguments of a stage and loads its configuration into `.config`.

    Args:
        description: What the stage does.
        *selection: Which of dataset, model, method and seed it needs.
        listed: Whether these must be among those that the configuration runs.

    Raises:
        UserError: The configuration is wrong, or does not know the selected names.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[Path("config.yaml")],
        help="YAML or JSON, later ones over earlier ones (default: config.yaml)",
    )
    for name in selection:
        parser.add_argument(f"--{name}", required=True, type=int if name == "seed" else str)
    parser.add_argument("--digest", help="refuse to run if the code or settings have another one")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--gpus", type=int, help="GPUs of this job (default: what the stage can use)")
    parsed = parser.parse_args()
    parsed.config = configuration.load(parsed.configfile)
    if listed:
        runs.check_selection(parsed.config, **{name: getattr(parsed, name) for name in selection})
    devices.set_threads(parsed.threads)
    devices.set_gpus(parsed.gpus)
    return parsed


def check_digest(wanted: str | None, actual: str) -> None:
    """Refuses to write elsewhere than the workflow expects.

    Raises:
        UserError: A method's code or the predictions that are read were changed since the workflow started.
    """
    if wanted not in (None, actual):
        raise UserError(
            "what this job depends on, such as the code of the method, has changed since the workflow began: "
            "start it again"
        )


def main(stage: Callable[[], None]) -> None:
    """Runs a stage; a mistake of the user's is one sentence and exit status 2, no traceback."""
    try:
        stage()
    except UserError as error:
        print(f"structseg: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def recording_failure(
    path: Path, stage: str, about: str = "this job", remedy: str = "use a GPU with more memory"
) -> Iterator[None]:
    """Leaves an `error.json` at `path` if the block fails, and removes its own old one if not.

    If a retry by the same workflow would fail as before, because of its input or because the loss is not
    finite, it fails at once.

    Args:
        path: Where to write.
        stage: The name of the stage; stages that share a folder leave each other's files alone.
        about: What is computed, for a GPU that is too small for it.
        remedy: What to do then.
    """
    workflow = os.environ.get(WORKFLOW)
    if workflow and path.exists():
        before = read_json(path)
        if (before["stage"], before.get("workflow")) == (stage, workflow) and before["kind"] in HOPELESS:
            raise UserError.again(before["error"], before["kind"])
    try:
        yield
    except Exception as error:
        error = _explained(error, about, remedy, path.parent)
        kind = error.kind if isinstance(error, UserError) else "crash"
        text = " ".join(str(error).split())
        sentence = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError, DiskFull):  # a full disk must not hide the error itself
            content = {"error": sentence, "kind": kind, "stage": stage, "when": now}
            write_json(path, content | ({"workflow": workflow} if workflow else {}))
        raise error
    if path.exists() and read_json(path).get("stage") == stage:
        path.unlink()


def _explained(error: Exception, about: str, remedy: str, folder: Path) -> Exception:
    """What PyTorch or the system says of a machine's limits, as a sentence of ours."""
    if not isinstance(error, UserError) and no_room(error):
        return disk_full(folder)
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"the GPU's memory is too small for {about}: {remedy}")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return LoaderDied()
    return error
