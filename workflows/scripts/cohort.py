"""Rule cohort: the table of all slides; failed ones are rows with their cause."""

import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from wsi_pipeline.cohort import write_cohort
from wsi_pipeline.stage import FAILED, read_record

with (
    Path(snakemake.log[0]).open("w") as log,
    redirect_stdout(log),
    redirect_stderr(log),
    TemporaryDirectory() as folder,
):
    sources = []
    for slide in snakemake.params.slides:
        source = Path(f"features/{slide}.summary.json")
        record = read_record(Path(f"status/features/{slide}.json"))
        if record is not None and record["status"] == FAILED:
            source = Path(folder) / f"{slide}.failed.json"
            row = {name: record[name] for name in ("slide", "status", "cause")}
            source.write_text(json.dumps(row), "utf-8")
        sources.append(source)
    write_cohort(Path(), sources)
