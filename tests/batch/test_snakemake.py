"""Laws of a workflow's output folder: one owner; no job is lost."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import psutil
import pytest

from wsi_pipeline.batch.job import DONE, FAILED, read_record, write_record
from wsi_pipeline.batch.output_lock import hold_output
from wsi_pipeline.batch.plan import STAGES, Verdict, read_verdict
from wsi_pipeline.batch.snakemake import WorkflowResult, _record_lost, _stale_records_removed
from wsi_pipeline.core.errors import OutputError


def test_two_workflows_do_not_share_an_output(tmp_path):
    with (
        hold_output(tmp_path),
        pytest.raises(OutputError, match=f"process {os.getpid()} on"),
        hold_output(tmp_path),
    ):
        pass
    with hold_output(tmp_path):
        pass
    assert not (tmp_path / "workflow" / "owner.json").exists()


def owner(pid, started_s, host=None):
    processes = [{"pid": pid, "started_s": started_s}]
    return {"schema_version": 1, "host": host or platform.node(), "processes": processes}


def test_a_snakemake_that_outlived_its_workflow_keeps_others_out(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as orphan:
        (tmp_path / "workflow").mkdir()
        record = tmp_path / "workflow" / "owner.json"
        started_s = psutil.Process(orphan.pid).create_time()
        record.write_text(json.dumps(owner(orphan.pid, started_s)))
        with pytest.raises(OutputError, match=f"process {orphan.pid} on"), hold_output(tmp_path):
            pass
        record.write_text(json.dumps(owner(orphan.pid, started_s - 3600)))  # its id, used again
        with hold_output(tmp_path):
            pass
        orphan.communicate(b"\n")


def test_a_lock_of_snakemakes_goes_if_its_owner_was_killed_here(tmp_path):
    left = tmp_path / ".snakemake" / "locks" / "0.input.lock"
    left.parent.mkdir(parents=True)
    (tmp_path / "workflow").mkdir()
    for record, stays in ((None, True), (owner(1, 0.0, "elsewhere"), True), (owner(1, 0.0), False)):
        left.touch()
        if record is not None:
            (tmp_path / "workflow" / "owner.json").write_text(json.dumps(record))
        with hold_output(tmp_path):
            assert left.exists() == stays, record


def put_record(out, stage, slide, **entries):
    record = {"schema_version": 1, "slide": slide, "stage": stage, "key": "", **entries}
    write_record(out / "status" / stage / f"{slide}.json", record)


def test_jobs_that_vanished_are_named_and_tried_again(tmp_path):
    put_record(tmp_path, "segment", "a", status=DONE)
    assert not _record_lost(tmp_path, ["a"])  # Snakemake has not tried them all
    (tmp_path / "status" / "lost").touch()
    assert _record_lost(tmp_path, ["a"])
    verdict = read_verdict(tmp_path, ["a"])
    assert "qc: its job ended without a record" in verdict.failed["a"]
    with _stale_records_removed(tmp_path, ["a"], failed=False, restore=False):
        assert read_verdict(tmp_path, ["a"]).unknown == ["a"]
    assert read_record(tmp_path / "status" / "segment" / "a.json")["status"] == DONE


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("restore", [False, True])
def test_records_of_what_must_run_again_are_removed(tmp_path, failed, restore):
    put_record(tmp_path, "export", "a", status=DONE, products=["gone.json"])
    put_record(tmp_path, "qc", "a", status=DONE, products=[])
    put_record(tmp_path, "report", "a", status=FAILED, cause="c")
    (tmp_path / "status" / "segment").mkdir()
    (tmp_path / "status" / "segment" / "a.json").write_text("an older version's")

    def there():
        return [s for s in STAGES if (tmp_path / "status" / s / "a.json").exists()]

    with _stale_records_removed(tmp_path, ["a"], failed=failed, restore=restore):
        kept = there()
        assert kept == (["qc"] if failed else ["qc", "report"])
    assert there() == (["qc", "segment", "export", "report"] if restore else kept)


@pytest.mark.parametrize(
    ("verdict", "dry_run", "text"),
    [
        (Verdict(0, {}, ["a"]), True, "dry run, nothing was started: 0 slides are done, 0 failed, "
         "1 is not finished"),
        (Verdict(2, {"x": "c"}, ["a", "b"]), True, "dry run, nothing was started: 2 slides are "
         "done, 1 failed, 2 are not finished"),
        (Verdict(1, {}, []), True, "dry run, nothing was started: 1 slide is done, 0 failed"),
        (Verdict(1, {}, []), False, "1 slide is done, 0 failed; tables and reports: out"),
        (Verdict(0, {}, ["a"]), False, "0 slides are done, 0 failed, 1 is not finished; "
         "tables and reports: out"),
    ],
)  # fmt: skip
def test_the_last_line_counts_with_right_plurals(verdict, dry_run, text, tmp_path, monkeypatch):
    assert WorkflowResult(0, verdict, dry_run).text(tmp_path.relative_to(tmp_path) / "out") == text


def test_the_workflow_s_modules_need_nothing_that_only_unix_has(tmp_path):
    code = (
        "import os, sys, numpy, psutil\n"  # their Linux builds need them
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "for name in ('killpg', 'pread', 'pwrite', 'uname', 'sched_getaffinity'):\n"
        "    delattr(os, name)\n"
        "from pathlib import Path\n"
        "from wsi_pipeline.batch import job, plan, run_many, slide_sheet, snakemake\n"
        "from wsi_pipeline.batch.output_lock import hold_output\n"
        "from wsi_pipeline.core.errors import OutputError\n"
        "with hold_output(Path('out')) as holder:\n"
        "    holder.started(os.getpid())\n"
        "    try:\n"
        "        with hold_output(Path('out')):\n"
        "            pass\n"
        "    except OutputError:\n"
        "        print('refused')\n"
        "with hold_output(Path('out')):\n"
        "    print('free')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == ["refused", "free"], ended.stderr
