"""Jobs forked from the prepared process of a workflow are as new processes, and leave nothing behind."""

from __future__ import annotations

import copy
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.config import reading
from tests.conftest import ROOT, TINY

WORKFLOW = """
import os, sys
sys.path.insert(0, {root!r})
from workflow import fork_server
fork_server.start()
print(os.environ.get("STRUCTSEG_FORKS"), flush=True)
sys.stdin.read()
"""
"""Stands for Snakemake, which starts the server and ends when it is told to."""

THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2"
)

ENDLESS = TINY | {
    "training": TINY["training"] | {"iterations": 1_000_000},
    "execution": TINY["execution"] | {"checkpoint_every": 1_000_000},
}

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has not what it takes")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def children(process: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


class Workflow:
    """A workflow with a server, in a folder with the tiny benchmark and one that trains for ever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        for name, config in (("tiny", TINY), ("endless", ENDLESS)):
            complete = reading.complete(copy.deepcopy(config) | {"results": name})
            (folder / f"{name}.json").write_text(json.dumps(complete))
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKFLOW.format(root=str(ROOT))],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.socket = Path(self.process.stdout.readline().strip())
        (self.server,) = children(self.process.pid)

    def command(self, text: str, config: str = "tiny") -> list[str]:
        """What Snakemake runs for a rule with this command."""
        script = [ROOT / "workflow/stage.sh", sys.executable, f"{config}.json", ROOT, "common"]
        return ["bash", "-c", f"source {shlex.join(map(str, script))}; {text}"]

    def start(self, text: str, config: str = "tiny", **environment: str) -> subprocess.Popen[str]:
        known = self.environment | THREADS | {"STRUCTSEG_FORKS": str(self.socket)} | environment
        return subprocess.Popen(
            self.command(text, config), cwd=self.folder, env=known, stderr=subprocess.PIPE, text=True
        )

    def train(self, log: str) -> tuple[subprocess.Popen[str], int, int]:
        """A training that does not end by itself: the shell, its client, and the forked job."""
        names = "--dataset digits --model deeplabv3plus-test_resnet --method ce"
        before, logged = {*children(self.server)}, self.logged()
        shell = self.start(f"stage train {log} {names} --seed 0 --threads 1", "endless")
        wait_for(lambda: {*children(self.server)} - before)
        (job,) = {*children(self.server)} - before
        wait_for(lambda: self.logged() not in (0, logged))
        (client,) = children(shell.pid)
        return shell, client, job

    def logged(self) -> int:
        """When the endless training has last logged a step; 0 if it has logged none."""
        logs = [path.stat() for path in self.folder.glob("endless/models/*/*/*/*/training.jsonl")]
        return max((log.st_mtime_ns for log in logs if log.st_size), default=0)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.communicate()


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workflow]:
    running = Workflow(tmp_path_factory.mktemp("workflow"))
    for config in ("tiny", "endless"):
        shell = running.start("stage prepare prepare.log --dataset digits", config)
        assert shell.wait() == 0, shell.stderr.read()
    yield running
    running.end()


def test_a_forked_job_is_as_a_new_process(workflow: Workflow) -> None:
    """It writes the same model, and ends with the same status."""
    names = "--dataset digits --model deeplabv3plus-test_resnet --method ce --seed 0 --threads 1"
    models = []
    for server in (str(workflow.socket), ""):
        shell = workflow.start(f"stage train train.log {names}", STRUCTSEG_FORKS=server)
        assert shell.wait() == 0, shell.stderr.read()
        (model,) = workflow.folder.glob("tiny/models/*/*/ce/*/model.pt")
        assert (workflow.folder / "train.log").read_text() == f"{model.relative_to(workflow.folder)}\n"
        models.append(model.read_bytes())
        for file in [*model.parent.rglob("*")]:
            if file.is_file():
                file.unlink()
    assert [task.name for task in Path(f"/proc/{workflow.server}/task").iterdir()] == [str(workflow.server)]
    shell = workflow.start("call train --seed 0")
    assert shell.wait() == 2 and "required: --dataset, --model, --method" in shell.stderr.read()


def test_a_signal_reaches_the_job_and_a_killed_client_has_it_killed(workflow: Workflow) -> None:
    shell, client, job = workflow.train("asked.log")
    assert command(job) == command(workflow.server)
    os.kill(client, signal.SIGTERM)
    assert shell.wait() == 1 and not alive(job)
    assert list(workflow.folder.glob("endless/models/*/*/*/*/state/checkpoint*"))
    shell, client, job = workflow.train("client.log")
    os.kill(client, signal.SIGKILL)
    assert shell.wait() == 1
    wait_for(lambda: not alive(job))
    shell, _, job = workflow.train("job.log")
    os.kill(job, signal.SIGKILL)
    assert shell.wait() == 1 and "train was killed" in (workflow.folder / "job.log").read_text()


@pytest.mark.parametrize("variable", ["STRUCTSEG_LOCKS", "MKL_NUM_THREADS"])
def test_where_the_server_cannot_be_sure_a_new_process_is_started(variable: str, workflow: Workflow) -> None:
    """Another environment may change what modules find when they are imported."""
    shell = workflow.start("stage train new.log --seed 0", **{variable: "1"})
    words = "\0-m\0common\0train\0"

    def new() -> list[int]:
        commands = {process: command(process) for process in children(shell.pid)}
        return [process for process, text in commands.items() if words in text and "fork_client" not in text]

    wait_for(new)
    assert not children(workflow.server)
    os.kill(new()[0], signal.SIGKILL)
    assert shell.wait() == 1


def test_jobs_live_on_without_the_workflow_and_die_with_the_server(workflow: Workflow) -> None:
    one, client, job = workflow.train("one.log")
    workflow.end()
    wait_for(lambda: not workflow.socket.exists())
    assert alive(job) and alive(workflow.server)
    os.kill(workflow.server, signal.SIGKILL)
    wait_for(lambda: not alive(job) and not alive(client))
    assert one.wait() == 1 and "train was killed" in (workflow.folder / "one.log").read_text()
