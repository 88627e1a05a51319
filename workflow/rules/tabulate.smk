rule tabulate:
    """Puts the results together once all runs are there."""
    input:
        metrics=[tabulated(run) for run in RUNS.values()],
        missing=[ancient(file) for run in RUNS.values() for file in missing_of(run)],
        manifests=[ancient(group.data.path) for group in BENCHMARK.groups],
        panels=[ancient(group.data.panel) for group in BENCHMARK.groups],
        cost=[ancient(cost) for cost in COSTS],
        controls=[
            ancient(file)
            for group in BENCHMARK.groups
            for control in group.controls
            for file in (control.metrics, control.per_image)
        ],
    output:
        TABLES,
    log:
        RESULTS / "tabulate.log",
    localrule: True
    threads: 1
    shell:
        "stage tabulate {log:q}"


rule publish:
    """Makes the report, after the tables are safe."""
    input:
        [ancient(file) for run in RUNS.values() for file in missing_of(run)],
        ancient(TABLES[:-1]),
        TABLES[-1],  # the stamp: when it is written anew, so is the page
    output:
        PAGE,
    log:
        RESULTS / "publish.log",
    localrule: True
    threads: 1
    shell:
        "stage report {log:q}"


# These have no inputs and no outputs, so that they can be asked for at any time.
rule report:
    """Writes the tables and the report of whatever runs there are."""
    log:
        RESULTS / "report.log",
    localrule: True
    shell:
        "stage report {log:q} && cat {log:q}"


rule tables:
    """Writes the tables of whatever runs there are."""
    log:
        RESULTS / "tables.log",
    localrule: True
    shell:
        "stage tabulate {log:q} && cat {log:q}"
