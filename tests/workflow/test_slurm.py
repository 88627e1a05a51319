"""The workflow on a real SLURM, which is installed and started on this machine for the test.

Two emulated nodes with two pretended GPUs each. Needs root on Debian, and its package server or an
installed SLURM.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from common.runs.records import read_log
from tests.conftest import TINY, clone, run

pytestmark = pytest.mark.long

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]
NODES = ["node1", "node2"]
CONFIG = TINY | {
    "methods": ["ce", "crf-1"],
    "training": {"per_dataset": {"digits": TINY["training"] | {"warmup": 0}}},
    "resources": {"cpus": 1, "gpu": 1, "mem_mb": 3000},
}

SLURM_CONF = """
ClusterName=structseg
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
MinJobAge=3600
KillWait=10
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def installed() -> bool:
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "squeue", "munged"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running SLURM."""
    if os.getuid() != 0:
        pytest.skip("SLURM can be started by root alone")
    if not installed():
        if not shutil.which("apt-get"):
            pytest.skip("there is neither SLURM nor apt-get on this machine")
        command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            pytest.skip(f"SLURM cannot be installed: {result.stderr.strip()[-200:]}")
    system = Path("/etc/slurm/slurm.conf")  # job steps look for it there and nowhere else
    if system.exists() or system.is_symlink():
        pytest.skip(f"this machine has a SLURM of its own: {system}")
    folder = tmp_path_factory.mktemp("slurm")
    write_configuration(folder)
    system.parent.mkdir(exist_ok=True)
    system.symlink_to(folder / "slurm.conf")
    (system.parent / "gres.conf").symlink_to(folder / "gres.conf")
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/key"],
        ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
        *(["slurmd", "-D", "-N", node, "-f", str(folder / "slurm.conf")] for node in NODES),
    ]
    daemons[0] += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log"]
    logs = [(folder / f"{command[0]}.out").open("w") for command in daemons]
    processes = []
    try:
        for command, log in zip(daemons, logs):
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while text("sinfo", "-h", "-o", "%T").split() != ["idle"]:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=30)
        (system.parent / "gres.conf").unlink()
        system.unlink()


def write_configuration(folder: Path) -> None:
    (folder / "state").mkdir()
    for node in NODES:
        (folder / f"spool-{node}").mkdir()
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for gpu in range(2):
        (folder / f"nvidia{gpu}").symlink_to("/dev/null")
    host = socket.gethostname()
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={17001 + index} CPUs=2 "
        "RealMemory=16000 Gres=gpu:fake:2 State=UNKNOWN"
        for index, node in enumerate(NODES)
    )
    (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder, host=host, nodes=nodes))
    files = "\n".join(f"NodeName={node} Name=gpu Type=fake File={folder}/nvidia[0-1]" for node in NODES)
    (folder / "gres.conf").write_text(f"AutoDetect=off\n{files}\n")


def text(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


ARGUMENTS = (
    *("snakemake", "--profile", "workflow/profiles/slurm", "--configfile", "tiny.yaml"),
    *("--default-resources", "slurm_partition=main", "--slurm-init-seconds-before-status-checks", "2"),
    *("--seconds-between-status-checks", "2", "--latency-wait", "5"),
)


@pytest.fixture
def project(tmp_path: Path, slurm: Path) -> Path:
    folder = clone(tmp_path)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def leaderboard(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results/leaderboard.csv").set_index("method")


def test_the_benchmark_runs_and_a_failing_run_is_a_row(project: Path) -> None:
    (project / "methods" / "broken.py").write_text(
        '"""A method that fails."""\nfrom methods.base import Method\n\n\nclass Broken(Method):\n'
        '    """Fails."""\n\n    def loss(self, logits, labels):\n        raise ValueError("it is broken")\n'
    )
    config = CONFIG | {"methods": [*CONFIG["methods"], "broken"]}
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))
    result = run(*ARGUMENTS, cwd=project, check=False)
    assert result.returncode != 0
    table = leaderboard(project)
    assert table.loc[["ce", "crf-1"], "error"].isna().all(), result.stderr[-3000:]
    assert "it is broken" in table.loc["broken", "error"]
    assert "SLURM jobid" in result.stderr
    jobs = text("scontrol", "show", "job")
    trainings = 1 + 4  # the one that fails is tried again three times
    scored = jobs.count("TresPerJob=gres:gpu:1") - trainings
    assert scored == 2, "the short jobs of a run are one, with the one GPU that they need in turn"
    assert "TresPerJob=gres:gpu:2" not in jobs


def test_a_cancelled_job_is_tried_again(project: Path) -> None:
    settings = CONFIG["training"]["per_dataset"]["digits"] | {"iterations": 400}
    execution = CONFIG["execution"] | {"checkpoint_every": 400, "workers": 1}
    changes = {"methods": ["ce"], "training": {"per_dataset": {"digits": settings}}, "execution": execution}
    kinds = {"gres": "gpu:fake", "with_gpu": {"slurm_partition": "main", "slurm_account": "me"}}
    resources = {"resources": CONFIG["resources"] | kinds}
    (project / "tiny.yaml").write_text(yaml.safe_dump(CONFIG | changes | resources))
    command = [sys.executable, "-m", *ARGUMENTS]
    log = (project / "log").open("w")
    process = subprocess.Popen(command, cwd=project, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 180
    while not (logs := [*project.glob("results/models/*/*/*/*/training.jsonl")]) or not logs[0].read_text():
        assert process.poll() is None and time.monotonic() < deadline, (project / "log").read_text()[-3000:]
        time.sleep(0.2)
    (project / "config.yaml").write_text("datasets: [")  # jobs that are submitted from now on do not read it
    (project / "tiny.yaml").unlink()
    running = text("squeue", "--states=running", "-h", "-o", "%i").split()
    subprocess.run(["scancel", *running], check=True)
    assert process.wait(timeout=300) == 0, (project / "log").read_text()[-3000:]
    assert leaderboard(project)["error"].isna().all()
    assert "Trying to restart job" in (project / "log").read_text()
    assert "TresPerNode=gres:gpu:fake:1" in text("scontrol", "show", "job")
    lines = read_log(logs[0])
    assert [line.iteration for line in lines] == [*range(1, 401)]
    seconds = [line.seconds for line in lines]
    assert seconds == sorted(seconds), "it went on where it was asked to end"


def test_trainings_can_be_submitted_as_an_array(project: Path) -> None:
    config = CONFIG | {"methods": ["ce", "bce"], "seeds": [0, 1]}
    (project / "tiny.yaml").write_text(yaml.safe_dump(config))
    result = run(*ARGUMENTS, "--slurm-array-jobs", "train", cwd=project, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert leaderboard(project)["error"].isna().all()
    tasks = {line for line in text("scontrol", "show", "job").split() if line.startswith("ArrayTaskId=")}
    assert tasks == {f"ArrayTaskId={task}" for task in range(1, 5)}
