rule train:
    """Trains one model; its checkpoints lie in state/, which is no output, so that they survive a failure."""
    input:
        started_with,
    output:
        model=f"{MODEL}/model.pt",
    log:
        f"{MODEL}/train.log",
    priority: 2
    threads: TRAINING_GPUS * RESOURCES["cpus"]
    resources:
        **gpu_resources(TRAINING_GPUS if RESOURCES["gpu"] else 0),
        nodes=1,
        mem_mb=growing("mem_mb", TRAINING_GPUS),
        runtime=RESOURCES["train_minutes"],
    params:
        gpus=TRAINING_GPUS if RESOURCES["gpu"] else 0,
        member=lambda wildcards: training_of(wildcards).member,
    shell:
        "stage train {log:q} "
        "--dataset {wildcards.dataset:q} --model {wildcards.model:q} --method {wildcards.method:q} "
        "--seed {wildcards.seed:q} --member {params.member:q} --digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"
