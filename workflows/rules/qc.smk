# What is known of the slide before it is segmented: size, pixel size, foreground, focus.
rule qc:
    input:
        files=lambda wildcards: ancient(PLAN.inputs(wildcards.slide)),
    output:
        "status/qc/{slide}.json",
    params:
        # The key alone tells a change; what looks at `input` is no parameter that Snakemake compares.
        slide=lambda wildcards, input: PLAN.slide(wildcards.slide),
        settings=lambda wildcards, input: PLAN.looking(wildcards.slide),
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
        " --answer qc/{wildcards.slide:q}.json"
        " -- wsiseg info {params.slide:q} --json --no-plan {params.settings:q}"
