"""Laws of slides that the system or a library refuses: one line with its name, and no more."""

import os
import threading

import pytest

from wsi_pipeline import pipeline
from wsi_pipeline.batch import run_many, slide_folder
from wsi_pipeline.batch.run_many import check_slides
from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import (
    SlideFormatError,
    SlideTimeoutError,
    UsageError,
    WsisegError,
)
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.runs import work_plan
from wsi_pipeline.slides import open_reader
from wsi_pipeline.slides.dicom_series import series_of
from wsi_pipeline.slides.slide import open_slide

LONG = f"{'a' * 300}.svs"
IN_A_LONG_FOLDER = f"{'b' * 300}/c.svs"


def link_to_itself(folder):
    (folder / "loop.svs").symlink_to("loop.svs")
    return "loop.svs"


def sheet_of(folder, *names):
    sheet = folder / "sheet.csv"
    sheet.write_bytes("\n".join(["slide", *map(str, names)]).encode())
    return sheet


def test_names_that_cannot_be_cost_themselves_alone(tmp_path, monkeypatch, capfd):
    real, done = pipeline.run_slide, pipeline.RunResult(tmp_path, 0, (), {})

    def run_slide(slide, *given, **options):
        return done if slide.path.name == "a.svs" else real(slide, *given, **options)

    monkeypatch.setattr(pipeline, "run_slide", run_slide)
    (tmp_path / "a.svs").touch()
    bad = [LONG, IN_A_LONG_FOLDER, "nul\0.svs", "d\0/e.svs", link_to_itself(tmp_path)]
    slides = find_slides([str(sheet_of(tmp_path, *bad, "a.svs"))])
    outcomes = run_many.run_slides(slides, RunConfig(out=tmp_path / "out", quiet=True))
    assert [one.failed for one in outcomes] == [True] * 5 + [False]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 5
    for line, name in zip(lines, ("aaa", "bbb", r"nul\x00", r"d\x00/e.svs", "loop"), strict=True):
        assert line.startswith("wsiseg: ") and name in line and "report" not in line
    assert all(one.name.isprintable() for one in outcomes)


def test_a_region_file_that_cannot_be_is_refused_with_its_name(tmp_path):
    (tmp_path / "a.svs").touch()
    for roi in ("r\0.geojson", LONG):
        sheet = tmp_path / "roi.csv"
        sheet.write_bytes(f"slide,roi\na.svs,{roi}\n".encode())
        with pytest.raises(UsageError, match=r"(r\\x00.geojson'|aaa.svs) does not exist") as error:
            find_slides([str(sheet)])
        assert str(error.value).isprintable()


def test_a_sheet_of_other_bytes_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"slide\na.svs\n" * 20 + bytes(range(32)))
    with pytest.raises(UsageError, match="no text; save it as CSV"):
        find_slides([str(tmp_path / "a.csv")])


def test_what_cannot_be_read_in_a_folder_is_left_out(tmp_path, monkeypatch, caplog):
    (tmp_path / "a.svs").touch()
    (tmp_path / "closed").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.dcm")
        assert series_of(tmp_path / "pipe.dcm") == b""
        (tmp_path / "pipe.dcm").unlink()
    listed = os.listdir

    def refuse(folder):
        if folder == tmp_path / "closed":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(slide_folder.os, "listdir", refuse)
    found = find_slides([str(tmp_path)], recursive=True)
    assert [slide.path.name for slide in found] == ["a.svs"]
    assert "closed (cannot be read: Permission denied)" in caplog.text


def test_a_property_whose_name_is_no_utf_8_is_left_out(made, tmp_path):
    path = tmp_path / "key.svs"
    content = (made / "a.svs").read_bytes()
    assert content.count(b"|AppMag =") == 1
    path.write_bytes(content.replace(b"|AppMag =", b"|\xe9ppMag ="))
    with open_slide(path) as slide:
        assert slide.vendor == "aperio" and slide.require_mpp().value == 0.5


@pytest.mark.parametrize(
    "error",
    [KeyError(), ValueError("a\nb"), ZeroDivisionError(), RecursionError(), OSError(5, "x")],
)
def test_whatever_a_header_makes_a_reader_raise_is_one_line_with_the_name(
    tmp_path, monkeypatch, error
):
    class Broken:
        name = "broken"

        def __init__(self, *given):
            raise error

    (tmp_path / "a.svs").write_text("not empty")
    monkeypatch.setattr(open_reader, "READERS", (Broken,))
    with pytest.raises(SlideFormatError, match=r"a\.svs is damaged or not supported") as raised:
        open_slide(tmp_path / "a.svs")
    assert type(error).__name__ in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_region_file_that_never_answers_ends_in_time(tmp_path, slide_path):
    """A drive that hangs is the same as a pipe that nobody writes to."""
    pipe = tmp_path / "roi.geojson"
    os.mkfifo(pipe)
    config = RunConfig(out=tmp_path / "out", quiet=True, read_timeout_s=0.3)
    with pytest.raises(WsisegError, match=r"roi\.geojson"):
        check_slides([SlideRequest(slide_path, roi=pipe)], config)


def test_a_region_file_on_a_drive_that_hangs_ends_in_time(tmp_path, slide_path, monkeypatch):
    file, answered = tmp_path / "roi.geojson", threading.Event()
    file.touch()
    monkeypatch.setattr(work_plan, "read_regions", lambda *_, **__: answered.wait(20))
    config = RunConfig(out=tmp_path / "out", quiet=True, read_timeout_s=0.1)
    with pytest.raises(SlideTimeoutError, match=r"no answer from roi\.geojson within 0\.1 s"):
        check_slides([SlideRequest(slide_path, roi=file)], config)
    answered.set()
