# Puts the results together once all runs are there.
rule tabulate:
    input:
        metrics=[ancient(run.metrics) for run in RUNS.values()],
        cost=[ancient(run.cost) for run in RUNS.values()],
    output:
        TABLES,
    log:
        RESULTS / "tabulate.log",
    localrule: True
    threads: 1
    shell:
        CALL + LOGGED


# The same from whatever runs there are, at any time: it has no inputs and no outputs.
rule tables:
    log:
        RESULTS / "tables.log",
    localrule: True
    shell:
        "{PYTHON} -m common.tabulate --configfile {CONFIG_FILE:q} | tee {log:q}"
