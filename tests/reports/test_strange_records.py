"""Records of a run that were edited by hand, or by a stranger: one line, or the right table."""

import json

import pytest
from run_folders import change_run

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.json_files import mismatch
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import read_run
from wsi_pipeline.reports.cohort import gather, write_cohort
from wsi_pipeline.reports.slide_report import write_report
from wsi_pipeline.reports.slide_summary import write_features

STRANGE = ["x", -1, 2**64, 1e400, True, None, [], {}, [[1]], {"a": [{}]}]


def test_a_run_json_whose_entries_are_of_another_kind_is_refused(folder):
    whole = read_run(folder)
    assert not mismatch(whole, RunRecord)
    for name, old in whole.items():
        parts = [{name: value} for value in STRANGE]
        if isinstance(old, dict):
            parts += [{name: {**old, key: value}} for key in old for value in STRANGE]
        for part in parts:
            if mismatch({**whole, **part}, RunRecord):
                change_run(folder, **part)
                with pytest.raises(DataError, match=r"run\.json") as error:
                    read_run(folder)
                assert str(error.value).isprintable()
        (folder / "run.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("value", [2**63, -(2**64), -1, 10**400, 1e400, -1e400, "\ud800", True])
@pytest.mark.parametrize("name", ["nuclei", "seconds", "cause", "slide"])
def test_a_summary_holds_what_a_table_can_hold(name, value, tmp_path):
    path = tmp_path / "a.summary.json"
    path.write_text(json.dumps({"slide": "a", "status": "done", name: value}))
    with pytest.raises(DataError, match=r"a\.summary\.json"):
        write_cohort(tmp_path / "out", [path])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["regions", "foreground_share", "mpp_source", "adequacy_by",
                                  "adequacy_count", "adequacy_least"])  # fmt: skip
def test_a_summary_without_a_column_of_its_run_is_not_used(folder, name, tmp_path):
    write_features(folder)
    whole = write_report(folder, tmp_path / "whole.html").read_bytes()
    (path,) = folder.glob("*.summary.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: None}))
    assert write_report(folder, tmp_path / "a.html").read_bytes() == whole
    with pytest.raises(DataError, match=f"summary.json has no {name}; write it again"):
        write_report(folder, tmp_path / "b.html", summaries=[path])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"slide":' * 100_000, "", "\0", "null", "7"])
def test_a_summary_nested_without_end_or_of_another_shape_is_refused(text, tmp_path):
    path = tmp_path / "a.failed.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.failed\.json"):
        gather([tmp_path])
