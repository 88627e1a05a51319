"""The benchmark of the kernels: what it compares computes the same, and what it writes can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from common.config import reading
from common.stages import kernels as stage
from common.stages.kernels import workloads
from common.timing import card, kernel_benchmark, kernels, published_algorithms, quiet, steps
from common.timing.cases import QUICK, Bench, Case, Family
from common.timing.journal import Journal
from methods.ddcrf import dual_decomposition_reference
from methods.rmi import RMILoss

CPU = torch.device("cpu")
METHODS = ("ce", "crf-1", "ddcrf", "rmi")


@pytest.mark.parametrize(("h", "w"), [(4, 7), (5, 1)])
def test_the_loop_over_steps_computes_the_same(h: int, w: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        [(2, 3, h, w)] + [(2, 3, 3, h, max(0, w - g)) for g in (1, 2)] + [(2, 3, 3, h - g, w) for g in (1, 2)]
    )
    unary, *scores = (torch.randn(x, generator=generator, dtype=torch.double) for x in shapes)
    actual = published_algorithms.per_step_loop(unary, scores[:2], scores[2:], iterations=3, gamma=1.5)
    expected = dual_decomposition_reference(unary, scores[:2], scores[2:], iterations=3, gamma=1.5).logits
    torch.testing.assert_close(actual, expected)


def test_the_direct_rmi_computes_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 33, 29, generator=generator, dtype=torch.double)
    labels = torch.randint(3, (2, 33, 29), generator=generator)
    labels[0, :4] = 255
    torch.testing.assert_close(published_algorithms.direct_rmi(logits, labels), RMILoss(3)(logits, labels))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def benchmark(
    folder: Path,
    families: dict[str, Family],
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device = CPU,
    baselines: bool = True,
) -> dict[str, pd.DataFrame]:
    """Runs it at small effort; returns its tables."""
    monkeypatch.setattr(kernel_benchmark, "copy_speed", lambda device: 1e9)
    watch = quiet.Watch(device, alone=True, waited=0)
    kernel_benchmark.run(folder, families, device, QUICK, baselines, watch)
    return {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}


def test_kernels_beside_what_they_replace(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families: dict[str, Family] = {
        "chain": partial(kernels.chain, sizes=[(2, 5, 9, 9)]),
        "rmi": partial(kernels.rmi, sizes=[(1, 3, 40, 40)]),
        "densecrf": partial(kernels.densecrf, sizes=[(2, 3, 60, 64)]),
    }
    tables = benchmark(tmp_path, families, monkeypatch, device)
    for family, baseline, best in (
        ("chain", "loop over steps", "kernels"),
        ("rmi", "direct", "ours"),
    ):
        table = tables[family].set_index("version")
        assert (table[["forward_ms", "backward_ms", "kept_bytes"]] > 0).all(axis=None)
        assert table.loc[baseline, "reference"] and table.loc[baseline, "passes_speed_up"] == 1
        assert table.loc[best, "kept_bytes"] < table.loc[baseline, "kept_bytes"]
    table = tables["densecrf"].set_index("version")
    assert table["image_speed_up"].iloc[-1] == 1 and table.index[-1].startswith("pydensecrf, single images")
    assert (table["image_ms"] > 0).all() and (table["agreement"] > 0.999).all()
    page = (tmp_path / "kernels.md").read_text()
    assert "## chain" in page and "| 2, 5, 9, 9 " in page and "*direct*" in page
    assert "a large copy: 1 GB/s" in page and "| session" not in page


def test_baselines_are_measured_if_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families: dict[str, Family] = {"rmi": partial(kernels.rmi, sizes=[(1, 3, 40, 40)])}
    assert [*benchmark(tmp_path, families, monkeypatch, baselines=False)["rmi"]["version"]] == ["ours"]


def test_methods_are_timed_without_data(
    device: torch.device, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (("camvid", "deeplabv3plus-test_resnet", {"decoder_channels": 8}, (2, 3, 33, 33)),)
    monkeypatch.setattr(stage, "WORKLOADS", {device.type: small})
    (made,) = workloads(reading.complete(tiny), device)
    chosen = [subject for subject in made.subjects if subject.entry.name in METHODS]
    made = dataclasses.replace(made, subjects=chosen)
    families: dict[str, Family] = {"step": partial(steps.step, [made]), "loss": partial(steps.loss, [made])}
    tables = benchmark(tmp_path, families, monkeypatch, device, baselines=False)
    table = tables["step"].set_index(["precision", "version"])
    assert [*table.loc["float32"].index] == [*METHODS]
    assert [*table.loc["bfloat16"].index] == [*METHODS[:1], *METHODS[2:]]
    assert (table["peak_bytes"].dropna() > 0).all()
    assert (table["step_ms"] > 0).sum() == len(table) - 1 and "note" not in table
    assert (table.loc["float32", "inference_ms"] > 0).all()
    assert table["step_over_ms"].notna().sum() == len(table) - 1
    assert table.loc[("float32", "ce"), "inference_over_ms"] == 0
    assert table.loc[("float32", "crf-1"), "refine_ms"] > table.loc[("float32", "ce"), "refine_ms"]
    assert [*tables["loss"]["version"]] == ["ce", "rmi"]


class Family5:
    """A pretended family of five cases, one of which may be interrupted."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.interrupted = ""

    def measure(self, name: str) -> dict[str, float]:
        if name == self.interrupted:
            raise KeyboardInterrupt
        self.measured.append(name)
        return {"image_ms": float(len(self.measured)), "peak_bytes": float("nan")}

    def __call__(self, bench: Bench) -> Iterator[Case]:
        for name in "abcde":
            place = {"N": 1, "K": 2, "H": 3, "W": 4}
            yield Case(place, name, partial(self.measure, name), reference=name == "a")


def test_an_interrupted_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family5()
    family.interrupted = "d"
    with pytest.raises(KeyboardInterrupt):
        benchmark(tmp_path, {"five": family}, monkeypatch)
    table = pd.read_csv(tmp_path / "five.csv")
    assert [*table["version"]] == [*"abc"] and [*table["image_over_ms"]] == [0, 1, 2]
    family.interrupted = ""
    assert [*benchmark(tmp_path, {"five": family}, monkeypatch)["five"]["version"]] == [*"abcde"]
    assert family.measured == [*"abcde"]
    other = Family5()
    benchmark(tmp_path, {"other": other}, monkeypatch)  # keeps what is there
    assert "## five" in (tmp_path / "kernels.md").read_text()
    benchmark(tmp_path, {"five": family}, monkeypatch)  # was finished: measured anew
    assert family.measured == [*"abcdeabcde"] and other.measured == [*"abcde"]


def test_other_code_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family5()
    family.interrupted = "c"
    with pytest.raises(KeyboardInterrupt):
        benchmark(tmp_path, {"five": family}, monkeypatch)
    family.interrupted = ""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    benchmark(tmp_path, {"five": family}, monkeypatch)
    assert family.measured == [*"ababcde"]


def test_a_damaged_journal_is_none(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("{")
    assert not Journal(tmp_path / "rows.json", {"device": "a"}).families


def test_a_case_that_is_too_large_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> dict:
        raise torch.OutOfMemoryError("no room")

    def family(bench: Bench) -> Iterator[Case]:
        yield Case({"N": 1, "K": 2, "H": 3, "W": 4}, "a", fails, reference=True)
        yield Case({"N": 1, "K": 2, "H": 3, "W": 4}, "b", lambda: {"image_ms": 1.0})

    table = benchmark(tmp_path, {"large": family}, monkeypatch)["large"]
    assert [*table["note"].fillna("")] == ["no room", ""]


def test_what_the_driver_says_of_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.1, 1980 MHz, 1980 MHz, 3201 MHz, 90.5 W, 700 W, 31, Disabled'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1"))
    said = card.facts(torch.device("cuda"))
    assert said.startswith("driver 580.1, clock 1980 MHz, of at most 1980 MHz") and said.endswith(
        "MIG Disabled"
    )
    program.unlink()
    assert card.facts(torch.device("cuda")) == "" == card.facts(CPU)
