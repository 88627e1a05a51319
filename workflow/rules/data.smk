# Each dataset is asked for by name, as in `snakemake data_voc`.
for name in entries.downloadable(CONFIG):

    rule:
        """Gets a dataset, or says how to; what is there is left alone."""
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
