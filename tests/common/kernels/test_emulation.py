"""The emulated GPU shows what a real one may hide: missing barriers, and what no GPU promises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.common.kernels.emulation import Emulator

SOURCE = """
#include "async.h"
extern __shared__ double shared_memory[];
extern "C" __global__ void turned(int barrier, int n, const SCALAR* from, SCALAR* to) {
    SCALAR* values = reinterpret_cast<SCALAR*>(shared_memory);
    values[threadIdx.x] = from[blockIdx.x * n + threadIdx.x];
    if (barrier) __syncthreads();
    to[blockIdx.x * n + threadIdx.x] = values[n - 1 - threadIdx.x];
}
extern "C" __global__ void copied(int wait, const SCALAR* from, SCALAR* to) {
    SCALAR* values = reinterpret_cast<SCALAR*>(shared_memory);
    copy_async<sizeof(SCALAR)>(values + threadIdx.x, from + threadIdx.x);
    commit_copies();
    if (wait) wait_for_copies(0);
    to[threadIdx.x] = values[threadIdx.x];
}
extern "C" __global__ void summed(const SCALAR* from, SCALAR* to) {
    SCALAR sum = from[threadIdx.x];
    for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    const SCALAR before = __shfl_up_sync(0xffffffffu, sum, 1);
    if (threadIdx.x % 32 == 0) atomicAdd(to, sum);
    atomicMax(reinterpret_cast<long long*>(to + 1), (long long)(threadIdx.x));
    to[2 + threadIdx.x] = before + __any_sync(0xffffffffu, threadIdx.x == 40);
}
extern "C" __global__ void left_alone() {
    if (threadIdx.x == 0) __syncthreads();
}
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    folder = tmp_path_factory.mktemp("emulation")
    (folder / "example.cu").write_text(SOURCE)
    return Emulator(folder, "example", ["turned", "copied", "summed", "left_alone"], "double")


def run(emulator: Emulator, kernel: str, blocks: int, threads: int, shared: int, *arguments: object) -> None:
    cpu = torch.device("cpu")
    emulator.launch("example", kernel, "double", cpu, blocks, shared, arguments, threads)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_missing_barrier_shows_in_any_order(emulator: Emulator, order: int) -> None:
    emulator.order(order)
    values = torch.arange(120.0, dtype=torch.double)
    turned = values.view(2, 60).flip(1).flatten()
    for barrier in (0, 1):
        result = torch.zeros_like(values)
        run(emulator, "turned", 2, 60, 480, barrier, 60, values, result)
        assert torch.equal(result, turned) == bool(barrier)


def test_what_was_not_waited_for_has_not_arrived(emulator: Emulator) -> None:
    values = torch.arange(32.0, dtype=torch.double)
    for wait in (0, 1):
        result = torch.zeros_like(values)
        run(emulator, "copied", 1, 32, 256, wait, values, result)
        assert bool(result.isnan().all()) != bool(wait) and torch.equal(result, values) == bool(wait)


def test_warps_are_their_own(emulator: Emulator) -> None:
    values = torch.arange(64.0, dtype=torch.double)
    result = torch.zeros(66, dtype=torch.double)
    run(emulator, "summed", 1, 64, 0, values, result)
    halves: Sequence[float] = [float(part.sum()) for part in values.split(32)]
    assert result[0] == sum(halves) and result[1:2].view(torch.long) == 63
    assert result[2:].tolist() == [halves[0]] * 32 + [halves[1] + 1] * 32


def test_faults_are_said(emulator: Emulator) -> None:
    with pytest.raises(
        AssertionError, match="left_alone: block 0: thread 0 waits for ever for the others of its block"
    ):
        run(emulator, "left_alone", 1, 32, 0)
    values = torch.zeros(60, dtype=torch.double)
    with pytest.raises(AssertionError, match="turned: block 0 writes beyond its 472 bytes of shared memory"):
        run(emulator, "turned", 1, 60, 472, 1, 60, values, values.clone())
