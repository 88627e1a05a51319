"""Starting the processes that train one model together, and being one of them.

The train stage starts them through torchrun, one per GPU of this machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import tempfile
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as torch_distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from common.errors import UserError
from common.failures import Failure, recording_failure
from common.installation import IMPORTED_FROM
from common.machine import devices, main_memory
from common.training.group import ProcessGroup

PATIENCE = timedelta(hours=1)
"""How long a process waits for another, which may read from a slow disk; that one died is seen at once."""

PARENT = "STRUCTSEG_PARENT"
"""The environment variable with the process that started this one."""
DEVICE = "STRUCTSEG_DEVICE"
"""The environment variable with the kind of device that the processes use."""


class PeerLost(UserError):
    """Another process of the training has ended; why is its own story."""

    kind = "peer"


def launch(arguments: Sequence[str], processors: Sequence[torch.device], folder: Path) -> None:
    """Runs `python ARGUMENTS` once for every device through torchrun, and returns when all have ended well.

    SIGTERM is passed on, and if they have saved their state and ended, so does this process, with status 143.

    Args:
        arguments: They call a stage that enters `member`.
        processors: The devices, of one kind.
        folder: Where the processes leave why they failed.

    Raises:
        UserError: One has failed; the sentence is its own.
    """
    for old in folder.glob("failure-*.json"):
        old.unlink()
    for name in ("agent.server.api", "multiprocessing.api"):  # what failed is told below, once
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    with _signals_restored(), _environment(processors), tempfile.TemporaryDirectory() as logs:
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(processors),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            shutdown_timeout=int(PATIENCE.total_seconds()),  # to save the state; a cluster waits less
        )
        try:
            elastic_launch(settings, sys.executable)(*arguments)
        except ChildFailedError as error:
            _raise_cause(folder, error.failures)
        except SignalException as error:
            _raise_cause(folder, {}, error.sigval)


def _raise_cause(
    folder: Path, ended: Mapping[int, ProcessFailure], received: signal.Signals | None = None
) -> None:
    """Ends this process as the one that ended first did; the others only missed it.

    Args:
        folder: Where the processes have left why they failed.
        ended: How those that failed have ended, by their ranks.
        received: The signal that has ended this process's waiting, if one has.
    """
    paths = sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns)
    for failure in filter(None, map(Failure.last, paths)):
        if failure.kind != PeerLost.kind:
            raise UserError.again(failure.error, failure.kind)
    if received:
        sys.exit(128 + received)
    codes = {rank: process.exitcode for rank, process in ended.items()}
    for rank, code in codes.items():
        if code < 0 and code != -signal.SIGTERM:
            raise UserError.again(
                f"process {rank + 1} of the training was killed by {signal.Signals(-code).name}, perhaps "
                "because main memory ran out (resources.mem_mb): the same command goes on from the last "
                "checkpoint",
                "crash",
            )
    if {128 + signal.SIGTERM, -signal.SIGTERM} & {*codes.values()}:
        sys.exit(128 + signal.SIGTERM)
    statuses = ", ".join(map(str, codes.values()))
    raise UserError.again(f"processes of the training ended with status {statuses}: see its log", "crash")


@contextlib.contextmanager
def _environment(processors: Sequence[torch.device]) -> Iterator[None]:
    """What the processes inherit: their devices and threads, and where their code is."""
    before = dict(os.environ)
    threads = max(1, torch.get_num_threads() // len(processors))
    paths = [str(IMPORTED_FROM), *filter(None, [before.get("PYTHONPATH")])]
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    os.environ |= {PARENT: str(os.getpid()), DEVICE: processors[0].type, "OMP_NUM_THREADS": str(threads)}
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if loopback:  # a name of this machine that its network does not know is no hindrance
        os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
    if processors[0].type == "cuda":
        offered = devices.names()
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(offered[device.index] for device in processors)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    """Takes back the handlers that torchrun sets."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread, where torchrun sets none
            for number, handler in before.items():
                signal.signal(number, handler)


def started() -> bool:
    """Whether `launch` has started this process.

    Raises:
        UserError: torchrun has, without it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and PARENT not in os.environ:
        raise UserError("torchrun is started by the stage itself: set execution.gpus_per_run instead")
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def member(folder: Path, stage: str, about: str, smaller: str) -> Iterator[ProcessGroup]:
    """Joins the other processes that `launch` has started.

    If the block raises, the process ends at once, and what failed is told in the folder.

    Args:
        folder: As given to `launch`.
        stage: The name of the stage.
        about: What is computed, as in `recording_failure`.
        smaller: What takes less memory, as there.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started it tells of it
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        with (
            recording_failure(folder / f"failure-{rank}.json", stage, about, smaller),
            _blaming_others(),
            contextlib.ExitStack() as stack,
        ):
            yield _join(rank, size, stack)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # to end in order would wait for the others, who wait for this one


def _join(rank: int, size: int, stack: contextlib.ExitStack) -> ProcessGroup:
    """Makes this process one of the group.

    Args:
        rank: Which of the processes it is.
        size: How many there are.
        stack: Holds the GPU and the connection, until it is closed.
    """
    if os.environ[DEVICE] == "cpu":
        device, backend = torch.device("cpu"), "gloo"
        devices.keep_memory()
        main_memory.limit()
    else:
        device, backend = devices.choose(f"cuda:{rank}"), "cpu:gloo,cuda:nccl"
        stack.enter_context(devices.held(rank))
        torch.cuda.set_device(device)
    torch_distributed.init_process_group(backend, timeout=PATIENCE)
    stack.callback(torch_distributed.destroy_process_group)
    return ProcessGroup(rank, size, device)


def _die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it, and holds its GPU's lease, is killed."""
    set_parent_death_signal = 1  # as in linux/prctl.h
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):
        os._exit(1)


@contextlib.contextmanager
def _blaming_others() -> Iterator[None]:
    """Tells a failure of the connection from this process's own."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch_distributed.DistError) or "gloo" in str(error):
            raise PeerLost("another process of the training has ended") from error
        raise
