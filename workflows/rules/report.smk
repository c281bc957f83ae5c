# A page about the slide.
rule report:
    input:
        features="status/features/{slide}.json",
    output:
        "status/report/{slide}.json",
    params:
        run=lambda wildcards: PLAN.run_folder(wildcards.slide),
        name=lambda wildcards: PLAN.table_name(wildcards.slide),
        # Not compared, as it uses `input`: nothing is done again when a slide is moved.
        slide=lambda wildcards, input: PLAN.report_slide(wildcards.slide),
        settings=PLAN.report_flags(),
        gallery=PLAN.options["gallery"],
    log:
        "logs/report/{slide}.log",
    benchmark:
        "benchmarks/report/{slide}.tsv"
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
        " --log {log:q} --tries-left {resources.tries_left} --after {input.features:q}"
        " --product reports/{wildcards.slide:q}.html"
        " -- wsiseg report {params.run:q} --out reports/{wildcards.slide:q}.html"
        " --summary features/{params.name:q}.summary.json {params.slide:q} {params.settings:q}"
