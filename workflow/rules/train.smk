# Trains one model. Its checkpoints lie in state/, which is no output, so that they survive a failure.
rule train:
    input:
        manifest=lambda wildcards: ancient(training_of(wildcards).manifest.path),
    output:
        model=f"{MODEL}/model.pt",
    log:
        f"{MODEL}/train.log",
    priority: 2
    threads: TRAINING_GPUS * RESOURCES["cpus"]
    resources:
        gpu=TRAINING_GPUS if RESOURCES["gpu"] else 0,
        nodes=1,
        mem_mb=lambda wildcards, attempt: (1 + attempt)
        * TRAINING_GPUS
        * RESOURCES["mem_mb"]
        // 2,
        runtime=RESOURCES["train_minutes"],
    shell:
        "stage train {log:q} "
        "--dataset {wildcards.dataset} --model {wildcards.model} --method {wildcards.method} "
        "--seed {wildcards.seed} --digest {wildcards.digest} --threads {threads} --gpus {resources.gpu}"
