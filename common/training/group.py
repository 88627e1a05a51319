"""The processes that train one model together: what they tell each other.

Each puts its share of every batch through the network and the method's `structure` in
DistributedDataParallel. Then the scores of all shares are gathered, and every process computes the loss of
the whole batch. So the loss is exactly that of one process for every method, also where it is no mean over
images: cross-entropy divides by the valid pixels of the batch, Dice and Lovász look at all of its pixels
together.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import timm.layers
import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
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

    def total(self, counts: Tensor) -> Tensor:
        """The sum over all processes of counts, integers on the CPU; all of them wait for each other here."""
        if self.size > 1:
            counts = counts.clone()
            torch_distributed.all_reduce(counts)
        return counts

    def gather(self, share: Tensor) -> Tensor:
        """The shares `[n, …]` of all processes in their order, `[size·n, …]`, with derivatives."""
        if self.size == 1:
            return share
        if share.is_floating_point():
            return _Gather.apply(share, self)
        # As bytes: the libraries that send them do not know all types.
        return _Gather.apply(share.contiguous().view(torch.uint8), self).view(share.dtype)

    def prepare(self, module: nn.Module) -> None:
        """Has a module see the whole batch where its layers join images: in BatchNorm and dropout's masks.

        Args:
            module: Network and method, in training mode; its layers are replaced.

        Raises:
            UserError: There is BatchNorm to be synchronised on a CPU.
        """
        if self.size == 1:
            return
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
    """A context in which the gradients of a wrapped module add up without being averaged."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


class _Gather(torch.autograd.Function):
    """Joins the shares of a batch; the loss of the whole is derived by this process's own share alone.

    The parameters' gradients are averaged afterwards, and shall be the sum over the shares: hence the factor.
    """

    @staticmethod
    def forward(ctx: Any, share: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        share = share.contiguous()
        parts = [torch.empty_like(share) for _ in range(group.size)]
        torch_distributed.all_gather(parts, share)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.chunk(ctx.group.size)[ctx.group.rank] * ctx.group.size, None


class _SharedNoise(nn.Module):
    """Noise that multiplies, drawn for the whole batch, of which this process takes its share."""

    def __init__(self, noise: nn.Module, group: ProcessGroup) -> None:
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


def _share_noise(module: nn.Module, group: ProcessGroup) -> None:
    """Has all layers of dropout and stochastic depth in a module draw their noise for the whole batch."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.dropout._DropoutNd | timm.layers.DropPath):
            setattr(module, name, _SharedNoise(child, group))
        else:
            _share_noise(child, group)
