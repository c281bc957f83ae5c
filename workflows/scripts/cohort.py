"""Rule cohort: the table of all slides; a failed slide is a row with its cause."""

import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from wsi_pipeline.batch.job import FAILED, read_record
from wsi_pipeline.reports.cohort import write_cohort

with (
    Path(snakemake.log[0]).open("w", encoding="utf-8") as log,
    redirect_stdout(log),
    redirect_stderr(log),
    TemporaryDirectory() as folder,
):
    sources = []
    failed = [
        {"slide": slide, "status": FAILED, "cause": cause}
        for slide, cause in snakemake.params.refused.items()
    ]
    for slide, name in snakemake.params.slides.items():
        record = read_record(Path(f"status/features/{slide}.json"))
        if record is not None and record["status"] == FAILED:
            failed.append({name: record[name] for name in ("slide", "status", "cause")})
        else:
            sources.append(Path(f"features/{name}.summary.json"))
    for number, row in enumerate(failed):
        source = Path(folder) / f"{number}.failed.json"
        source.write_text(json.dumps(row), "utf-8")
        sources.append(source)
    dates = snakemake.params.dates
    write_cohort(Path(), sources, dates=None if dates is None else Path(dates))
