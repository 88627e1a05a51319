rule kernels:
    """Times kernels and methods side by side with what they replace."""
    output:
        page=RESULTS / "kernels/kernels.md",
        chain=RESULTS / "kernels/chain.csv",
        rmi=RESULTS / "kernels/rmi.csv",
        densecrf=RESULTS / "kernels/densecrf.csv",
        loss=RESULTS / "kernels/loss.csv",
        step=RESULTS / "kernels/step.csv",
    log:
        RESULTS / "kernels/kernels.log",
    threads: ALL_CORES
    resources:
        **gpu_resources(RESOURCES["gpu"], alone=True),
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    params:
        gpus=RESOURCES["gpu"],
    shell:
        "stage kernels {log:q} --baselines --threads {threads:q} --gpus {params.gpus:q}"
