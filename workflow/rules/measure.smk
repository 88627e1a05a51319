# Measures what one run costs. It takes all cores of the machine, so that nothing runs beside it.
rule measure:
    input:
        manifest=lambda wildcards: ancient(run_of(wildcards).manifest.path),
        model=model_of,
        # after the scores: a cluster can do both in one job that needs one GPU
        metrics=ancient(f"{RUN}/metrics.json"),
    output:
        cost=f"{RUN}/cost.json",
    log:
        f"{RUN}/measure.log",
    threads: ALL_CORES
    resources:
        gpu=RESOURCES["gpu"],
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "stage measure {log:q} "
        "--dataset {wildcards.dataset} --model {wildcards.model} --method {wildcards.method} "
        "--seed {wildcards.seed} --digest {wildcards.digest} --threads {threads} --gpus {resources.gpu}"
