# Times the kernels side by side with what they replace; asked for by name: `snakemake kernels`.
rule kernels:
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
        "stage benchmark {log:q} --threads {threads} --gpus {resources.gpu}"
