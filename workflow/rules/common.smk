# What the rules share: the checked configuration, the list of runs, and how a stage is called.
import shlex
import sys
from pathlib import Path

from snakemake.settings.enums import RerunTrigger

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from common import config as configuration
from common import runs
from common.errors import UserError
from common.files import digest, write_json

try:
    CONFIG = configuration.complete(config)
    if workflow.is_main_process:
        configuration.check_values(CONFIG)
except UserError as error:
    print(f"structseg: {error}", file=sys.stderr)
    sys.exit(2)

# The digest in a path says what the file depends on, so that a missing file is the only reason to run a
# job: a new version of a rule or of Python must not retrain anything. Stages rename whole files into
# place, so a file that is there is complete.
if workflow.dag_settings:  # there are none for --lint
    workflow.dag_settings.rerun_triggers = {RerunTrigger.MTIME}
    workflow.dag_settings.force_incomplete = True

RESULTS = Path(CONFIG["results"])
RESOURCES = CONFIG["resources"]
RUNS = {str(run.folder): run for run in runs.runs(CONFIG)}
TRAININGS = {str(run.training.folder): run.training for run in RUNS.values()}

# Stages read the completed configuration from a file named after its content.
CONFIG_FILE = RESULTS / "configs" / f"{digest(CONFIG)}.json"

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


def command(stage, *selection):
    """The command line of a stage."""
    selected = [f"--{name} {{wildcards.{name}}}" for name in selection]
    python, path = shlex.quote(sys.executable), shlex.quote(str(ROOT))
    settings = shlex.quote(str(CONFIG_FILE))
    parts = [
        f"PYTHONPATH={path} {python} -m common.{stage} --configfile {settings}",
        *selected,
    ]
    return " ".join(parts)


def logged(stage, *selection):
    """The same for a job: with its threads and log, whose end is shown when the stage fails."""
    ending = "--threads {threads} > {log} 2>&1 || {{ tail -n 20 {log} >&2; exit 1; }}"
    return f"{command(stage, *selection)} {ending}"


ONE_RUN = ("dataset", "model", "method", "seed", "digest")


def training_of(wildcards):
    return TRAININGS[MODEL.format(**wildcards)]


def run_of(wildcards):
    return RUNS[RUN.format(**wildcards)]


onstart:
    write_json(CONFIG_FILE, CONFIG)


onerror:
    shell(f"{command('tabulate')} > /dev/null")
