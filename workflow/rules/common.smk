# What the rules share: the checked configuration, the list of runs, and how a stage is called.
import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from snakemake.dag import DAG

from common import config as configuration
from common import runs
from common.errors import WORKFLOW, UserError
from common.files import digest, write_json

try:
    CONFIG = configuration.complete(
        configuration.merge(
            config, configuration.typed(workflow.config_settings.config)
        )
    )
    # Stages read the completed configuration from a file named after its content.
    CONFIG_FILE = Path(CONFIG["results"]) / "configs" / f"{digest(CONFIG)}.json"
    if (
        workflow.is_main_process and not CONFIG_FILE.exists()
    ):  # it has not been run before
        configuration.check_values(CONFIG)
    RUNS = {str(run.folder): run for run in runs.runs(CONFIG)}
    TUNINGS = {str(tuning.folder): tuning for tuning in runs.tunings(CONFIG)}
    if "tune_crf" in sys.argv:
        configuration.check_tuning_splits(CONFIG)
except UserError as error:
    print(f"structseg: {error}", file=sys.stderr)
    sys.exit(2)

ASKED = {*sys.argv}
DOWNLOADING = any(argument.startswith("data_") for argument in ASKED)
ASIDE = DOWNLOADING or bool(
    {"tables", "report", "estimate", "kernels", "tune_crf"} & ASKED
)
if (
    DOWNLOADING or {"tables", "report"} & ASKED
) and workflow.resource_settings.cores is None:
    # they need no more than one core, and so not to be told of it
    workflow.resource_settings.cores = workflow.global_resources["_cores"] = 1

# Jobs inherit it, on a cluster too: a retry of theirs knows that it is one.
os.environ.setdefault(
    WORKFLOW, f"{os.uname().nodename}-{os.getpid()}-{time.time():.0f}"
)

RESULTS = Path(CONFIG["results"])
RESOURCES = CONFIG["resources"]
TRAININGS = {
    str(run.training.folder): run.training
    for run in [*RUNS.values(), *(tuning.run for tuning in TUNINGS.values())]
    if run.training
}
COSTS = [run.cost for run in RUNS.values() if run.training]

# What runs alone takes every core, but on a cluster only those that a job has.
ALL_CORES = RESOURCES["cpus"]
if not workflow.remote_exec:
    ALL_CORES = workflow.resource_settings.cores or ALL_CORES

# `stage NAME LOG ARGUMENTS…` calls a stage and shows the end of its log if it fails; `shown` shows its output
# as it comes. The digest in a path
# says what a result depends on, and inputs are ancient(), so that a missing file is the only reason for
# a job. But Snakemake also runs jobs again whose shell command reads otherwise than before. So what differs
# between configurations and machines stands in this prefix, and the commands are fixed texts.
# A shell that catches SIGTERM waits for the stage, which saves its state and ends by itself.
shell.prefix(
    f"trap : TERM; call() {{{{ local name=$1; shift; "
    f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m common.$name "
    f'--configfile {shlex.quote(str(CONFIG_FILE))} "$@"; }}}}; '
    f"stage() {{{{ local name=$1 log=$2; shift 2; "
    f'call "$name" "$@" > "$log" 2>&1 || {{{{ tail -n 20 "$log" >&2; return 1; }}}}; }}}}; '
    f'shown() {{{{ local name=$1 log=$2; shift 2; (set -o pipefail; call "$name" "$@" | tee "$log"); }}}}; '
)

FOLDER = "{dataset}/{model}/{method}/seed{seed}-{digest}"
MODEL = f"{RESULTS}/models/{FOLDER}"
RUN = f"{RESULTS}/runs/{FOLDER}"
TUNING = f"{RESULTS}/tuning/{{dataset}}/{{model}}/{{method}}-{{digest}}"
TABLES = runs.tables(CONFIG, [*RUNS.values()])
PAGE = [runs.report(CONFIG), runs.page_stamp(CONFIG, [*RUNS.values()])]


wildcard_constraints:
    dataset="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed="[0-9]+",
    digest="[0-9a-f]+",


def growing(resource):
    """What a job asks for; half as much more each time it is tried again."""
    return lambda wildcards, attempt: (1 + attempt) * RESOURCES[resource] // 2


# Every file is written under another name and renamed, so that what is there is whole. But what was written by a job
# that Snakemake did not see the end of, as after a kill, it takes for incomplete; made to run that job again
# (--rerun-incomplete) it forgets all jobs after it, because their inputs, which are there, are `ancient`.
async def nothing_is_incomplete(dag):
    pass


DAG.check_incomplete = nothing_is_incomplete


# A job that trains asks for everything once per GPU, from one node.
TRAINING_GPUS = CONFIG["execution"]["gpus_per_run"]


def training_of(wildcards):
    return TRAININGS[MODEL.format(**wildcards)]


def run_of(wildcards):
    return RUNS[RUN.format(**wildcards)]


def model_of(wildcards):
    """The trained model of a run; nothing if it reads predictions."""
    training = run_of(wildcards).training
    return ancient(training.file) if training else []


def tuning_of(wildcards):
    return TUNINGS[TUNING.format(**wildcards)]


onstart:
    write_json(CONFIG_FILE, CONFIG)


onsuccess:
    if (
        not ASIDE and not runs.page_stamp(CONFIG).exists()
    ):  # results changed that were there when the plan was made
        shell(f"stage report {RESULTS}/report.log")


onerror:
    shell(f"stage report {RESULTS}/report.log")
