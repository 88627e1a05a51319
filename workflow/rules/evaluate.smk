rule evaluate:
    """Scores one run."""
    input:
        manifest=lambda wildcards: manifest_of(
            run_of(wildcards), scores_of(run_of(wildcards))
        ),
        models=models_of,
    output:
        metrics=f"{RUN}/metrics.json",
        per_image=f"{RUN}/per_image.npz",
        panel=f"{RUN}/panel.npz",
        labels=f"{RUN}/labels.zip",
    log:
        f"{RUN}/evaluate.log",
    priority: 1
    threads: RESOURCES["cpus"]
    resources:
        **gpu_resources(RESOURCES["gpu"]),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    params:
        gpus=RESOURCES["gpu"],
    shell:
        "stage evaluate {log:q} "
        "--dataset {wildcards.dataset:q} --model {wildcards.model:q} --method {wildcards.method:q} "
        "--seed {wildcards.seed:q} --digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"
