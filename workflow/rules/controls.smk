rule controls:
    """Scores the labellings that bracket the runs of a dataset and model; no model is needed."""
    input:
        manifest=lambda wildcards: manifest_of(
            control_of(wildcards), scored_by(control_of(wildcards))
        ),
    output:
        [
            f"{CONTROL}/{name}/{file}"
            for name in CONTROLS
            for file in ("metrics.json", "per_image.npz")
        ],
    log:
        f"{CONTROL}/controls.log",
    threads: 1
    resources:
        **gpu_resources(0),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "stage controls {log:q} "
        "--dataset {wildcards.dataset:q} --model {wildcards.model:q} "
        "--digest {wildcards.digest:q} --threads {threads:q}"
