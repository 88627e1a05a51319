rule tune_crf:
    """Searches for the options of a refining method on a split that is not scored, and shows the best."""
    input:
        [tuning.report for tuning in TUNINGS.values()],
    log:
        RESULTS / "tuning.log",
    localrule: True
    shell:
        "cat {input:q} > {log:q} && cat {log:q}"


rule tune:
    """Tries the options of one search on one trained model."""
    input:
        manifest=lambda wildcards: manifest_of(
            tuning_of(wildcards).run,
            [
                tuning_of(wildcards).chosen,
                tuning_of(wildcards).table,
                tuning_of(wildcards).report,
            ],
        ),
        model=lambda wildcards: ancient(tuning_of(wildcards).run.training.file),
    output:
        chosen=f"{TUNING}/chosen.json",
        table=f"{TUNING}/candidates.csv",
        report=f"{TUNING}/report.md",
    log:
        f"{TUNING}/tune.log",
    threads: RESOURCES["cpus"]
    resources:
        gpu=shares_of(RESOURCES["gpu"]),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    params:
        gpus=RESOURCES["gpu"],
    shell:
        "stage tune {log:q} --dataset {wildcards.dataset:q} --model {wildcards.model:q} "
        "--digest {wildcards.digest:q} --threads {threads:q} --gpus {params.gpus:q}"
