# Structseg: which way of making a segmentation network's output structured is worth its cost?
# The README says how to run it; every stage is a verb of `python -m common`, every method a file of methods/.
# The configuration is config.yaml with what --configfile and --config lay over it; rules/common.smk reads it.
from snakemake.utils import min_version

min_version("9.27.1")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/controls.smk"
include: "workflow/rules/tabulate.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/estimate.smk"
include: "workflow/rules/kernels.smk"


rule all:
    """Trains, scores and measures all runs of the configuration, and writes tables and report."""
    default_target: True
    input:
        TABLES,
        PAGE,
        [file for data in BENCHMARK.datasets for file in (data.path, data.panel)],
        [
            member.file
            for run in RUNS.values()
            if isinstance(run, TrainedRun)
            for member in run.members
        ],
        [file for run in RUNS.values() for file in (run.metrics, *missing_of(run))],
        [file for control in CONTROLLED.values() for file in scored_by(control)],
        COSTS,
    localrule: True
