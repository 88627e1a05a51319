rule prepare:
    """Looks at a dataset once: what is there, and whether it is sound."""
    output:
        manifest=f"{RESULTS}/datasets/{{dataset}}-{{digest}}.json",
        panel=f"{RESULTS}/datasets/{{dataset}}-{{digest}}.panel.npz",
    log:
        f"{RESULTS}/datasets/{{dataset}}-{{digest}}.log",
    threads: 1
    resources:
        **gpu_resources(0),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "stage prepare {log:q} "
        "--dataset {wildcards.dataset:q} --digest {wildcards.digest:q}"
