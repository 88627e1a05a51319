rule kernels:
    """Times the kernels side by side with what they replace."""
    output:
        page=RESULTS / "kernels/kernels.md",
        chain=RESULTS / "kernels/chain.csv",
        rmi=RESULTS / "kernels/rmi.csv",
        densecrf=RESULTS / "kernels/densecrf.csv",
    log:
        RESULTS / "kernels/kernels.log",
    threads: ALL_CORES
    resources:
        gpu=RESOURCES["gpu"],
        mem_mb=growing("mem_mb"),
        runtime=growing("other_minutes"),
    shell:
        "stage kernels {log:q} --threads {threads:q} --gpus {resources.gpu:q}"
