"""Rule verdict: lists the slides that failed, with their causes."""

import sys
from pathlib import Path

from wsi_pipeline.batch.plan import read_verdict

verdict = read_verdict(Path(), snakemake.params.slides, snakemake.params.refused)
lines = [f"{slide}  failed: {cause}" for slide, cause in verdict.failed.items()]
text = "\n".join([f"{verdict.done} done", *lines, ""])
Path(snakemake.log[0]).write_text(text, encoding="utf-8")
if lines:
    sys.exit("\n".join(lines))
Path(snakemake.output[0]).touch()
