rule estimate:
    """Says what the benchmark will take, before it starts."""
    input:
        [
            ancient(manifest)
            for manifest in {str(run.data.path): None for run in RUNS.values()}
        ],
    log:
        RESULTS / "estimate.log",
    threads: ALL_CORES
    resources:
        **gpu_resources(RESOURCES["gpu"], alone=True),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    params:
        gpus=RESOURCES["gpu"],
    shell:
        "shown estimate {log:q} --threads {threads:q} --gpus {params.gpus:q}"
