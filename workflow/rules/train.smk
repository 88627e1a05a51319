rule train:
    """Trains one model; its checkpoints lie in state/, which is no output, so that they survive a failure."""
    input:
        manifest=lambda wildcards: manifest_of(
            training_of(wildcards), [training_of(wildcards).file]
        ),
    output:
        model=f"{MODEL}/model.pt",
    log:
        f"{MODEL}/train.log",
    priority: 2
    threads: TRAINING_GPUS * RESOURCES["cpus"]
    resources:
        gpu=shares_of(TRAINING_GPUS if RESOURCES["gpu"] else 0),
        nodes=1,
        mem_mb=growing("mem_mb", TRAINING_GPUS),
        runtime=RESOURCES["train_minutes"],
    params:
        gpus=TRAINING_GPUS if RESOURCES["gpu"] else 0,
    shell:
        "stage train {log:q} "
        "--dataset {wildcards.dataset:q} --model {wildcards.model:q} --method {wildcards.method:q} "
        "--seed {wildcards.seed:q} --digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"
