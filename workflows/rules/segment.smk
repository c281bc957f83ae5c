# The run folder. It is no output of the rule, since Snakemake clears outputs before a job, and a
# run that was stopped goes on with what lies there; the record is written when it is finished.
rule segment:
    input:
        files=lambda wildcards: ancient(PLAN.inputs(wildcards.slide)),
        qc="status/qc/{slide}.json",
    output:
        "status/segment/{slide}.json",
    params:
        # The key alone tells a change; what looks at `input` is no parameter that Snakemake compares.
        slide=lambda wildcards, input: PLAN.slide(wildcards.slide),
        machine=lambda wildcards, input: PLAN.machine(),
        settings=lambda wildcards, input: PLAN.deciding(wildcards.slide),
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
        " --after {input.qc:q} --folder runs/{wildcards.slide:q}"
        " -- wsiseg run {params.slide:q} --out runs {params.settings:q} {params.machine:q}"
