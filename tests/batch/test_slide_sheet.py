"""Laws of the words that name slides: files, folders, globs and slide sheets name the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.batch.slide_sheet import find_slides, sheet_row, sheet_text
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.request import SlideRequest


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_files_folders_globs_and_sheets_name_the_same(tmp_path):
    touch(tmp_path, "b.SVS", "a.ndpi", "c.txt", "sub/d.tif")
    (tmp_path / "s.csv").write_text("\ufeffslide,mpp\na.ndpi,\nb.SVS,\n")
    both = [SlideRequest(tmp_path / "a.ndpi"), SlideRequest(tmp_path / "b.SVS")]
    everything = [*both, SlideRequest(tmp_path / "sub" / "d.tif")]
    names = [str(slide.path) for slide in both]
    assert find_slides(names) == find_slides([str(tmp_path / "[ab].*")]) == both
    assert find_slides([str(tmp_path)]) == find_slides([str(tmp_path / "*.csv")]) == both
    assert find_slides([str(tmp_path), *names, str(tmp_path / "*.ndpi")]) == both
    assert find_slides([str(tmp_path)], recursive=True) == everything
    assert find_slides([str(tmp_path / "**" / "*.tif")]) == everything[2:]


def test_brackets_in_a_name_are_no_glob(tmp_path):
    touch(tmp_path, "a[1].svs")
    assert find_slides([str(tmp_path / "a[1].svs")]) == [SlideRequest(tmp_path / "a[1].svs")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.svs,0.25,,\na.svs,0.5,,", "twice with different mpp"),
        ("a.svs,0.25,dssnet,\na.svs,,donet,", "twice with different mpp"),
        ("a.svs,,dssnet,r\na.svs,,dssnet,", "twice with different roi"),
        ("a.svs,,dssnet,\na.svs,,,", "twice with different model, once without one"),
    ],
)
def test_a_slide_has_one_of_each_setting(rows, words, tmp_path):
    touch(tmp_path, "a.svs", "r")
    (tmp_path / "s.csv").write_text(f"slide,mpp,model,roi\n{rows}\n")
    with pytest.raises(UsageError, match=words):
        find_slides([str(tmp_path / "s.csv")])


def test_a_slide_may_have_several_models(tmp_path):
    touch(tmp_path, "a.svs")
    rows = "slide,model,mpp\na.svs,dssnet,0.5\na.svs,donet,0.5\na.svs,donet,0.5\n"
    (tmp_path / "s.csv").write_text(rows)
    found = find_slides([str(tmp_path / "s.csv")])
    assert [(r.path.name, r.model, r.mpp_source) for r in found] == [
        ("a.svs", "dssnet", "slide sheet"), ("a.svs", "donet", "slide sheet")
    ]  # fmt: skip


def test_everything_that_does_not_exist_is_named(tmp_path):
    touch(tmp_path, "a.svs")
    (tmp_path / "s.csv").write_text("slide,roi\na.svs,no.geojson\nlost.tif,\n")
    names = ["b.svs", "*.ndpi", "no.csv", "s.csv", "a.svs"]
    with pytest.raises(UsageError) as refusal:
        find_slides([str(tmp_path / name) for name in names])
    for words in ("b.svs", "no.csv", "no.geojson", "lost.tif", "do not exist", "matches", "*.ndpi"):
        assert words in str(refusal.value)
    assert "a.svs" not in str(refusal.value)
    with pytest.raises(UsageError, match=r"no\.csv does not exist; no file matches '.*\*\.ndpi'"):
        find_slides([str(tmp_path / name) for name in names], missing_ok=True)
    kept = find_slides([str(tmp_path / name) for name in names[::3]], missing_ok=True)
    assert [r.path.name for r in kept] == ["b.svs", "a.svs", "lost.tif"]


def test_a_sheet_that_is_written_reads_the_same(tmp_path):
    slides = [
        SlideRequest(tmp_path / "a, b.svs"),
        SlideRequest(tmp_path / "c.svs", 0.25, "slide sheet", "donet", tmp_path / 'r "1".geojson'),
    ]
    touch(tmp_path, "a, b.svs", "c.svs", 'r "1".geojson')
    (tmp_path / "s.csv").write_text(sheet_text(map(sheet_row, slides)))
    assert find_slides([str(tmp_path / "s.csv")]) == slides
    assert Path(sheet_row(SlideRequest(Path("a.svs")))["slide"]).is_absolute()
