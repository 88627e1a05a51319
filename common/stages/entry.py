"""How a stage is entered: its arguments, the jobs that they name, and how it ends.

A stage is a module with the functions `add_arguments(parser)` and `run(arguments)`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from common import phases, provenance
from common.config import entries, reading, tuning, tuning_checks
from common.config.schema import unknown
from common.config.settings import Execution
from common.errors import WORKFLOW, UserError
from common.failures import explained
from common.files import digest
from common.machine import devices
from common.runs import plan, searches
from common.runs.benchmark import Benchmark
from common.runs.jobs import Control, Preparation, Run, TrainedRun, Training
from common.runs.places import check_places
from common.runs.records import JobTimes
from common.runs.searches import Search

Arguments = argparse.Namespace


OF_ALL = ("tabulate", "report")
"""Verbs of jobs that are about all runs: their digest is that of the configuration."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments as everything else is said."""

    def error(self, message: str) -> NoReturn:
        print(f"structseg: {message}; `{self.prog} --help` says more", file=sys.stderr)
        sys.exit(2)

    def check_options(self, arguments: Sequence[str]) -> None:
        """Ends if there is an unknown option, before others are told to be missing."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for name in (argument.partition("=")[0] for argument in arguments):
            if name == "--":
                return
            if name.startswith("--") and name not in options:
                self.error(unknown(self.prog.split()[-1], name, "option", options))


def enter(stage: ModuleType, verb: str, about: str, arguments: Sequence[str]) -> None:
    """Runs a stage; a mistake of the user's is one sentence and exit status 2, no traceback.

    Args:
        stage: Its module.
        verb: What it is called on the command line.
        about: What it does, in a line.
        arguments: Those of the command line behind the verb.
    """
    parser = _Parser(prog=f"structseg {verb}", description=f"{about}.", allow_abbrev=False)
    stage.add_arguments(parser)
    if parser.get_default("others") is None:
        parser.check_options(arguments)
    parsed, others = parser.parse_known_args(arguments)
    if "others" in parsed:
        parsed.others = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        if "digest" in parsed:  # a job, whose results tell of the code that they were made by
            provenance.note_code()
        if "configfile" in parsed:
            parsed.config = reading.load(parsed.configfile)
            devices.set_tf32(parsed.config["execution"]["tf32"])
        if "threads" in parsed:
            devices.set_threads(parsed.threads)
        devices.set_gpus(getattr(parsed, "gpus", None))
        if unused := devices.unused_gpus():
            print(f"structseg: {unused}", file=sys.stderr)
        with _counted(verb, parsed):
            stage.run(parsed)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        results = (getattr(parsed, "config", None) or {}).get("results")
        sentence = explained(error, f"`{parser.prog}`", folder=Path(results) if results else None)
        if not isinstance(sentence, UserError):
            raise
        print(f"structseg: {sentence}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def _counted(verb: str, arguments: Arguments) -> Iterator[None]:
    """Writes down where the time of a job goes, if this is one of a workflow's."""
    of_all = verb in OF_ALL and WORKFLOW in os.environ
    code = digest(arguments.config) if of_all else getattr(arguments, "digest", None)
    if code is None:
        yield
        return
    names = {name: getattr(arguments, name, None) for name in ("model", "method", "seed")}
    with phases.counted() as clock:
        try:
            yield
        finally:
            about = names | {"digest": code, "dataset": getattr(arguments, "dataset", "")}
            times = JobTimes.of(clock, verb, **about)
            with contextlib.suppress(OSError, UserError):  # what the job made counts, not how long it took
                times.write(results(arguments))


# Arguments


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Adds `--configfile`."""
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="YAML or JSON, laid over config.yaml, later ones over earlier ones; a complete configuration "
        "from results/configs/ stands alone",
    )


def add_selection(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds which dataset, model, method and seed a stage works on, and the digest that it is to have."""
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=int if name == "seed" else str)
    parser.add_argument("--digest", help="refuse to run if the code or settings have another one")


def add_threads(parser: argparse.ArgumentParser, dest: str = "threads") -> None:
    """Adds `--threads`, which `enter` sets.

    Args:
        parser: The verb's.
        dest: Another name is for verbs that set threads themselves, once they have looked at what they are
            given: setting them imports PyTorch.
    """
    parser.add_argument("--threads", type=int, dest=dest, help="CPU threads (default: all)")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Adds `--threads` and `--gpus`."""
    add_threads(parser)
    parser.add_argument("--gpus", type=int, help="GPUs of this job (default: what the stage can use)")


# What they name


def benchmark(arguments: Arguments) -> Benchmark:
    """All that the configuration asks for.

    Raises:
        UserError: A dataset is not the one that its results were made with.
    """
    planned = plan.benchmark(arguments.config)
    check_places(planned.datasets)
    return planned


def execution(arguments: Arguments) -> Execution:
    """How things are run."""
    return plan.execution(arguments.config)


def results(arguments: Arguments) -> Path:
    """The folder of all results."""
    return Path(arguments.config["results"])


def preparation(arguments: Arguments) -> Preparation:
    """The dataset that is selected.

    Raises:
        UserError: The configuration does not know it, or it has another digest.
    """
    plan.check_selection(arguments.config, dataset=arguments.dataset)
    job = plan.preparation(arguments.config, arguments.dataset)
    _check_digest(arguments, job.digest)
    return job


def runs_on(arguments: Arguments) -> list[TrainedRun]:
    """The runs of models that are trained on the selected dataset."""
    return plan.trained_runs(arguments.config, arguments.dataset)


def training(arguments: Arguments) -> Training:
    """The training of the selected method, or of the one that it is trained as; of a member, if one is named.

    Raises:
        UserError: The configuration does not know it, or it has another digest.
    """
    dataset, model, method, seed = _selection(arguments)
    trained = entries.trained_method(arguments.config, method, dataset).name
    job = plan.training(arguments.config, dataset, model, trained, seed, getattr(arguments, "member", 0))
    _check_digest(arguments, job.digest)
    return job


def run(arguments: Arguments) -> Run:
    """The run that is selected.

    Raises:
        UserError: The configuration does not know it, or it has another digest.
    """
    job = plan.run(arguments.config, *_selection(arguments))
    _check_digest(arguments, job.digest)
    return job


def trained_run(arguments: Arguments) -> TrainedRun:
    """The run that is selected, if it scores a trained model.

    Raises:
        UserError: It reads predictions, or as `run` does.
    """
    job = run(arguments)
    if not isinstance(job, TrainedRun):
        raise UserError(f"{job.method} is read from a folder: there is nothing to measure")
    return job


def control_sets(arguments: Arguments) -> list[list[Control]]:
    """The controls of the selected dataset and model that are scored together; those with a digest, if given.

    Raises:
        UserError: The configuration does not know them, or they have another digest.
    """
    plan.check_selection(arguments.config, dataset=arguments.dataset, model=arguments.model)
    sets = plan.control_sets(arguments.config, arguments.dataset, arguments.model)
    chosen = [jobs for jobs in sets if arguments.digest in (None, jobs[0].digest)]
    if not chosen:
        _check_digest(arguments, sets[0][0].digest)
    return chosen


def search(arguments: Arguments) -> Search:
    """The search for the selected dataset, model and entry.

    Raises:
        UserError: There is none to be made, the tables score what it is tried on, or it has another digest.
    """
    config, searched = arguments.config, tuning.searched(arguments.config)
    plan.check_selection(config, dataset=arguments.dataset, model=arguments.model)
    tuning_checks.check_searches(config)
    if arguments.method not in searched:
        raise UserError(
            f"--method: tuning.methods has nothing to try of {arguments.method!r}; choose from "
            f"{', '.join(searched)}"
        )
    job = searches.search(config, arguments.dataset, arguments.model, arguments.method)
    _check_digest(arguments, job.digest)
    return job


def _selection(arguments: Arguments) -> tuple[str, str, str, int]:
    selection = (arguments.dataset, arguments.model, arguments.method, arguments.seed)
    names = ("dataset", "model", "method", "seed")
    plan.check_selection(arguments.config, **dict(zip(names, selection)))
    return selection


def _check_digest(arguments: Arguments, actual: str) -> None:
    """Refuses to write elsewhere than the workflow expects.

    Raises:
        UserError: A method's code or the predictions that are read were changed since the workflow started.
    """
    if arguments.digest not in (None, actual):
        raise UserError(
            "what this job depends on, such as the code of the method, has changed since the workflow began: "
            "start it again"
        )
