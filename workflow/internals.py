"""All that the workflow uses of Snakemake without it being documented, which another version may lack."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import snakemake.api  # to be imported before the others, which import each other in circles
from snakemake.settings.enums import RerunTrigger

from common.errors import UserError
from common.machine.lock_files import scheduler_job

TESTED = "9.27.1"
"""The version of Snakemake that all of this is tested with, as in requirements.txt and in the Snakefile."""

USED = (
    "workflow.config_settings.configfiles",
    "workflow.config_settings.config_args",
    "workflow.config_settings.replace_workflow_config",
    "workflow.is_main_process",
    "workflow.remote_exec",
    "workflow.non_local_exec",
    "workflow.global_resources",
    "workflow.resource_settings.cores",
    "workflow.dag_settings",
    "snakemake.settings.types.DAGSettings.forceall",
    "snakemake.settings.types.DAGSettings.forcetargets",
    "snakemake.workflow.Workflow.rerun_triggers",
    "workflow.storage_settings",
    "snakemake.common.get_function_params",
    "snakemake.rules.get_function_params",
    "snakemake.jobs.Job.shellcmd",
    "snakemake.io._IOFile.is_storage",
    "snakemake.dag.DAG.check_directory_outputs",
    "snakemake.dag.DAG.check_incomplete",
)
"""What the functions below read or set."""


def check(workflow: Any) -> None:
    """Ends with one sentence and status 2 if this Snakemake lacks anything that is used.

    Args:
        workflow: What a Snakefile knows by this name.
    """
    for path in USED:
        first, *names = path.split(".")
        owner = {"workflow": workflow, "snakemake": snakemake}[first]
        for name in names:
            if not hasattr(owner, name):
                print(
                    f"structseg: Snakemake {snakemake.__version__} has no {path}, which the workflow needs: "
                    f"install version {TESTED}, with which it is tested",
                    file=sys.stderr,
                )
                sys.exit(2)
            owner = getattr(owner, name)


def is_main(workflow: Any) -> bool:
    """Whether this is the process that a user has started, not one that runs a job for it."""
    return workflow.is_main_process


def configuration_files(workflow: Any) -> list[Path]:
    """The files of `--configfile`."""
    return [Path(file) for file in workflow.config_settings.configfiles]


def single_settings(workflow: Any) -> Sequence[str]:
    """The settings of `--config`, as they were given: what Snakemake makes of them has no quotes any more."""
    return list(workflow.config_settings.config_args)


def check_arguments(arguments: Sequence[str]) -> None:
    """Checks that no option is given twice of which Snakemake would take the last, and say nothing.

    Args:
        arguments: Those of the command line.

    Raises:
        UserError: One is.
    """
    for names in (("--config", "-C"), ("--configfile", "--configfiles")):
        count = sum(argument.partition("=")[0] in names for argument in arguments)
        if count > 1:
            raise UserError(
                f"{names[0]} is given {count} times, and Snakemake takes the last alone: give it once, with "
                "all values behind it"
            )


def replaces_configuration(workflow: Any) -> bool:
    """Whether `--replace-workflow-config` says that `config.yaml` is to be left out."""
    return workflow.config_settings.replace_workflow_config


def hand_down(workflow: Any, file: Path) -> None:
    """Has processes that run jobs read this configuration instead of what the command line names.

    They parse the Snakefile again, on a cluster perhaps hours later, when other files may have been edited.

    Args:
        workflow: What a Snakefile knows by this name.
        file: A complete configuration, which is written before the first job starts.
    """
    workflow.config_settings.configfiles = [file.absolute()]
    workflow.config_settings.config_args = []


def cores_of_machine(workflow: Any) -> int | None:
    """How many cores the workflow may use on this machine; None if jobs run on others."""
    return None if workflow.remote_exec else workflow.resource_settings.cores


def is_local(workflow: Any) -> bool:
    """Whether jobs run on this machine, and this is none of a scheduler's jobs itself."""
    return not workflow.remote_exec and scheduler_job() is None


def count_shares(workflow: Any, resource: str, shares: int) -> None:
    """Has Snakemake count shares of a resource instead of the whole, if it was given any.

    Args:
        workflow: What a Snakefile knows by this name.
        resource: Its name, as after `--resources`.
        shares: How many one has.
    """
    limit = workflow.global_resources.get(resource).value if shares > 1 else None
    if limit is not None:
        workflow.global_resources[resource] = shares * limit


def need_no_cores(workflow: Any) -> None:
    """Lets `--cores` be left out: there is one."""
    if workflow.resource_settings.cores is None:
        workflow.resource_settings.cores = workflow.global_resources["_cores"] = 1


def run_for_missing_files_alone() -> None:
    """Has Snakemake compare no job with what it noted of it when it ran: not its code, nor its set of inputs.

    What a result depends on stands in its path. And a job that has run needs no inputs any more.
    """
    triggers = frozenset({RerunTrigger.MTIME})
    snakemake.workflow.Workflow.rerun_triggers = property(lambda self: triggers)


def remember_parameters() -> None:
    """Has Snakemake look at the parameters of every function once, not for every job."""
    look = snakemake.common.get_function_params
    if not hasattr(look, "cache_info"):
        remembered = functools.cache(look)
        snakemake.common.get_function_params = snakemake.rules.get_function_params = remembered


def remember_commands() -> None:
    """Has Snakemake put the command of a job together once when it tells of the job, not three times."""
    command = snakemake.jobs.Job.shellcmd.fget
    if not hasattr(command, "__wrapped__"):
        snakemake.jobs.Job.shellcmd = property(_of_last(command))


def _of_last(command: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """The same function of jobs, which remembers what it said of the last one in this attempt."""
    last: tuple[Any, int, str | None] = (None, 0, None)

    @functools.wraps(command)
    def remembered(job: Any) -> str | None:
        nonlocal last
        if last[0] is not job or last[1] != job.attempt:
            last = job, job.attempt, command(job)
        return last[2]

    return remembered


def files_are_plain(workflow: Any) -> None:
    """Spares Snakemake what it asks of every file again and again: no output is a folder, none is in storage.

    Args:
        workflow: What a Snakefile knows by this name.
    """
    snakemake.dag.DAG.check_directory_outputs = lambda self: None
    if workflow.storage_settings.default_storage_provider is None:
        snakemake.io._IOFile.is_storage = False


def forces(workflow: Any) -> bool:
    """Whether jobs are to run although their files are there (`--forceall`, `--force`, `--forcerun`).

    It is known only when the Snakefile has been read.

    Args:
        workflow: What a Snakefile knows by this name.
    """
    settings = workflow.dag_settings
    return bool(settings.forceall or settings.forcetargets or settings.forcerun)


def take_files_as_complete() -> None:
    """Has Snakemake believe in all files that are there.

    Every file is written under another name and renamed, so that what is there is whole. But what was written
    by a job that Snakemake did not see the end of, as after a kill, it takes for incomplete; made to run that
    job again (--rerun-incomplete) it forgets all jobs after it, because their inputs, which are there, are
    `ancient`.
    """

    async def check_incomplete(self: Any) -> None:
        pass

    snakemake.dag.DAG.check_incomplete = check_incomplete
