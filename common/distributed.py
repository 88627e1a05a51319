"""Training by several processes, one per GPU of this machine.

The train stage starts them through torchrun. Each puts its share of every batch through the network and
the method's `structure` in DistributedDataParallel. Then the scores of all shares are gathered, and every
process computes the loss of the whole batch. So the loss is exactly that of one process for every method,
also where it is no mean over images: cross-entropy divides by the valid pixels of the batch, Dice and
Lovász look at all of its pixels together.
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
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import timm.layers
import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from common import devices, stages
from common.errors import UserError
from common.files import read_json

PATIENCE = timedelta(hours=1)
"""How long a process waits for another, which may read from a slow disk; that one died is seen at once."""

ROOT = Path(__file__).resolve().parent.parent
PARENT = "STRUCTSEG_PARENT"
"""The environment variable with the process that started this one."""
DEVICE = "STRUCTSEG_DEVICE"
"""The environment variable with the kind of device that the processes use."""


class PeerLost(UserError):
    """Another process of the training has ended; why is its own story."""

    kind = "peer"


@dataclass(frozen=True)
class Group:
    """The processes that train one model together, as one of them sees it.

    Attributes:
        rank: Which of them this is; 0 writes all files.
        size: How many there are.
        device: The device of this one.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set; all of them wait for each other here."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        torch_distributed.all_reduce(flags, torch_distributed.ReduceOp.MAX)
        return bool(flags)

    def gather(self, own: Tensor) -> Tensor:
        """The shares `[n, …]` of all processes in their order, `[size·n, …]`, with derivatives."""
        return own if self.size == 1 else _Gather.apply(own, self)

    def prepare(self, *modules: nn.Module) -> None:
        """Has modules see the whole batch where their layers join its images: BatchNorm, and dropout's masks.

        Raises:
            UserError: There is BatchNorm to be synchronised on a CPU.
        """
        if self.size == 1:
            return
        for module in modules:
            if self.device.type == "cuda":
                timm.layers.convert_sync_batchnorm(module)
            elif any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in module.modules()):
                raise UserError(
                    "BatchNorm can be synchronised between GPUs only: set freeze_batchnorm: true in "
                    "model_options, or execution.gpus_per_run: 1"
                )
            _share_noise(module, self)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over the processes.

        Which parameters take part in the loss is looked for in every step: it is the method's affair, may
        change in the course of training, and costs little beside a network.
        """
        if self.size == 1:
            return module
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)


def unsynchronised(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """In it the gradients of a wrapped module add up without being averaged."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


class _Gather(torch.autograd.Function):
    """Each process has the same loss of the whole batch; it is derived by its own share alone.

    The parameters' gradients are averaged afterwards, and shall be the sum over the shares: hence the factor.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group) -> Tensor:
        ctx.group = group
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(group.size)]
        torch_distributed.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.chunk(ctx.group.size)[ctx.group.rank] * ctx.group.size, None


class _SharedNoise(nn.Module):
    """Noise that multiplies, drawn for the whole batch, of which this process takes its share."""

    def __init__(self, noise: nn.Module, group: Group) -> None:
        super().__init__()
        self.noise, self.group = noise, group

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (self.group.size * len(x), *x.shape[1:])
        ones = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout).fill_(1)
        return x * self.noise(ones).chunk(self.group.size)[self.group.rank]


def _share_noise(module: nn.Module, group: Group) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.dropout._DropoutNd | timm.layers.DropPath):
            setattr(module, name, _SharedNoise(child, group))
        else:
            _share_noise(child, group)


# Starting them


def launch(arguments: Sequence[str], found: Sequence[torch.device], folder: Path) -> None:
    """Runs `python ARGUMENTS` once for every device through torchrun, and returns when all have ended well.

    SIGTERM is passed on, and if they have saved their state and ended, so does this process, with status 143.

    Args:
        arguments: They call a stage that enters `member`.
        found: The devices, of one kind.
        folder: Where the processes leave why they failed.

    Raises:
        UserError: One has failed; the sentence is its own.
    """
    for old in folder.glob("failure-*.json"):
        old.unlink()
    for name in ("agent.server.api", "multiprocessing.api"):  # what failed is told below, once
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    with _signals_restored(), _environment(found), tempfile.TemporaryDirectory() as logs:
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(found),
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
    folder: Path, failures: Mapping[int, ProcessFailure], received: signal.Signals | None = None
) -> None:
    """Ends this process as the one that ended first did; the others only missed it."""
    told = sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns)
    for failure in map(read_json, told):
        if failure["kind"] != PeerLost.kind:
            raise UserError.again(failure["error"], failure["kind"])
    if received:
        sys.exit(128 + received)
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
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
def _environment(found: Sequence[torch.device]) -> Iterator[None]:
    """What the processes inherit: their devices and threads, and where their code is."""
    before = dict(os.environ)
    threads = max(1, torch.get_num_threads() // len(found))
    paths = [str(ROOT), *filter(None, [before.get("PYTHONPATH")])]
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    os.environ |= {PARENT: str(os.getpid()), DEVICE: found[0].type, "OMP_NUM_THREADS": str(threads)}
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if loopback:  # a name of this machine that its network does not know is no hindrance
        os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
    if found[0].type == "cuda":
        offered = devices.names()
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(offered[device.index] for device in found)
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


# Being one of them


def started() -> bool:
    """Whether `launch` has started this process.

    Raises:
        UserError: torchrun has, without it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and PARENT not in os.environ:
        raise UserError("torchrun is started by the stage itself: set execution.gpus_per_run instead")
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def member(folder: Path, stage: str, about: str, remedy: str) -> Iterator[Group]:
    """Joins the other processes that `launch` has started.

    If the block raises, the process ends at once, and what failed lies in the folder.

    Args:
        folder: As given to `launch`.
        stage: The name of the stage.
        about: As in `stages.recording_failure`.
        remedy: Likewise.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started it tells of it
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        with (
            stages.recording_failure(folder / f"failure-{rank}.json", stage, about, remedy),
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


def _join(rank: int, size: int, stack: contextlib.ExitStack) -> Group:
    if os.environ[DEVICE] == "cpu":
        device, backend = torch.device("cpu"), "gloo"
        devices.keep_memory()
    else:
        device, backend = torch.device("cuda", rank), "cpu:gloo,cuda:nccl"
        stack.enter_context(devices.held(rank))
        torch.cuda.set_device(device)
    torch_distributed.init_process_group(backend, timeout=PATIENCE)
    stack.callback(torch_distributed.destroy_process_group)
    return Group(rank, size, device)


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
