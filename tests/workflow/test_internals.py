"""What the workflow uses of Snakemake's internals, and what it says where one is missing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api
from snakemake.settings.types import ConfigSettings

from tests.conftest import ROOT
from workflow import internals


def workflow(**changes: object) -> SimpleNamespace:
    """A stand-in for what Snakefiles know as `workflow`."""
    settings = SimpleNamespace(config={}, configfiles=[], config_args=[], replace_workflow_config=False)
    whole = {
        "config_settings": settings,
        "is_main_process": True,
        "remote_exec": False,
        "non_local_exec": False,
        "global_resources": {},
        "resource_settings": SimpleNamespace(cores=None),
        "dag_settings": SimpleNamespace(),
        "storage_settings": SimpleNamespace(default_storage_provider=None),
    }
    return SimpleNamespace(**(whole | changes))


def test_all_is_there() -> None:
    internals.check(workflow())


@pytest.mark.parametrize("path", internals.USED)
def test_what_is_missing_is_named(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = workflow()
    first, *parents, name = path.split(".")
    owner = {"snakemake": snakemake, "workflow": stand_in}[first]
    for parent in parents:
        owner = getattr(owner, parent)
    monkeypatch.delattr(owner, name)
    monkeypatch.setattr(snakemake, "__version__", "10.0.0")
    with pytest.raises(SystemExit) as ended:
        internals.check(stand_in)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"structseg: Snakemake 10.0.0 has no {path}, which the workflow needs: "
        f"install version {internals.TESTED}, with which it is tested\n"
    )


def test_one_version_is_required_and_tested() -> None:
    (required,) = re.findall(r"(?m)^snakemake==(.*)$", (ROOT / "requirements.txt").read_text())
    (least,) = re.findall(r'(?m)^min_version\("(.*)"\)$', (ROOT / "Snakefile").read_text())
    assert internals.TESTED == required == least == snakemake.__version__


def test_jobs_are_given_the_complete_configuration_alone(tmp_path: Path) -> None:
    """Snakemake makes the command of a job elsewhere of these settings."""
    file = tmp_path / "config.yaml"
    file.write_text("seeds: [1]")
    settings = ConfigSettings(config={"methods": ["ce"]}, configfiles=[file])
    assert settings.configfiles == [file] and settings.config_args
    internals.hand_down(workflow(config_settings=settings), Path("results/configs/x.json"))
    assert settings.configfiles == [Path.cwd() / "results/configs/x.json"]
    assert not settings.config_args


def test_cores_need_not_be_given_where_one_is_enough() -> None:
    stand_in = workflow()
    internals.need_no_cores(stand_in)
    assert stand_in.resource_settings.cores == stand_in.global_resources["_cores"] == 1
    stand_in.resource_settings.cores = 4
    internals.need_no_cores(stand_in)
    assert internals.cores_of_machine(stand_in) == 4
    assert internals.cores_of_machine(workflow(remote_exec=True)) is None


def test_a_command_is_put_together_once_for_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SimpleNamespace] = []
    monkeypatch.setattr(
        snakemake.jobs.Job, "shellcmd", property(lambda job: asked.append(job) or f"echo {job.attempt}")
    )
    internals.remember_commands()
    internals.remember_commands()  # as where a Snakefile is read twice
    command = snakemake.jobs.Job.shellcmd.fget
    one, other = SimpleNamespace(attempt=1), SimpleNamespace(attempt=1)
    assert [command(one), command(one), command(other)] == ["echo 1"] * 3 and asked == [one, other]
    other.attempt = 2
    assert command(other) == "echo 2" and len(asked) == 3


def test_files_in_storage_are_still_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    file = snakemake.io._IOFile
    monkeypatch.setattr(file, "is_storage", before := file.is_storage)
    monkeypatch.setattr(snakemake.dag.DAG, "check_directory_outputs", None)
    internals.files_are_plain(workflow(storage_settings=SimpleNamespace(default_storage_provider="s3")))
    assert file.is_storage is before
    internals.files_are_plain(workflow())
    assert file.is_storage is False
