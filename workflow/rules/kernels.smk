# Times the kernels side by side with what they replace; asked for by name: `snakemake kernels`.
rule kernels:
    output:
        page=RESULTS / "kernels/kernels.md",
        chain=RESULTS / "kernels/chain.csv",
    log:
        RESULTS / "kernels/kernels.log",
    threads: workflow.cores or RESOURCES["cpus"]
    resources:
        gpu=RESOURCES["gpu"],
        mem_mb=RESOURCES["mem_mb"],
        runtime=RESOURCES["other_minutes"],
    shell:
        "{PYTHON} -m common.benchmark --configfile {CONFIG_FILE:q}" + LOGGED
