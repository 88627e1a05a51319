# Gets datasets, each asked for by name: `snakemake data_voc`. What is there is left alone.
for name in configuration.downloadable(CONFIG):

    rule:
        name:
            f"data_{name}"
        log:
            RESULTS / f"datasets/{name}.download.log",
        localrule: True
        threads: 1
        params:
            dataset=name,
        shell:
            "shown download {log:q} --dataset {params.dataset:q}"
