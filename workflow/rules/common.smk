# What the rules share: the benchmark that the configuration describes, and how a stage is called.
import gc
import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from common.config import checks, entries, reading, values
from common.errors import WORKFLOW, UserError
from common.files import digest, write_json
from common.runs import plan, recipes, soundness
from common.runs.jobs import CONTROLS, TrainedRun
from common.runs.places import check_places
from workflow import fork_server, internals

internals.check(workflow)
internals.take_files_as_complete()
internals.run_for_missing_files_alone()
internals.remember_parameters()
if internals.is_main(workflow):
    gc.disable()  # what a plan is made of lives as long as it does; onstart ends this

ASKED = {*sys.argv}
try:
    if internals.is_main(workflow):
        internals.check_arguments(sys.argv[1:])
    CONFIG = reading.load(
        internals.configuration_files(workflow),
        over=reading.from_command_line(internals.single_settings(workflow)),
        base=(None if internals.replaces_configuration(workflow) else reading.BASE),
    )
    if internals.is_main(workflow):
        values.check_values_once(CONFIG)
    BENCHMARK = plan.benchmark(CONFIG)
    if internals.is_main(workflow):
        check_places(BENCHMARK.datasets)
    if "tune_crf" in ASKED:
        checks.check_tuning_splits(CONFIG)
except UserError as error:
    print(f"structseg: {error}", file=sys.stderr)
    sys.exit(2)

RESULTS = BENCHMARK.outputs.results
RESOURCES = CONFIG["resources"]
TABLES = BENCHMARK.outputs.tables
PAGE = [BENCHMARK.outputs.report, BENCHMARK.outputs.page_stamp]

# Stages read the complete configuration from a file named after its content, whatever becomes of the files that it
# was made from. So do jobs on other machines, which parse the Snakefile again.
CONFIG_FILE = RESULTS / "configs" / f"{digest(CONFIG)}.json"
if internals.is_main(workflow):
    internals.hand_down(workflow, CONFIG_FILE)

# Jobs inherit it, on a cluster too: a retry of theirs knows that it is one.
os.environ.setdefault(
    WORKFLOW, f"{os.uname().nodename}-{os.getpid()}-{time.time():.0f}"
)

DOWNLOADING = any(target.startswith("data_") for target in ASKED)
ASIDE = DOWNLOADING or bool(
    {"tables", "report", "estimate", "kernels", "tune_crf"} & ASKED
)
if DOWNLOADING or {"tables", "report"} & ASKED:
    internals.need_no_cores(workflow)
if internals.is_main(workflow) and not ASIDE:
    for sentence in soundness.lost_models(BENCHMARK.runs):
        print(f"structseg: {sentence}", file=sys.stderr)

# Jobs by their folders, which the wildcards of the rules name.
FOLDER = "{dataset}/{model}/{method}/seed{seed}-{digest}"
MODEL = f"{RESULTS}/models/{FOLDER}"
RUN = f"{RESULTS}/runs/{FOLDER}"
CONTROL = f"{RESULTS}/controls/{{dataset}}/{{model}}/{{digest}}"
TUNING = f"{RESULTS}/tuning/{{dataset}}/{{model}}/{{method}}-{{digest}}"
RUNS = {str(run.folder): run for run in BENCHMARK.runs}
TUNINGS = {str(tuning.folder): tuning for tuning in BENCHMARK.tunings}
TRAININGS = {
    str(run.training.folder): run.training
    for run in [*BENCHMARK.runs, *(tuning.run for tuning in BENCHMARK.tunings)]
    if isinstance(run, TrainedRun)
}
CONTROLLED = {
    str(control.folder.parent): control
    for group in BENCHMARK.groups
    for control in group.controls
}
COSTS = plan.costs(RUNS.values())

# What runs alone takes every core, but on a cluster only those that a job has.
ALL_CORES = internals.cores_of_machine(workflow) or RESOURCES["cpus"]

# A job that trains asks for everything once per GPU, from one node.
TRAINING_GPUS = BENCHMARK.execution.gpus_per_run

# Of jobs that share a GPU each takes one of its shares, which Snakemake counts; what is measured takes them all.
SHARES = 1 if workflow.remote_exec else BENCHMARK.execution.runs_per_gpu
internals.count_shares(workflow, "gpu", SHARES)

# The digest in a path says what a result depends on, and inputs are ancient(), so that a missing file is the only
# reason for a job.
SHELL = [str(ROOT / "workflow/stage.sh"), sys.executable, str(CONFIG_FILE)]
shell.prefix(f"source {shlex.join(SHELL)}; ".replace("{", "{{").replace("}", "}}"))


wildcard_constraints:
    dataset="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed="[0-9]+",
    digest="[0-9a-f]+",


def growing(resource, times=1):
    """So many times what is set for a job; half as much more each time it is tried again."""
    return lambda wildcards, attempt: (1 + attempt) * times * RESOURCES[resource] // 2


def shares_of(gpus):
    """What a job asks for that needs so many GPUs, of which it may share one."""
    return gpus if gpus == 1 else SHARES * gpus


def needed(inputs, outputs):
    """The inputs of a job; none if it has run, as one that is missing would be made and have it run again."""
    made = outputs and all(file.exists() for file in outputs)
    return (
        []
        if made and not internals.forces(workflow)
        else [ancient(file) for file in inputs]
    )


def manifest_of(job, outputs):
    return needed([job.data.path], outputs)


def tabulated(run):
    """The scores of a run; their time means nothing, unless its model is gone and trained again."""
    again = isinstance(run, TrainedRun) and run.training.lost
    return run.metrics if again else ancient(run.metrics)


def scores_of(run):
    return [run.metrics, run.per_image, run.panel, run.labels]


def scored_by(control):
    """The files of all controls of a dataset and model."""
    folder = control.folder.parent
    return [
        folder / name / file
        for name in CONTROLS
        for file in ("metrics.json", "per_image.npz")
    ]


def training_of(wildcards):
    return TRAININGS[MODEL.format(**wildcards)]


def run_of(wildcards):
    return RUNS[RUN.format(**wildcards)]


def model_of(wildcards):
    """The trained model of a run; nothing if it reads predictions."""
    run = run_of(wildcards)
    return ancient(run.training.file) if isinstance(run, TrainedRun) else []


def measured_with(wildcards):
    """What a cost comes from; the scores, too: a cluster can do both in one job that needs one GPU."""
    run = run_of(wildcards)
    made = (
        [] if run.training.lost else [run.cost]
    )  # a model that is trained again is another one
    return needed([run.data.path, run.training.file, run.metrics], made)


def control_of(wildcards):
    return CONTROLLED[CONTROL.format(**wildcards)]


def tuning_of(wildcards):
    return TUNINGS[TUNING.format(**wildcards)]


onstart:
    gc.freeze()
    gc.enable()
    try:
        write_json(CONFIG_FILE, CONFIG)
        if not ASIDE and internals.is_local(workflow):
            fork_server.start(ROOT)
    except UserError as error:
        print(f"structseg: {error}", file=sys.stderr)
        sys.exit(2)


onsuccess:
    if (
        not ASIDE and not BENCHMARK.outputs.page_stamp.exists()
    ):  # results changed that were there when the plan was made
        shell("stage report {path:q}", path=RESULTS / "report.log")


onerror:
    if not ASIDE:
        shell("stage report {path:q}", path=RESULTS / "report.log")
