"""Laws of `wsiseg report`: one page by itself, for one run or several."""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from run_folders import Page, change_run

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.errors import DataError
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.reports.cohort import gather
from wsi_pipeline.reports.slide_report import write_report
from wsi_pipeline.reports.slide_summary import write_features


def test_the_report_is_one_page_by_itself(folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    failed = [{"region": 7, "level0_box": [1, 2, 3, 4], "cause": "<script>alert(1)</script>"}]
    change_run(folder, slide=run["slide"] | {"id": "<b>&x"}, failed_regions=failed)
    text = write_report(folder, tmp_path / "r.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "<b>&x" in page.text
    assert page.tags.count("svg") == 1
    (picture,) = page.links
    head, code = picture.split(",")
    assert head == "data:image/jpeg;base64"
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
    drawn = cv2.imread(str(folder / "overlay.png"))
    assert shown.shape == drawn.shape
    assert np.abs(shown.astype(int) - drawn).mean() < 5
    bars = [int(t.split(": ")[1].split("<")[0]) for t in text.split("<title>")[2:]]
    assert sum(bars) == len(read_parquet(folder / "objects.parquet"))
    assert write_report(folder, tmp_path / "again.html").read_text() == text


def test_a_summary_of_another_slide_is_refused(run_folder, folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, slide=run["slide"] | {"id": "other"})
    _, summary = write_features(folder, tmp_path)
    with pytest.raises(DataError, match=r"about slide 'other', not 'crowded'"):
        write_report(run_folder, tmp_path / "r.html", summaries=[summary])
    change_run(folder, slide=run["slide"], model=run["model"] | {"name": "m"})
    _, summary = write_features(folder, tmp_path)
    with pytest.raises(DataError, match=r"about model 'm', and .* has runs of darkness"):
        write_report(run_folder, tmp_path / "r.html", summaries=[summary])


def test_a_report_shows_every_model_of_a_slide(slide_folder, tmp_path):
    text = write_report(slide_folder, tmp_path / "r.html").read_text()
    page = Page(text)
    assert len(page.links) == 2  # pictures
    assert page.tags.count("svg") == page.tags.count("h3") // 3 == 2
    head = text[text.index("<th>measure") :].split("</tr>")[0]
    assert "<th>measure</th><th>darkness</th><th>other</th>" in head
    alone = write_report(slide_folder / "other", tmp_path / "one.html").read_text()
    assert "<th>measure</th><th>value</th>" in alone
    assert len(Page(alone).links) == 1


def test_a_report_takes_the_focus_from_the_tables_in_the_run_folder(slide_folder, tmp_path):
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"slide": "crowded", "focus": {"score": 0.8125, "fields": 3}}))
    write_features(slide_folder / "darkness", qc=info)
    text = write_report(slide_folder, tmp_path / "r.html").read_text()
    (row,) = [line for line in text.splitlines() if "focus: 1 sharp" in line]
    assert [cell in row for cell in (">0.8125<", ">–<")] == [True, True]
    change_run(slide_folder / "darkness", seconds=2.5)  # a newer run: its tables are old
    assert "focus" not in write_report(slide_folder, tmp_path / "r.html").read_text()


def test_the_commands_work_together(slide_path, run_folder, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(cli, [str(a) for a in arguments])

    info = tmp_path / "info.json"
    shown = call("info", slide_path, "--json")
    assert shown.exit_code == 0, shown.output
    info.write_text(shown.stdout)
    focus = json.loads(shown.stdout)["focus"]
    assert call("features", run_folder, "--out", tmp_path, "--qc", info).exit_code == 0
    summary = tmp_path / "crowded.darkness.summary.json"
    row = json.loads(summary.read_text())
    assert [row[f"focus_{k}"] for k in ("score", "blurred_share", "fields")] == [
        focus["score"], focus["blurred_share"], focus["fields"]
    ]  # fmt: skip
    page = tmp_path / "report.html"
    assert call("report", run_folder, "--out", page, "--summary", summary).exit_code == 0
    assert f"{focus['score']:.4g}" in page.read_text()
    assert call("cohort", tmp_path).output.endswith("1 slide, 0 failed\n")
    assert gather([tmp_path]) == [row]
    assert call("features", tmp_path).exit_code == 2
    (tmp_path / "none").mkdir()
    refused = call("cohort", tmp_path / "none")
    assert refused.exit_code == 2
    assert "has no slide" in refused.output
