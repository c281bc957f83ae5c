"""Laws of the workflow: every slide done or named, nothing twice, settings as everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from wsi_pipeline.batch import snakemake as workflow
from wsi_pipeline.batch.job import DONE, FAILED, INCOMPLETE, read_record, run_stage
from wsi_pipeline.batch.plan import STAGES, Plan, judge, read_plan
from wsi_pipeline.batch.run_many import run_slides
from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, OutputError, UsageError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation import load_model as registry
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

ROOT = Path(__file__).parent.parent
FILES = ROOT / "workflows"
SNAKEMAKE = (sys.executable, "-m", "snakemake", "-s", FILES / "Snakefile")
QUICK = {"device": "cpu", "workflow": {"threads": 1, "retries": 0}}


def run(*command, **options):
    """A command that ended, with what it said on both streams as `stdout`."""
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        **options,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three small slides, in a sheet that has regions for one, a broken one and a bad name."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate("abc"):
        write_slide(folder / f"{name}.svs", plan_slide(560, 500, mpp=0.5, seed=seed, tissue=0.9))
    (folder / "words.svs").write_text("no pixels\n")
    square = [[0, 0], [250, 0], [250, 500], [0, 500], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [square]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {}}
    (folder / "half.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    rows = [
        "slide,mpp,model,roi",
        "a.svs,0.4,,",
        "b.svs,,dssnet,half.geojson",
        "c.svs,,,",
        "words.svs,,,",
        "d{e}.svs,,,",
    ]
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(QUICK))
    return folder


def start(made, *args, config="config.yaml", out="out"):
    return run(
        Path(sys.executable).with_name("wsiseg"), "workflow", made / "slides.csv", made / out,
        "--config", made / config, "--cores", "2", *args,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(made):
    """What the workflow says of them at its first run."""
    return start(made)


def planned(result):
    """Jobs that a dry run names, by rule."""
    assert "dry-run" in result.stdout or "Nothing to be done" in result.stdout, result.stdout
    return {
        k: int(n) for k, n in re.findall(rf"^({'|'.join(STAGES)}) +(\d+)$", result.stdout, re.M)
    }


def times(folder):
    files = (p for p in folder.rglob("*") if p.is_file())
    hidden = (".snakemake", "workflow")
    return {p: p.stat().st_mtime_ns for p in files if p.relative_to(folder).parts[0] not in hidden}


# --- from slides to tables


def test_every_slide_is_done_or_named(made, ran):
    assert ran.returncode == 1, ran.stdout
    *_, badly, named, last = ran.stdout.splitlines()
    assert badly.startswith("wsiseg: d{e}.svs: d{e}.svs has a brace")
    assert named.startswith("wsiseg: words: words.svs cannot be read")
    assert last.startswith("3 done, 2 failed")
    out = made / "out"
    table = pq.read_table(out / "cohort.parquet").to_pylist()
    assert {row["slide"]: row["status"] for row in table} == {
        "a": "done", "b": "done", "c": "done", "d{e}.svs": "failed", "words": "failed",
    }  # fmt: skip
    assert "words.svs cannot be read" in table[-1]["cause"]
    for name in "abc":
        for product in (
            f"qc/{name}.json", f"runs/{name}/dssnet/objects.geojson.gz",
            f"exports/{name}.coco.json", f"features/{name}.objects.csv.gz", f"reports/{name}.html",
        ):  # fmt: skip
            assert (out / product).stat().st_size, product
    for stage in STAGES:
        for name in ("a", "b", "c", "words"):
            assert (out / "logs" / stage / f"{name}.log").exists() or name == "words"
            assert (out / "benchmarks" / stage / f"{name}.tsv").is_file()
    assert not list(out.rglob("*.part"))


def test_the_run_folders_are_those_of_wsiseg_run(made, ran):
    for name, own in (("a", {"mpp": 0.4}), ("b", {"roi": made / "half.geojson"})):
        alone = run_slide(
            made / f"{name}.svs", RunConfig(out=made / "alone", device="cpu", quiet=True, **own)
        )
        files = [
            f / name / "dssnet/objects.parquet" for f in (made / "alone", made / "out" / "runs")
        ]
        mine, other = (pq.read_table(f).drop_columns("bbox") for f in files)
        assert alone.objects > 10
        told = json.loads((made / "out" / "runs" / name / "dssnet" / "run.json").read_text())[
            "slide"
        ]["mpp"]
        assert told["source"] == ("slide sheet" if "mpp" in own else "metadata")
        assert mine.equals(other)


def test_nothing_is_done_twice(made, ran):
    before = times(made / "out")
    again = start(made)
    assert again.returncode == 1
    assert "Nothing to be done" in again.stdout
    assert "wsiseg: words: words.svs cannot be read" in again.stdout
    assert times(made / "out") == before


def test_only_what_decides_a_result_makes_it_anew(made, ran):
    moved = made / "moved"
    moved.mkdir()
    for path in made.iterdir():
        if path.is_file():
            shutil.copy2(path, moved)
    (moved / "a.svs").unlink()  # a slide that is done may go
    (moved / "out").symlink_to(made / "out")
    other = {**QUICK, "batch": 2, "workers": 1, "tile_px": 256}
    (moved / "config.yaml").write_text(yaml.safe_dump(other))
    assert planned(start(moved, "--", "-n")) == {}
    (moved / "config.yaml").write_text(yaml.safe_dump({**QUICK, "threshold": 0.6}))
    assert planned(start(moved, "--", "-n")) == dict.fromkeys(STAGES, 3)
    (moved / "config.yaml").write_text(yaml.safe_dump(QUICK))
    (moved / "words.svs").write_text("other words\n")
    assert planned(start(moved, "--", "-n")) == dict.fromkeys(STAGES, 1)


def test_what_has_gone_is_made_again(made, ran):
    out = made / "copy"
    shutil.copytree(made / "out", out)
    (out / "reports" / "a.html").unlink()
    objects = times(out / "runs")
    records = times(out / "status")
    assert planned(start(made, "--retry-failed", "--", "-np", out="copy"))["segment"] == 1
    assert times(out / "status") == records
    again = start(made, "--retry-failed", out="copy")
    assert again.returncode == 1
    assert (out / "reports" / "a.html").is_file()
    assert "wsiseg: words: words.svs cannot be read" in again.stdout
    jobs = Counter(re.findall(r"\(Rule: (\w+)\)", again.stdout))
    assert jobs == Counter([*STAGES, "report", "cohort", "everything"]), again.stdout
    assert times(out / "runs") == objects


def test_snakemakes_lint_finds_nothing(tmp_path):
    lint = run(*SNAKEMAKE, "--lint", cwd=tmp_path)
    assert lint.returncode == 0, lint.stdout
    assert "good condition" in lint.stdout


def test_the_graph_in_the_docs_is_that_of_the_rules(made, tmp_path):
    graph = run(
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


# --- settings


def test_the_settings_are_those_of_a_run():
    schema = yaml.safe_load((FILES / "schemas" / "config.schema.yaml").read_text())
    shipped = yaml.safe_load((FILES / "config.yaml").read_text())
    own = schema["properties"].pop("workflow")
    defaults = {k: v["default"] for k, v in own["properties"].items()}
    assert shipped.pop("workflow") == defaults
    assert schema["properties"].keys() == {field.name for field in fields(RunConfig)}
    assert RunConfig.from_mapping(shipped) == RunConfig()
    assert not schema["additionalProperties"] and not own["additionalProperties"]


def test_every_setting_reaches_the_command_line():
    other = RunConfig(
        model="donet", checkpoint=Path("c"), device="cpu", precision="float32", mpp=0.3,
        foreground="all", roi=Path("r"), tile_px=256, batch=3, workers=4, scheduler="tcp://x:1",
        read_timeout_s=9.0, threshold=0.4, min_area_um2=7.0, min_score=0.1, min_small_score=0.2,
        split=False, crop=False, overwrite=True, quiet=True,
    )  # fmt: skip
    default = asdict(RunConfig())
    assert [k for k, v in asdict(other).items() if v == default[k]] == ["out"]
    plan = Plan({"a": SlideRequest(Path("a.svs"))}, {}, other, {})
    flags = [*plan.deciding("a"), *plan.machine()]
    command = cli.commands["run"].make_context("run", ["a.svs", *flags])
    given = {k: v for k, v in command.params.items() if k in default}
    assert RunConfig(**given) == replace(other, overwrite=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("treshold: 0.4", ["treshold", "known:", "threshold"]),
        ("out: results", ["out", "known:"]),
        ("batch: many", ["many", "integer"]),
        ("threshold: 3", ["threshold 3", "0.98"]),
        ("workflow: {cores: 4}", ["cores", "unexpected"]),
        ("[1, 2", ["cannot be read", "YAML"]),
    ],
)
def test_a_wrong_setting_is_named_before_anything_starts(made, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    args = ["workflow", made, tmp_path / "out", "--config", tmp_path / "c.yaml"]
    result = CliRunner().invoke(cli, [str(a) for a in args])
    assert result.exit_code == 2, result.output
    assert [word for word in words if word not in result.stderr] == []
    assert not (tmp_path / "out").exists()


def test_two_slides_of_one_name_are_refused(tmp_path):
    names = [str(tmp_path / name) for name in ("x/a.svs", "y/a.ndpi")]
    with pytest.raises(UsageError, match=r"x/a\.svs and .*y/a\.ndpi are both slide 'a'"):
        read_plan({"workflow": {"slides": names}})
    with pytest.raises(ConfigError, match="where Snakemake works"):
        read_plan({"out": "elsewhere"})


@pytest.mark.parametrize("name", ["{x}", "new\nline", "bad\udcff", "x" * 201, "turn\u202eed"])
def test_a_name_that_can_name_no_files_fails_alone(name, tmp_path):
    other = tmp_path / "{in}" / "a b.svs"
    other.parent.mkdir()
    other.touch()
    plan = read_plan({"workflow": {"slides": [f"{name}.svs", str(other)]}})
    assert list(plan.slides) == ["a b"]
    assert plan.inputs("a b") == []  # Snakemake would take its folder for a wildcard
    ((shown, cause),) = plan.refused.items()
    assert shown.isprintable()
    assert "rename it" in cause
    (tmp_path / "workflow").mkdir()
    workflow._write_plan(tmp_path, [SlideRequest(Path(f"/{name}.svs"))], {})
    again = read_plan({"workflow": {"slides": [str(tmp_path / "workflow" / "slides.csv")]}})
    assert again.refused.keys() == {shown}


# --- slide sheets


def test_a_sheet_gives_model_and_regions_to_single_slides(tmp_path, made, darkness, monkeypatch):
    opened = []
    monkeypatch.setattr(
        registry, "model_for", lambda config: opened.append(config.model) or darkness
    )
    config = RunConfig(out=tmp_path, quiet=True)
    slides = find_slides([str(made / "slides.csv")])
    a, b, c, words = run_slides(
        [replace(slides[2], model="unet"), *slides[1:2], slides[0], slides[3]], config
    )
    assert opened == ["unet", "dssnet"]
    assert [one.failed for one in (a, b, c, words)] == [False, False, False, True]
    assert b.result.summary["settings"]["roi"] == str(made / "half.geojson")
    assert a.result.summary["settings"]["roi"] is None
    assert a.result.summary["settings"]["model"] == "unet"
    whole = run_slide(made / "b.svs", RunConfig(out=tmp_path / "whole", quiet=True), model=darkness)
    assert 0 < b.result.objects < whole.objects


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        ("a.svs,,r.geojson", {"roi": Path("r.geojson")}, "roi"),
        ("a.svs,unet,", {"checkpoint": Path("w.safetensors")}, "--checkpoint"),
    ],
)
def test_a_sheet_and_the_settings_may_not_contradict(tmp_path, row, settings, words):
    (tmp_path / "s.csv").write_text(f"slide,model,roi\n{row}\n")
    with pytest.raises(UsageError, match=words):
        run_slides(find_slides([str(tmp_path / "s.csv")]), RunConfig(out=tmp_path, **settings))


# --- keys


def test_a_key_follows_files_and_settings_and_nothing_else(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(made / "a.svs", "a.svs")
    (tmp_path / "r.geojson").write_bytes((made / "half.geojson").read_bytes())

    def key(**settings):
        return read_plan({"workflow": {"slides": ["a.svs"]}, **settings}).key("a")

    first = key()
    assert key(batch=4, device="cpu", workers=1, quiet=True, scheduler="tcp://x:1") == first
    others = [key(threshold=0.4), key(model="unet"), key(split=False), key(roi="r.geojson")]
    assert len({first, *others}) == 5
    os.utime("a.svs", ns=(1, 1))  # a clock that ran late is seen, too
    assert key() not in (first, *others)


def test_a_slide_that_is_done_keeps_its_key_when_it_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_plan({"workflow": {"slides": ["gone.svs"]}})
    without = plan.key("gone")
    assert plan.inputs("gone") == []
    records = tmp_path / "status" / "segment"
    records.mkdir(parents=True)
    for status, key in ((DONE, "its key"), (FAILED, without)):
        (records / "gone.json").write_text(json.dumps({"status": status, "key": "its key"}))
        assert plan.key("gone") == key


# --- one job


def job(folder, code, *options, slide="a"):
    """Exit code of one job whose command is Python code, and its record."""
    record = folder / "status" / "segment" / f"{slide}.json"
    command = [
        sys.executable, "-m", "wsi_pipeline.batch.job", "--record", record, "--slide", slide,
        "--log", folder / f"{slide}.log", *options, "--", sys.executable, "-c", code,
    ]  # fmt: skip
    return run(*command).returncode, read_record(record)


FAILS = "import sys; print('words'); print('wsiseg: no pixels', file=sys.stderr); sys.exit(1)"


def test_a_job_is_recorded_when_it_has_no_tries_left(tmp_path):
    assert job(tmp_path, FAILS, "--tries-left", 1) == (1, None)
    code, record = job(tmp_path, FAILS)
    assert code == 0
    assert record == {
        "slide": "a", "stage": "segment", "key": "", "status": FAILED, "cause": "no pixels",
    }  # fmt: skip
    assert (tmp_path / "a.log").read_text().count("words") == 2
    assert (
        job(tmp_path, "import sys; sys.exit(2)", "--tries-left", 1, slide="b")[1]["status"]
        == FAILED
    )
    assert job(tmp_path, "import sys; sys.exit(130)", slide="c") == (130, None)
    killed = job(tmp_path, "import os; os.kill(os.getpid(), 9)", slide="d")[1]
    assert "SIGKILL" in killed["cause"] and "memory" in killed["cause"]


def test_what_follows_a_failure_passes_it_on(tmp_path):
    _, failed = job(tmp_path, FAILS)
    before = tmp_path / "status" / "segment" / "a.json"
    later = tmp_path / "status" / "features" / "a.json"
    args = ["--record", later, "--slide", "a", "--log", tmp_path / "log", "--after", before]
    result = CliRunner().invoke(run_stage, [*map(str, args), "--", "false"])
    assert result.exit_code == 0
    assert read_record(later) == failed
    assert not (tmp_path / "log").exists()


def test_regions_that_failed_leave_a_slide_incomplete(tmp_path):
    folder = tmp_path / "runs" / "a"
    write = f"import json,sys,pathlib; p=pathlib.Path({str(folder)!r}); p.mkdir(exist_ok=True)\n"
    write += "(p/'run.json').write_text(json.dumps({'failed_regions': [{}]}))\n" + FAILS
    code, record = job(tmp_path, write, "--folder", folder, "--key", "k")
    assert (code, record["status"], record["cause"]) == (0, INCOMPLETE, "no pixels")
    verdict = judge(tmp_path, ["a"])
    assert (verdict.done, verdict.failed) == (0, {"a": "no pixels"})


def test_a_run_folder_is_kept_for_the_same_key_only(tmp_path):
    folder = tmp_path / "runs" / "a"
    part, note = folder / "parts" / "000001.npz", folder / "notes.txt"
    for key, kept in (("one", False), ("one", True), ("two", False)):
        part.parent.mkdir(parents=True, exist_ok=True)
        for path in (part, note, folder / "run.json"):
            path.write_text("{}")
        job(tmp_path, "pass", "--folder", folder, "--key", key)
        assert (part.exists(), (folder / "run.json").exists(), note.exists()) == (kept, kept, True)


def test_an_answer_is_there_when_it_is_whole(tmp_path):
    answer = tmp_path / "qc" / "a.json"
    job(tmp_path, "print('half'); import sys; sys.exit(1)", "--answer", answer)
    assert not any(answer.parent.iterdir())
    job(tmp_path, "print('whole')", "--answer", answer)
    assert answer.read_text() == "whole\n"


# --- faults of the whole


def test_two_workflows_do_not_share_an_output(tmp_path):
    with (
        workflow._alone(tmp_path),
        pytest.raises(OutputError, match=f"process {os.getpid()} on"),
        workflow._alone(tmp_path),
    ):
        pass
    left = tmp_path / ".snakemake" / "locks" / "0.input.lock"
    left.parent.mkdir(parents=True)
    for owner, stays in (("", True), ("process 1 on that was killed", False)):
        left.touch()
        (tmp_path / "workflow" / "lock").write_text(owner)
        with workflow._alone(tmp_path):
            assert left.exists() == stays


def test_jobs_that_vanished_are_named_and_tried_again(tmp_path):
    job(tmp_path, "pass", slide="a")
    assert not workflow._close_lost(tmp_path, ["a"])  # Snakemake has not tried them all
    (tmp_path / "status" / "lost").touch()
    assert workflow._close_lost(tmp_path, ["a"])
    verdict = judge(tmp_path, ["a"])
    assert "qc: its job ended without a word" in verdict.failed["a"]
    with workflow._forgotten(tmp_path, ["a"], failed=False, back=False):
        assert judge(tmp_path, ["a"]).unknown == ["a"]
    assert read_record(tmp_path / "status" / "segment" / "a.json")["status"] == DONE
