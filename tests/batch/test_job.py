"""Laws of one job: however its command ends, there is a record or the job is tried again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import blank_run

from wsi_pipeline.batch.job import DONE, FAILED, INCOMPLETE, read_record, run_job
from wsi_pipeline.batch.plan import read_verdict
from wsi_pipeline.core.records import SCHEMA_VERSION

FAILS = "import sys; print('words'); print('wsiseg: no pixels', file=sys.stderr); sys.exit(1)"


@pytest.fixture(autouse=True)
def _signals_as_before():
    import signal

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def job(folder, code, *options, slide="a", stage="segment"):
    """Exit code of one job whose command is Python code, and its record."""
    record = folder / "status" / stage / f"{slide}.json"
    args = [
        "--record", record, "--slide", slide, "--log", folder / f"{slide}.log", *options,
        "--", sys.executable, "-S", "-c", code,
    ]  # fmt: skip
    result = CliRunner().invoke(run_job, [str(a) for a in args])
    return result.exit_code, read_record(record)


def test_a_job_is_recorded_when_it_has_no_tries_left(tmp_path):
    assert job(tmp_path, FAILS, "--tries-left", 1) == (1, None)
    code, record = job(tmp_path, FAILS)
    assert code == 0
    assert record == {
        "schema_version": SCHEMA_VERSION, "slide": "a", "stage": "segment", "key": "",
        "status": FAILED, "cause": "no pixels",
    }  # fmt: skip
    assert (tmp_path / "a.log").read_text().count("words") == 2
    _, usage = job(tmp_path, "import sys; sys.exit(2)", "--tries-left", 1, slide="b")
    assert usage["status"] == FAILED
    assert job(tmp_path, "import sys; sys.exit(130)", slide="c") == (130, None)
    killed = job(tmp_path, "import os; os.kill(os.getpid(), 9)", slide="d")[1]
    assert "SIGKILL" in killed["cause"] and "memory" in killed["cause"]


def test_a_job_is_a_program(tmp_path, run_command):
    record = tmp_path / "a.json"
    command = [sys.executable, "-m", "wsi_pipeline.batch.job", "--record", record, "--slide", "a"]
    ended = run_command(*command, "--log", tmp_path / "log", "--", sys.executable, "-c", "pass")
    assert ended.returncode == 0, ended.stdout
    assert read_record(record)["status"] == DONE


def test_a_record_of_another_version_does_not_count(tmp_path):
    for text in ('{"status": "done"}', '{"schema_version": 0, "status": "done"}', "[]", "{"):
        (tmp_path / "a.json").write_text(text)
        assert read_record(tmp_path / "a.json") is None


def test_what_follows_a_failure_passes_it_on(tmp_path):
    _, failed = job(tmp_path, FAILS)
    before = tmp_path / "status" / "segment" / "a.json"
    (tmp_path / "a.log").unlink()
    assert job(tmp_path, "pass", "--after", before, stage="features") == (0, failed)
    assert not (tmp_path / "a.log").exists()


def test_regions_that_failed_leave_a_slide_incomplete(tmp_path):
    folder = tmp_path / "runs" / "a" / "dssnet"
    failure = {"region": 0, "level0_box": [0, 0, 1, 1], "cause": "no pixels"}
    run = blank_run("a", failed_regions=[failure])
    write = f"import sys,pathlib; p=pathlib.Path({str(folder)!r}); p.mkdir(exist_ok=True)\n"
    write += f"(p/'run.json').write_text({json.dumps(run)!r})\n" + FAILS
    code, record = job(tmp_path, write, "--run-folder", folder, "--key", "k")
    assert (code, record["status"], record["cause"]) == (0, INCOMPLETE, "no pixels")
    verdict = read_verdict(tmp_path, ["a"])
    assert (verdict.done, verdict.failed) == (0, {"a": "no pixels"})


def test_a_run_folder_is_kept_for_the_same_key_only(tmp_path):
    folder = tmp_path / "runs" / "a" / "dssnet"
    part, note, other = folder / "parts" / "000001.npz", folder / "notes.txt", folder / "run.json"
    for key, kept in (("one", False), ("one", True), ("two", False)):
        part.parent.mkdir(parents=True, exist_ok=True)
        for path in (part, note, other):
            path.write_text("{}")
        job(tmp_path, "pass", "--run-folder", folder, "--key", key)
        assert (part.exists(), other.exists(), note.exists()) == (kept, kept, True)


def test_an_answer_is_there_when_it_is_whole(tmp_path):
    answer = tmp_path / "qc" / "a.json"
    job(tmp_path, "print('half'); import sys; sys.exit(1)", "--stdout", answer)
    assert not any(answer.parent.iterdir())
    job(tmp_path, "print('whole')", "--stdout", answer)
    assert answer.read_text() == "whole\n"


def test_a_job_writes_the_sheet_of_its_slide(tmp_path):
    sheet, row = tmp_path / "sheets" / "a.csv", {"slide": "/x/a b.svs", "mpp": 0.4, "roi": None}
    code = f"import sys; sys.exit('0.4' not in open({str(sheet)!r}).read())"
    assert job(tmp_path, code, "--sheet", sheet, "--row", json.dumps(row))[1]["status"] == DONE
    assert sheet.read_text() == "slide,mpp,model,roi\n/x/a b.svs,0.4,,\n"
    assert Path(sheet).parent.is_dir()
