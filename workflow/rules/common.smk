# What the rules share: the benchmark that the configuration describes, and how a stage is called.
import functools
import gc
import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from common.config import entries, reading, tuning_checks, values
from common.errors import WORKFLOW, UserError
from common.files import check_writable, digest, write_json
from common.installation import IMPORTED_FROM, MODULE
from common.runs import plan, recipes, searches, soundness
from common.runs.jobs import CONTROLS, TrainedRun
from common.runs.places import check_places
from workflow import fork_server, internals, progress

internals.check(workflow)
internals.take_files_as_complete()
internals.run_for_missing_files_alone()
internals.remember_parameters()
internals.remember_commands()
internals.files_are_plain(workflow)
if internals.is_main(workflow):
    gc.set_threshold(100_000, 1000)  # what a plan is made of lives as long as it does

ARGUMENTS = {*sys.argv}
try:
    if internals.is_main(workflow):
        internals.check_arguments(sys.argv[1:])
    CONFIG = reading.load(
        internals.configuration_files(workflow),
        over=reading.from_command_line(internals.single_settings(workflow)),
        base=(None if internals.replaces_configuration(workflow) else reading.BASE),
    )
    if internals.is_main(workflow):
        values.check_values_apart(CONFIG)
    BENCHMARK = plan.benchmark(CONFIG)
    if internals.is_main(workflow):
        check_places(BENCHMARK.datasets)
        if not {"-n", "--dry-run", "--dryrun"} & ARGUMENTS:
            check_writable(BENCHMARK.outputs.results)
    if "tune" in ARGUMENTS:
        tuning_checks.check_searches(CONFIG)
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

DOWNLOADING = any(target.startswith("data_") for target in ARGUMENTS)
ASIDE = DOWNLOADING or bool(
    {"tables", "report", "estimate", "kernels", "tune"} & ARGUMENTS
)
if DOWNLOADING or {"tables", "report"} & ARGUMENTS:
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
TRAININGS = {
    str(training.folder): training
    for run in BENCHMARK.runs
    if isinstance(run, TrainedRun)
    for training in run.trainings
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
SHELL = [ROOT / "workflow/stage.sh", sys.executable, CONFIG_FILE, IMPORTED_FROM, MODULE]
shell.prefix(
    f"source {shlex.join(map(str, SHELL))}; ".replace("{", "{{").replace("}", "}}")
)


wildcard_constraints:
    dataset="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed="[0-9]+",
    digest="[0-9a-f]+",
    round="[0-9]+",
    place="[0-9]+",


def growing(resource, times=1):
    """So many times what is set for a job; half as much more each time it is tried again."""
    return lambda wildcards, attempt: (1 + attempt) * times * RESOURCES[resource] // 2


def gpu_resources(gpus, alone=False):
    """What a job asks for that uses so many GPUs: of this machine, where it may share one, or of a cluster."""
    here = gpus if gpus == 1 and not alone else SHARES * gpus
    there = 0 if RESOURCES["gres"] else gpus
    others = RESOURCES["with_gpu" if gpus else "without_gpu"]
    if gpus and RESOURCES["gres"]:
        others = {"gres": f"{RESOURCES['gres']}:{gpus}", **others}
    if here != there:  # which of them it is turns out when the jobs are known
        return {
            "gpu": lambda wildcards: there if workflow.non_local_exec else here,
            **others,
        }
    return {"gpu": gpus, **others}


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
    again = isinstance(run, TrainedRun) and run.lost
    return run.metrics if again else ancient(run.metrics)


def scores_of(run):
    return [run.metrics, run.per_image, run.panel, run.labels]


def missing_of(run):
    """What is missing of the scores of a run, if not all: for what is made together the metrics stand."""
    if not os.path.exists(run.metrics):
        return []
    return [file for file in scores_of(run) if not os.path.exists(file)]


def scored_by(control):
    """The files of all controls of a dataset and model."""
    folder = control.folder.parent
    return [
        folder / name / file
        for name in CONTROLS
        for file in ("metrics.json", "per_image.npz")
    ]


def training_of(wildcards):
    """A training of a run, or of a model that a search refines."""
    folder = MODEL.format(**wildcards)
    if folder in TRAININGS:
        return TRAININGS[folder]
    runs = [search.run for search in searches_by_folder().values()]
    return {
        str(training.folder): training for run in runs for training in run.trainings
    }[folder]


def iterations_of(folder):
    """How long the training in a folder is, if it is one of these."""
    training = TRAININGS.get(str(folder))
    return training.settings.iterations if training else None


if internals.is_main(workflow):
    progress.show(RESULTS, iterations_of)


def tell_where():
    """Says where what there is to read is, whatever started this."""
    complete = not ASIDE or {"tables", "report"} & ARGUMENTS
    if complete and BENCHMARK.outputs.report.exists():
        leaderboard = BENCHMARK.outputs.results / "leaderboard.md"
        page = BENCHMARK.outputs.report.absolute()
        print(f"structseg: {leaderboard}, file://{page}", file=sys.stderr)


def run_of(wildcards):
    return RUNS[RUN.format(**wildcards)]


def started_with(wildcards):
    """What a training needs: the dataset, and the model that it starts from."""
    training = training_of(wildcards)
    start = [training.start.file] if training.start else []
    return needed([training.data.path, *start], [training.file])


def models_of(wildcards):
    """The trained models of a run; nothing if it reads predictions."""
    run = run_of(wildcards)
    if not isinstance(run, TrainedRun):
        return []
    return [ancient(member.file) for member in run.members]


def measured_with(wildcards):
    """What a cost comes from; the scores, too: a cluster can do both in one job that needs one GPU."""
    run = run_of(wildcards)
    made = (
        [] if run.lost else [run.cost]
    )  # a model that is trained again is another one
    models = [member.file for member in run.members]
    return needed([run.data.path, *models, run.metrics], made)


def control_of(wildcards):
    return CONTROLLED[CONTROL.format(**wildcards)]


@functools.cache
def searches_by_folder():
    """All searches, which are planned when they are asked for alone."""
    return {str(search.folder): search for search in searches.searches(CONFIG)}


def search_of(wildcards):
    return searches_by_folder()[TUNING.format(**wildcards)]


def all_scores(search):
    """What is scored in all rounds of a search."""
    return [
        search.scores(rung, place)
        for rung, (_, count) in enumerate(search.rungs)
        for place in range(count)
    ]


def tried_with(wildcards):
    """What a candidate of a round needs: which one it is follows from the round before."""
    search, rung = search_of(wildcards), int(wildcards.round)
    own = search.scores(rung, int(wildcards.place))
    before = [
        search.scores(rung - 1, place)
        for place in range(search.rungs[rung - 1].candidates)
    ]
    return needed([search.run.data.path, *(before if rung else [])], [own])


def searched_with(wildcards):
    """What the end of a search needs: the model that candidates refine, or what was scored of them."""
    search = search_of(wildcards)
    inputs = [search.run.data.path, *search.models, *all_scores(search)]
    return needed(inputs, search.outputs)


onstart:
    gc.freeze()
    gc.set_threshold(100_000, 10)
    try:
        write_json(CONFIG_FILE, CONFIG)
        if (not ASIDE or "tune" in ARGUMENTS) and internals.is_local(workflow):
            fork_server.start()
    except UserError as error:
        print(f"structseg: {error}", file=sys.stderr)
        sys.exit(2)


onsuccess:
    if (
        not ASIDE and not BENCHMARK.outputs.page_stamp.exists()
    ):  # results changed that were there when the plan was made
        shell("stage report {path:q}", path=RESULTS / "report.log")
    tell_where()


onerror:
    if not ASIDE:
        shell("stage report {path:q}", path=RESULTS / "report.log")
    tell_where()
