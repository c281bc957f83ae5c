# Facts about the slide before it is segmented: size, pixel size, foreground, focus.
rule qc:
    input:
        files=lambda wildcards: ancient(PLAN.inputs(wildcards.slide)),
    output:
        "status/qc/{slide}.json",
    params:
        # Only the key shows a change: Snakemake does not compare params that use `input`.
        slide=lambda wildcards, input: PLAN.slide(wildcards.slide),
        settings=lambda wildcards, input: PLAN.info_flags(wildcards.slide),
        key=lambda wildcards: PLAN.key(wildcards.slide),
    log:
        "logs/qc/{slide}.log",
    benchmark:
        "benchmarks/qc/{slide}.tsv"
    conda:
        "../envs/wsiseg.yaml"
    threads: 1
    retries: PLAN.options["retries"]
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
        tries_left=lambda wildcards, attempt: PLAN.options["retries"] + 1 - attempt,
    shell:
        "python -m wsi_pipeline.batch.job --record {output:q} --slide {wildcards.slide:q}"
        " --key {params.key} --log {log:q} --tries-left {resources.tries_left}"
        " --stdout qc/{wildcards.slide:q}.json"
        " -- wsiseg info {params.slide:q} --json --no-plan {params.settings:q}"
