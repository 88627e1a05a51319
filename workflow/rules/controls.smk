# Scores the labellings that bracket the runs of a dataset and model: no model is needed.
CONTROL = f"{RESULTS}/controls/{{dataset}}/{{model}}/{{digest}}"


rule controls:
    input:
        manifest=lambda wildcards: ancient(
            runs.manifest(CONFIG, wildcards.dataset).path
        ),
    output:
        [
            f"{CONTROL}/{name}/{file}"
            for name in runs.CONTROLS
            for file in ("metrics.json", "per_image.npz")
        ],
    log:
        f"{CONTROL}/controls.log",
    threads: 1
    resources:
        gpu=0,
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "stage controls {log:q} "
        "--dataset {wildcards.dataset} --model {wildcards.model} "
        "--digest {wildcards.digest} --threads {threads}"
