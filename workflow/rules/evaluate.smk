# Scores one run.
rule evaluate:
    input:
        manifest=lambda wildcards: ancient(run_of(wildcards).manifest.path),
        model=model_of,
    output:
        metrics=f"{RUN}/metrics.json",
        per_image=f"{RUN}/per_image.npz",
        panel=f"{RUN}/panel.npz",
    log:
        f"{RUN}/evaluate.log",
    priority: 1
    threads: RESOURCES["cpus"]
    resources:
        gpu=RESOURCES["gpu"],
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "stage evaluate {log:q} "
        "--dataset {wildcards.dataset} --model {wildcards.model} --method {wildcards.method} "
        "--seed {wildcards.seed} --digest {wildcards.digest} --threads {threads} --gpus {resources.gpu}"
