"""Laws of `wsiseg cohort`: one row per slide and model, none twice, none made up."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from urllib.parse import unquote

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from run_folders import Page, change_run

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.reports.cohort import SCHEMA, gather, write_cohort
from wsi_pipeline.reports.drift import judge
from wsi_pipeline.reports.object_table import plain_text
from wsi_pipeline.reports.robust import centre_and_spread
from wsi_pipeline.reports.slide_summary import COLUMNS, failed_row, write_features


def test_a_cohort_has_a_row_for_every_slide(run_folder, folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, slide=run["slide"] | {"id": "other"})
    assert run["model"]["name"] == "darkness"
    failed = tmp_path / "bad.failed.json"
    failed.write_text('{"slide": "bad.svs", "status": "failed", "cause": "=1+1 ends too early"}')
    unfinished = tmp_path / "unfinished" / "dssnet"
    unfinished.mkdir(parents=True)
    (unfinished / "plan.json").write_text("{}")
    _, summary = write_features(folder, tmp_path / "features")
    sources = [run_folder, summary, failed, unfinished]
    rows = write_cohort(tmp_path / "a", sources)
    random.Random(1).shuffle(sources)
    assert write_cohort(tmp_path / "b", sources) == rows
    for name in ("cohort.parquet", "cohort.csv", "cohort.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [r["slide"] for r in rows] == ["bad.svs", "crowded", "other", "unfinished"]
    assert [r["status"] for r in rows] == ["failed", "done", "done", "failed"]
    assert rows[0] == failed_row("bad.svs", "=1+1 ends too early")
    table = pq.read_table(tmp_path / "a" / "cohort.parquet")
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == rows
    flat = pyarrow.csv.read_csv(tmp_path / "a" / "cohort.csv")
    assert flat.column_names == list(COLUMNS)
    assert flat["nuclei"].to_pylist() == table["nuclei"].to_pylist()
    assert flat["cause"][0].as_py() == "'=1+1 ends too early"
    assert rows[3]["model"] == "dssnet"
    page = Page((tmp_path / "a" / "cohort.html").read_text())
    assert page.tags.count("tr") == (1 + 2) + (1 + 2)  # failures and slides, each with a head
    (thumbnail,) = page.links  # of the run folder; the row of the file has none
    assert thumbnail.startswith("data:image/jpeg;base64,")


def test_a_cohort_has_a_row_for_every_model_of_a_slide(slide_folder, tmp_path):
    rows = write_cohort(tmp_path / "out", [slide_folder])
    assert [(r["slide"], r["model"]) for r in rows] == [
        ("crowded", "darkness"), ("crowded", "other")
    ]  # fmt: skip
    assert "Cohort of 1 slide, 2 runs" in (tmp_path / "out" / "cohort.html").read_text()
    for source in (slide_folder.parent, slide_folder / "*", f"{slide_folder}/[do]*"):
        assert gather([source]) == rows
    assert gather([slide_folder / "oth?r"]) == rows[1:]
    failed = tmp_path / "crowded.failed.json"
    failed.write_text('{"slide": "crowded", "status": "failed", "cause": "c"}')
    with pytest.raises(UsageError, match=r"both slide 'crowded'; leave one out"):
        gather([slide_folder, failed])  # a failure of which model?


def test_sources_that_do_not_exist_are_all_named(slide_folder, tmp_path):
    names = [slide_folder, tmp_path / "no.json", tmp_path / "no", tmp_path / "*.nothing"]
    with pytest.raises(UsageError) as refusal:
        write_cohort(tmp_path / "out", names)
    for words in ("no.json, ", "no do not exist", "no file matches", "*.nothing"):
        assert words in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_the_cohort_s_page_leads_to_reports_beside_it_and_nowhere_else(tmp_path):
    (tmp_path / "reports").mkdir()
    ids = ["a b#?&<i>", "without", "../outside"]
    for number, slide in enumerate(ids):
        row = {"slide": slide, "status": "done"}
        (tmp_path / f"{number}.summary.json").write_text(json.dumps(row))
    for name in (ids[0], ids[2]):
        (tmp_path / "reports" / f"{name}.html").touch()
    write_cohort(tmp_path)
    page = Page((tmp_path / "cohort.html").read_text())
    assert [unquote(link) for link in page.links] == [f"reports/{ids[0]}.html"]
    assert not {"?", "#", "<"} & set(page.links[0])


def test_dtypes_do_not_depend_on_the_rows(tmp_path):
    failed = tmp_path / "x.failed.json"
    failed.write_text('{"slide": "x", "status": "failed", "cause": "c"}')
    write_cohort(tmp_path, [failed])
    assert pq.read_table(tmp_path / "cohort.parquet").schema.equals(SCHEMA)


def test_a_summary_counts_only_for_its_own_run(folder):
    info = folder.parent / "info.json"
    info.write_text(json.dumps({"slide": "crowded", "focus": {"score": 0.9, "fields": 3}}))
    write_features(folder, qc=info)
    assert gather([folder.parent])[0]["focus_score"] == 0.9
    change_run(folder, seconds=1.5)
    row = gather([folder])[0]
    assert (row["focus_score"], row["seconds"]) == (None, 1.5)


def test_nothing_is_counted_twice_or_made_up(run_folder, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"empty has no slide.*wsiseg run"):
        write_cohort(empty)
    with pytest.raises(UsageError, match=r"both slide 'crowded' with model 'darkness'"):
        gather([run_folder, folder])
    assert gather([folder, folder.parent]) == gather([folder])
    for text, said in (
        ("[]", "names no slide"),
        ('{"slide": "x", "status": "lost"}', "none of done"),
        ('{"slide": "x", "status": "done", "nuclei": "7"}', "nuclei '7' is no count"),
        ('{"slide": "x", "status": "done", "nucleii": 7}', "unknown entry 'nucleii'"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=said):
            gather([tmp_path / "bad.json"])


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
@pytest.mark.parametrize(
    "before", ["", " ", "  ", "\u00a0", "\u3000", "\u2003", "\ufeff", "\u200b"]
)
def test_a_formula_behind_blanks_or_in_full_width_is_text_in_csv(before, sign):
    assert plain_text(f"{before}{sign}1+1") == f"'{before}{sign}1+1"
    assert plain_text(f"{before}a{sign}1") == f"{before}a{sign}1"


@pytest.mark.parametrize("line_break", ["\n", "\r", "\t", " \n"])
def test_a_cell_does_not_begin_with_a_line_break(line_break):
    assert plain_text(f"{line_break}=1") == f"'{line_break}=1"


def cohort_of(folder, values, *, model="m", column="nucleus_area_um2_median", **entries):
    """Write a row for each value into `folder`; return the page of their cohort."""
    folder.mkdir(exist_ok=True)
    for k, value in enumerate(values):
        row = {"slide": f"s{k:03}", "status": "done", "model": model, column: value, **entries}
        (folder / f"{k}.summary.json").write_text(json.dumps(row))
    write_cohort(folder)
    return (folder / "cohort.html").read_text()


@pytest.mark.parametrize("n", [1, 2, 500])
def test_a_cohort_of_any_size_has_every_slide_and_number(n, tmp_path):
    text = cohort_of(tmp_path / "c", [40 + (k * 7 % 11) / 10 for k in range(n)])
    page = Page(text)
    assert re.findall(r'<th scope="row">(s\d+)</th>', text) == [f"s{k:03}" for k in range(n)]
    assert len(re.findall(r'data-n="4[01].\d', text)) == n
    assert page.tags.count("circle") == (n if n > 12 else 0)
    assert "no outlier" in text


def test_outliers_are_marked_within_their_model(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.normal(40, 1, 30)
    values[7] = 60
    text = cohort_of(tmp_path / "c", values.tolist())
    centre, spread = centre_and_spread(values)
    expected = [
        (f"s{k:03}", f"{z:+.1f}") for k, z in enumerate((values - centre) / spread) if abs(z) > 3.5
    ]
    assert "s007" in dict(expected)
    listed = re.findall(r"<strong>(s\d+)</strong> \(m\): median nucleus, [^<]*z = ([^<]+)<", text)
    assert listed == expected
    assert text.count('class="number outlier"') == len(expected)
    few = cohort_of(tmp_path / "f", [40, 41, 42, 43, 99])
    assert "outlier, z" not in few


def test_a_drift_is_noticed_and_a_steady_laboratory_is_not():
    rng = np.random.default_rng(4)
    steady = rng.normal(40, 2, 40)
    slow = np.concatenate([steady, 40 + np.linspace(1, 8, 20) + rng.normal(0, 0.5, 20)])
    assert judge(slow).drifting[-20:].any()
    assert judge(steady).outside.sum() <= 1 and judge(steady).drifting.sum() == 0
    assert not judge(np.full(40, 3.0)).outside.any() and not judge(np.full(40, 3.0)).drifting.any()
    odd = steady.copy()
    odd[30] = 80
    assert judge(odd).outside[30]
    np.testing.assert_array_equal(judge(odd).centre[:31], judge(steady).centre[:31])


def test_dates_decide_the_order_of_the_charts(tmp_path):
    folder = tmp_path / "c"
    cohort_of(folder, [40 + k for k in range(16)])
    dates = tmp_path / "dates.csv"
    dates.write_text("slide,date\n" + "".join(f"s{k:03},2026-01-{28 - k}\n" for k in range(15)))
    write_cohort(folder, dates=dates)
    text = (folder / "cohort.html").read_text()
    order = re.findall(r"<circle[^>]*><title>(s\d+) \((\S+)\)", text)
    assert order == [(f"s{k:03}", f"2026-01-{28 - k}") for k in reversed(range(15))]
    assert "1 without a date is left out" in text
    for bad in ("slide,when\na,b\n", "slide,date\ns001,31.12.2026\n"):
        dates.write_text(bad)
        with pytest.raises(DataError, match=r"dates.csv has no dates.*2026-03-31"):
            write_cohort(folder, dates=dates)


def test_the_only_script_is_the_one_that_the_page_allows(tmp_path):
    text = cohort_of(tmp_path / "c", [40], cause="</script><script>alert(1)</script>")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


@pytest.mark.slow
def test_a_click_on_a_heading_sorts(browser, tmp_path):
    cohort_of(tmp_path / "c", [41, 39.5, 100, 40])
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto((tmp_path / "c" / "cohort.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    heading = page.get_by_role("button", name="median nucleus")
    order = []
    for _ in range(2):
        heading.click()
        order.append(page.locator("table.sortable tbody th").all_inner_texts())
    assert order == [["s001", "s003", "s000", "s002"], ["s002", "s000", "s003", "s001"]]
