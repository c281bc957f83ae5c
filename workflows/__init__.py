"""The workflow that `wsiseg workflow` runs, as files for Snakemake."""
