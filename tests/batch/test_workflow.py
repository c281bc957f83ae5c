"""Laws of a whole workflow: every slide done or named, nothing twice, settings as everywhere."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from wsi_pipeline.batch.plan import STAGES
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.pipeline import run_slide

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SNAKEMAKE = (sys.executable, "-m", "snakemake", "-s", ROOT / "workflows" / "Snakefile")


def planned(result):
    """Jobs that a dry run lists, by rule."""
    assert "dry-run" in result.stdout or "Nothing to be done" in result.stdout, result.stdout
    assert "wsiseg: " not in result.stdout.splitlines()[-1]
    assert result.stdout.splitlines()[-1].startswith("dry run, nothing was started: ")
    return {
        k: int(n) for k, n in re.findall(rf"^({'|'.join(STAGES)}) +(\d+)$", result.stdout, re.M)
    }


def times(folder):
    files = (p for p in folder.rglob("*") if p.is_file())
    hidden = (".snakemake", "workflow")
    return {p: p.stat().st_mtime_ns for p in files if p.relative_to(folder).parts[0] not in hidden}


def test_every_slide_is_done_or_named(made, ran):
    assert ran.returncode == 1, ran.stdout
    *_, brace, words, gone, last = ran.stdout.splitlines()
    assert brace.startswith("wsiseg: d{e}.svs: d{e}.svs has a brace")
    assert gone.startswith("wsiseg: gone: ") and "gone.svs does not exist" in gone
    assert words.startswith("wsiseg: words: words.svs cannot be read")
    assert last == f"2 slides are done, 3 failed; tables and reports: {made / 'out'}"
    out = made / "out"
    table = pq.read_table(out / "cohort.parquet").to_pylist()
    failed = dict.fromkeys(("d{e}.svs", "gone", "words"), ("failed", None))
    done = dict.fromkeys("ab", ("done", "dssnet"))
    assert {row["slide"]: (row["status"], row["model"]) for row in table} == done | failed
    assert "words.svs cannot be read" in table[-1]["cause"]
    for name in "ab":
        for product in (
            f"qc/{name}.json", f"runs/{name}/dssnet/objects.geojson.gz", f"reports/{name}.html",
            f"exports/{name}.dssnet.coco.json", f"features/{name}.dssnet.objects.csv.gz",
        ):  # fmt: skip
            assert (out / product).stat().st_size, product
    for stage in STAGES:
        for name in ("a", "b", "words"):
            assert (out / "logs" / stage / f"{name}.log").exists() or name == "words"
            assert (out / "benchmarks" / stage / f"{name}.tsv").is_file()
    assert not list(out.rglob("*.part"))


def test_the_run_folders_are_those_of_wsiseg_run(made, ran):
    for name, own in (("a", {"mpp": 0.4}), ("b", {"roi": made / "half.geojson"})):
        alone = run_slide(
            made / f"{name}.svs", RunConfig(out=made / "alone", device="cpu", quiet=True, **own)
        )
        folders = [out / name / "dssnet" for out in (made / "alone", made / "out" / "runs")]
        mine, other = (pq.read_table(f / "objects.parquet").drop_columns("bbox") for f in folders)
        assert alone.objects > 10
        record = json.loads((folders[1] / "run.json").read_text())
        source = "slide sheet" if "mpp" in own else "metadata"
        assert record["slide"]["mpp"]["source"] == source
        assert mine.equals(other)


def test_nothing_is_done_twice(made, ran, start):
    before = times(made / "out")
    again = start(made)
    assert again.returncode == 1
    assert "Nothing to be done" in again.stdout
    assert "wsiseg: words: words.svs cannot be read" in again.stdout
    assert times(made / "out") == before


def test_a_dry_run_counts_what_is_not_finished(made, ran, start):
    result = start(made, "--", "--dry-run", out="empty")
    assert planned(result) == dict.fromkeys(STAGES, 4)
    assert result.stdout.splitlines()[-1].endswith(
        ": 0 slides are done, 1 failed, 4 are not finished"
    )


def test_only_what_decides_a_result_makes_it_anew(made, ran, start, quick):
    moved = made / "moved"
    moved.mkdir()
    for path in made.iterdir():
        if path.is_file():
            shutil.copy2(path, moved)
    (moved / "a.svs").unlink()  # a slide that is done may go
    (moved / "out").symlink_to(made / "out")
    (moved / "words.svs").write_text("other words\n")
    for settings, expected in (
        ({"batch": 2, "workers": 1, "tile_px": 256}, 1),  # the one with other words
        ({"threshold": 0.6}, 3),
        ({"model": "donet"}, 2),  # b has its own
    ):
        (moved / "config.yaml").write_text(yaml.safe_dump(quick | settings))
        assert planned(start(moved, "--", "-n")) == dict.fromkeys(STAGES, expected), settings


def test_what_has_gone_is_made_again(made, ran, start):
    out = made / "copy"
    shutil.copytree(made / "out", out)
    (out / "reports" / "a.html").unlink()
    objects = times(out / "runs")
    records = times(out / "status")
    assert planned(start(made, "--retry-failed", "--", "-np", out="copy"))["segment"] == 2
    assert times(out / "status") == records
    again = start(made, "--retry-failed", out="copy")
    assert again.returncode == 1
    assert (out / "reports" / "a.html").is_file()
    assert "wsiseg: words: words.svs cannot be read" in again.stdout
    jobs = Counter(re.findall(r"\(Rule: (\w+)\)", again.stdout))
    assert jobs == Counter([*STAGES, *STAGES, "report", "cohort", "everything"]), again.stdout
    assert times(out / "runs") == objects


def test_snakemakes_lint_finds_nothing(tmp_path, run_command):
    lint = run_command(*SNAKEMAKE, "--lint", cwd=tmp_path)
    assert lint.returncode == 0, lint.stdout
    assert "good condition" in lint.stdout


def test_the_graph_in_the_docs_is_that_of_the_rules(made, tmp_path, run_command):
    graph = run_command(
        *SNAKEMAKE, "--quiet", "--rulegraph", "mermaid-js", "--config",
        f"workflow={{slides: ['{made / 'a.svs'}']}}", cwd=tmp_path,
    )  # fmt: skip
    assert graph.returncode == 0, graph.stdout
    assert edges(graph.stdout) == edges((ROOT / "docs" / "workflow.md").read_text())
    assert len(edges(graph.stdout)) > len(STAGES)


def edges(text):
    """Pairs of rules in a Mermaid flowchart."""
    names = dict(re.findall(r"(id\d+)\[(\w+)", text))
    return {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", text)}
