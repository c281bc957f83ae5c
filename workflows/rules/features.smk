# The object table, and the slide's row for the cohort.
rule features:
    input:
        run="status/segment/{slide}.json",
        qc="status/qc/{slide}.json",
    output:
        "status/features/{slide}.json",
    params:
        run=lambda wildcards: PLAN.run_folder(wildcards.slide),
        name=lambda wildcards: PLAN.table_name(wildcards.slide),
        preparation=PLAN.options["preparation"],
        # Not compared, as it uses `input`: nothing is done again when a slide is moved.
        slide=lambda wildcards, input: PLAN.extended_slide(wildcards.slide),
        extended=lambda wildcards: PLAN.extended_product(wildcards.slide),
    log:
        "logs/features/{slide}.log",
    benchmark:
        "benchmarks/features/{slide}.tsv"
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
        " --log {log:q} --tries-left {resources.tries_left} --after {input.run:q}"
        " --product features/{params.name:q}.summary.json"
        " --product features/{params.name:q}.objects.csv.gz {params.extended:q}"
        " -- wsiseg features {params.run:q} --out features"
        " --qc qc/{wildcards.slide:q}.json --preparation {params.preparation} {params.slide:q}"
