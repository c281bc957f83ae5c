# The last rules: one table of all slides, including failed ones, and the verdict.
localrules:
    all,
    everything,
    verdict,


rule cohort:
    input:
        expand(
            "status/{stage}/{slide}.json",
            stage=("features", "export", "report"),
            slide=PLAN.slides,
        ),
    output:
        "cohort.parquet",
        "cohort.csv",
        "cohort.html",
    params:
        slides={slide: PLAN.table_name(slide) for slide in PLAN.slides},
        refused=PLAN.refused,
        dates=PLAN.options["dates"],
    log:
        "logs/cohort.log",
    benchmark:
        "benchmarks/cohort.tsv"
    conda:
        "../envs/wsiseg.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    script:
        "../scripts/cohort.py"


# Lists failed slides and ends with exit code 1, every time; makes its file if none failed.
rule verdict:
    input:
        "cohort.parquet",
    output:
        "status/all-done",
    params:
        slides=list(PLAN.slides),
        refused=PLAN.refused,
    log:
        "logs/verdict.log",
    benchmark:
        "benchmarks/verdict.tsv"
    conda:
        "../envs/wsiseg.yaml"
    script:
        "../scripts/verdict.py"
