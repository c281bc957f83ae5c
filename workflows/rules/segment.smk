# The run folder. It is not an output of the rule: Snakemake removes outputs before a job, and a
# stopped run resumes from its files. The record is written when the run is finished.
rule segment:
    input:
        files=lambda wildcards: ancient(PLAN.inputs(wildcards.slide)),
        qc="status/qc/{slide}.json",
    output:
        "status/segment/{slide}.json",
    params:
        # Only the key shows a change: Snakemake does not compare params that use `input`.
        row=lambda wildcards, input: PLAN.row(wildcards.slide),
        folder=lambda wildcards, input: PLAN.run_folder(wildcards.slide),
        settings=lambda wildcards, input: PLAN.result_flags(),
        machine=lambda wildcards, input: PLAN.machine_flags(),
        key=lambda wildcards: PLAN.key(wildcards.slide),
    log:
        "logs/segment/{slide}.log",
    benchmark:
        "benchmarks/segment/{slide}.tsv"
    conda:
        "../envs/wsiseg.yaml"
    threads: PLAN.options["threads"]
    retries: PLAN.options["retries"]
    resources:
        mem_mb=lambda wildcards, attempt: PLAN.options["mem_mb"] * attempt,
        runtime=PLAN.options["runtime"],
        gpu=PLAN.options["gpu"],
        tries_left=lambda wildcards, attempt: PLAN.options["retries"] + 1 - attempt,
    shell:
        "python -m wsi_pipeline.batch.job --record {output:q} --slide {wildcards.slide:q}"
        " --key {params.key} --log {log:q} --tries-left {resources.tries_left}"
        " --after {input.qc:q} --run-folder {params.folder:q}"
        " --sheet workflow/slides/{wildcards.slide:q}.csv --row {params.row:q}"
        " -- wsiseg run workflow/slides/{wildcards.slide:q}.csv --out runs"
        " {params.settings:q} {params.machine:q}"
