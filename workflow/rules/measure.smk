rule measure:
    """Measures what one run costs; it takes all cores of the machine, so that nothing runs beside it."""
    input:
        measured_with,
    output:
        cost=f"{RUN}/cost-{recipes.MEASURING.number}.json",
    log:
        f"{RUN}/measure.log",
    threads: ALL_CORES
    resources:
        **gpu_resources(RESOURCES["gpu"], alone=True),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    params:
        gpus=RESOURCES["gpu"],
    shell:
        "stage measure {log:q} "
        "--dataset {wildcards.dataset:q} --model {wildcards.model:q} --method {wildcards.method:q} "
        "--seed {wildcards.seed:q} --digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"
