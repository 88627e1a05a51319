# What the rules share: the checked configuration, the list of runs, and how a stage is called.
import shlex
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from common import config as configuration
from common import runs
from common.errors import UserError
from common.files import digest, write_json

try:
    CONFIG = configuration.complete(
        configuration.merge(
            config, configuration.typed(workflow.config_settings.config)
        )
    )
    if workflow.is_main_process:
        configuration.check_values(CONFIG)
    RUNS = {str(run.folder): run for run in runs.runs(CONFIG)}
except UserError as error:
    print(f"structseg: {error}", file=sys.stderr)
    sys.exit(2)

if "tables" in sys.argv and workflow.resource_settings.cores is None:
    # `snakemake tables` needs no more than one core, and so not to be told of it
    workflow.resource_settings.cores = workflow.global_resources["_cores"] = 1

RESULTS = Path(CONFIG["results"])
RESOURCES = CONFIG["resources"]
TRAININGS = {str(run.training.folder): run.training for run in RUNS.values()}

# Stages read the completed configuration from a file named after its content.
CONFIG_FILE = RESULTS / "configs" / f"{digest(CONFIG)}.json"

# How a stage is called. The digest in a path says what a result depends on; inputs are ancient(), and rules
# have no parameters, so that a missing file is the only reason to run a job. But Snakemake also
# reruns a rule whose shell command changed, so the commands are fixed texts: what differs between
# configurations and machines is filled in from PYTHON and CONFIG_FILE when a job starts.
PYTHON = f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)}"
CALL = "{PYTHON} -m common.{rule} --configfile {CONFIG_FILE:q}"
DATASET = " --dataset {wildcards.dataset} --digest {wildcards.digest}"
METHOD = (
    " --model {wildcards.model} --method {wildcards.method} --seed {wildcards.seed}"
)
LOGGED = " --threads {threads} > {log:q} 2>&1 || {{ tail -n 20 {log:q} >&2; exit 1; }}"

FOLDER = "{dataset}/{model}/{method}/seed{seed}-{digest}"
MODEL = f"{RESULTS}/models/{FOLDER}"
RUN = f"{RESULTS}/runs/{FOLDER}"
TABLES = runs.tables(CONFIG)


wildcard_constraints:
    dataset="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed="[0-9]+",
    digest="[0-9a-f]+",


def training_of(wildcards):
    return TRAININGS[MODEL.format(**wildcards)]


def run_of(wildcards):
    return RUNS[RUN.format(**wildcards)]


onstart:
    write_json(CONFIG_FILE, CONFIG)


onsuccess:
    if not runs.stamp(
        CONFIG
    ).exists():  # results changed that were there when the plan was made
        shell(
            "{PYTHON} -m common.tabulate --configfile {CONFIG_FILE:q} > /dev/null"
        )


onerror:
    shell("{PYTHON} -m common.tabulate --configfile {CONFIG_FILE:q} > /dev/null")
