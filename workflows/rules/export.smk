# The objects in other formats, besides GeoJSON and GeoParquet in the run folder.
rule export:
    input:
        run="status/segment/{slide}.json",
    output:
        "status/export/{slide}.json",
    params:
        products=lambda wildcards: [
            f"--product=exports/{wildcards.slide}.{ending}" for ending in PLAN.options["exports"]
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
        " -- wsiseg export runs/{wildcards.slide:q}"
