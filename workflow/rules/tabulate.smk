# Puts the results together once all runs are there.
rule tabulate:
    input:
        metrics=[ancient(run.metrics) for run in RUNS.values()],
        cost=[ancient(cost) for cost in COSTS],
        controls=[
            ancient(control.metrics)
            for dataset in CONFIG["datasets"]
            for model in CONFIG["models"]
            for control in runs.controls(CONFIG, dataset, model)
        ],
    output:
        TABLES,
    log:
        RESULTS / "tabulate.log",
    localrule: True
    threads: 1
    shell:
        "stage tabulate {log:q}"


# The page is made after the tables are safe.
rule publish:
    input:
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


# The same from whatever runs there are, at any time: these have no inputs and no outputs.
rule report:
    log:
        RESULTS / "report.log",
    localrule: True
    shell:
        "stage report {log:q} && cat {log:q}"


rule tables:
    log:
        RESULTS / "tables.log",
    localrule: True
    shell:
        "stage tabulate {log:q} && cat {log:q}"
