# Says what the benchmark will take, before it starts; asked for by name: `snakemake estimate`.
rule estimate:
    input:
        [
            ancient(manifest)
            for manifest in {str(run.manifest.path): None for run in RUNS.values()}
        ],
    log:
        RESULTS / "estimate.log",
    threads: ALL_CORES
    resources:
        gpu=RESOURCES["gpu"],
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "shown estimate {log:q} --threads {threads} --gpus {resources.gpu}"
