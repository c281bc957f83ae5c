"""Which slides are meant by files, folders, globs and slide sheets."""

from __future__ import annotations

import pytest

from wsi_pipeline.batch.slide_sheet import SLIDE_SUFFIXES, find_slides
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.request import SlideRequest


def test_files_folders_globs_and_sheets_name_the_same(tmp_path):
    for name in ("b.SVS", "a.ndpi", "c.txt", "sub/d.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "s.csv").write_text("\ufeffslide,mpp\na.ndpi,\nb.SVS,\n")
    both = [SlideRequest(tmp_path / "a.ndpi"), SlideRequest(tmp_path / "b.SVS")]
    everything = [*both, SlideRequest(tmp_path / "sub" / "d.tif")]
    names = [str(slide.path) for slide in both]
    assert find_slides(names) == find_slides([str(tmp_path / "[ab].*")]) == both
    assert find_slides([str(tmp_path)]) == find_slides([str(tmp_path / "s.csv")]) == both
    assert find_slides([str(tmp_path), *names, str(tmp_path / "*.ndpi")]) == both
    assert find_slides([str(tmp_path)], recursive=True) == everything
    assert find_slides([str(tmp_path / "**" / "*.tif")]) == everything[2:]


def test_brackets_in_a_name_are_no_glob(tmp_path):
    (tmp_path / "a[1].svs").touch()
    assert find_slides([str(tmp_path / "a[1].svs")]) == [SlideRequest(tmp_path / "a[1].svs")]


def test_a_slide_has_one_pixel_size(tmp_path):
    (tmp_path / "s.csv").write_text("slide,mpp\na.svs,0.25\na.svs,0.5\n")
    with pytest.raises(UsageError, match="twice with different mpp"):
        find_slides([str(tmp_path / "s.csv")])


def test_suffixes_are_what_a_folder_is_searched_for():
    assert list(SLIDE_SUFFIXES) == sorted(SLIDE_SUFFIXES)
    assert {".svs", ".ndpi", ".mrxs", ".tif"} <= set(SLIDE_SUFFIXES)
