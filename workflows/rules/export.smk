# The objects in more formats than GeoJSON and GeoParquet, which are in the run folder.
rule export:
    input:
        run="status/segment/{slide}.json",
    output:
        "status/export/{slide}.json",
    params:
        run=lambda wildcards: PLAN.run_folder(wildcards.slide),
        products=lambda wildcards: [
            f"--product=exports/{PLAN.table_name(wildcards.slide)}.{ending}"
            for ending in PLAN.options["exports"]
        ],
    log:
        "logs/export/{slide}.log",
    benchmark:
        "benchmarks/export/{slide}.tsv"
    conda:
        "../envs/wsiseg.yaml"
    threads: 1
    retries: PLAN.options["retries"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
        tries_left=lambda wildcards, attempt: PLAN.options["retries"] + 1 - attempt,
    shell:
        "python -m wsi_pipeline.batch.job --record {output:q} --slide {wildcards.slide:q}"
        " --log {log:q} --tries-left {resources.tries_left} --after {input.run:q}"
        " --per-product {params.products:q}"
        " -- wsiseg export {params.run:q}"
