rule tune:
    """Tries settings of methods on images that are not scored, and shows the best."""
    input:
        lambda wildcards: [search.report for search in searches_by_folder().values()],
    log:
        RESULTS / "tuning.log",
    localrule: True
    shell:
        "cat {input:q} > {log:q} && cat {log:q}"


rule trial:
    """Trains and scores one candidate of a round of a search, which one the round before has decided."""
    input:
        tried_with,
    output:
        f"{TUNING}/trials/{{round}}-{{place}}.json",
    log:
        f"{TUNING}/trials/{{round}}-{{place}}.log",
    threads: TRAINING_GPUS * RESOURCES["cpus"]
    resources:
        **gpu_resources(TRAINING_GPUS if RESOURCES["gpu"] else 0),
        nodes=1,
        mem_mb=growing("mem_mb", TRAINING_GPUS),
        runtime=RESOURCES["train_minutes"],
    params:
        gpus=TRAINING_GPUS if RESOURCES["gpu"] else 0,
    shell:
        "stage tune {log:q} --dataset {wildcards.dataset:q} --model {wildcards.model:q} "
        "--method {wildcards.method:q} --round {wildcards.round:q} --place {wildcards.place:q} "
        "--digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"


rule search:
    """Ends a search: chooses from what was tried, or tries refinements of one trained model."""
    input:
        searched_with,
    output:
        table=f"{TUNING}/candidates.csv",
        chosen=f"{TUNING}/chosen.yaml",
        report=f"{TUNING}/report.md",
        record=f"{TUNING}/search.json",
    log:
        f"{TUNING}/tune.log",
    threads: RESOURCES["cpus"]
    resources:
        **gpu_resources(RESOURCES["gpu"]),
        mem_mb=growing("mem_mb"),
        runtime=RESOURCES["train_minutes"],  # what is held out has a model of its own
    params:
        gpus=RESOURCES["gpu"],
    shell:
        "stage tune {log:q} --dataset {wildcards.dataset:q} --model {wildcards.model:q} "
        "--method {wildcards.method:q} "
        "--digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"
