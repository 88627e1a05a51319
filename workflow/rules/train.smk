# Trains one model. Its checkpoints lie in state/, which is no output, so that they survive a failure.
rule train:
    input:
        manifest=lambda wildcards: ancient(training_of(wildcards).manifest.path),
    output:
        model=f"{MODEL}/model.pt",
    log:
        f"{MODEL}/train.log",
    priority: 2
    threads: RESOURCES["cpus"]
    resources:
        gpu=RESOURCES["gpu"],
        mem_mb=growing("mem_mb"),
        runtime=RESOURCES["train_minutes"],
    shell:
        "stage train {log:q} "
        "--dataset {wildcards.dataset} --model {wildcards.model} --method {wildcards.method} "
        "--seed {wildcards.seed} --digest {wildcards.digest} --threads {threads}"
