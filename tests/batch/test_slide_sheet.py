"""Laws of the words that name slides: files, folders, globs and slide sheets name the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.batch.slide_sheet import find_slides, sheet_row, sheet_text
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.slides.dicom_series import files_of_slide


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
    (tmp_path / "s.csv").write_text("slide,roi\nlost.tif,no.geojson\n")
    names = ["b.svs", "*.ndpi", "no.csv", "s.csv", "a.svs"]
    with pytest.raises(UsageError) as refusal:
        find_slides([str(tmp_path / name) for name in names])
    for words in ("b.svs", "no.csv", "no.geojson", "lost.tif", "do not exist", "matches", "*.ndpi"):
        assert words in str(refusal.value)
    assert "a.svs" not in str(refusal.value)
    with pytest.raises(UsageError, match=r"no\.csv does not exist; no file matches '.*\*\.ndpi'"):
        find_slides([str(tmp_path / name) for name in names], missing_ok=True)
    kept = find_slides([str(tmp_path / name) for name in names[::3]], missing_ok=True)
    assert [r.path.name for r in kept] == ["b.svs", "lost.tif"]


def test_a_slide_of_a_sheet_that_does_not_exist_costs_itself(tmp_path, caplog):
    touch(tmp_path, "a.svs")
    sheet = tmp_path / "s.csv"
    sheet.write_text("slide,roi\nlost.tif,\na.svs,\nlost.svs,\n")
    found = find_slides([str(sheet)])
    assert [r.path.name for r in found] == ["lost.tif", "a.svs", "lost.svs"]
    assert "2 of its 3 slides do not exist and will fail, the first" in caplog.text
    sheet.write_text("slide,roi\nlost.tif,\na.svs,no.geojson\n")
    with pytest.raises(UsageError, match=r"no\.geojson does not exist"):
        find_slides([str(sheet)])


def test_a_sheet_that_is_written_reads_the_same(tmp_path):
    slides = [
        SlideRequest(tmp_path / "a, b.svs"),
        SlideRequest(tmp_path / "c.svs", 0.25, "slide sheet", "donet", tmp_path / 'r "1".geojson'),
    ]
    touch(tmp_path, "a, b.svs", "c.svs", 'r "1".geojson')
    (tmp_path / "s.csv").write_text(sheet_text(map(sheet_row, slides)))
    assert find_slides([str(tmp_path / "s.csv")]) == slides
    assert Path(sheet_row(SlideRequest(Path("a.svs")))["slide"]).is_absolute()


ODD = {
    "semicolons": "slide;mpp;model\na.svs;0,25;dssnet\n",
    "tabs": "slide\tmpp\tmodel\na.svs\t0,25\tdssnet\n",
    "capitals": "SLIDE,Mpp,Model\na.svs,0.25,dssnet\n",
    "blanks": " slide ,\tmpp, model\u00a0\n a.svs , 0.25 ,dssnet \n",
    "quotes": '"slide","mpp","model"\n"a.svs","0,25","dssnet"\n',
    "stated for Excel": "sep=;\nslide;mpp;model\na.svs;0,25;dssnet\n",
    "another order": "model,slide,mpp\ndssnet,a.svs,0.25\n",
    "empty lines": "\nslide;mpp;model\n;;\na.svs;0.25;dssnet\n; ;\n\n",
    "ends of a Mac": "slide,mpp,model\ra.svs,0.25,dssnet\r",
    "ends of Windows": "slide,mpp,model\r\na.svs,0.25,dssnet\r\n",
    "empty cells at the end": "slide,mpp,model\na.svs,0.25,dssnet,,\n",
    "a semicolon in a quoted name": 'slide,mpp,model,"a;b;c;d;e"\na.svs,0.25,dssnet,x\n',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_sheets_in_use_are_read(tmp_path, text, encoding):
    touch(tmp_path, "a.svs")
    for name in ("s.csv", "s.TSV"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        (found,) = find_slides([str(tmp_path / name)])
        assert found == SlideRequest(tmp_path / "a.svs", 0.25, "slide sheet", "dssnet")


def test_names_in_sheets_of_windows(tmp_path):
    touch(tmp_path, "sub/bär.svs")
    for encoding in ("cp1252", "utf-8"):
        (tmp_path / "s.csv").write_bytes("slide\nsub\\bär.svs\n".encode(encoding))
        assert find_slides([str(tmp_path / "s.csv")]) == [SlideRequest(tmp_path / "sub/bär.svs")]


def test_further_columns_are_not_used_and_named(tmp_path, caplog):
    touch(tmp_path, "a.svs")
    (tmp_path / "s.csv").write_text("Patient;slide;;Date\nx;a.svs;;2020\n")
    assert find_slides([str(tmp_path / "s.csv")]) == [SlideRequest(tmp_path / "a.svs")]
    assert "not used: the columns patient, one without a name, date" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column 'slide'"),
        (b"image,mpp\na.svs,0.5\n", "no column 'slide'"),
        (b"slide,Slide\na.svs,b.svs\n", "the column 'slide' twice"),
        (b"slide;mpp\n;;\n", "names no slide"),
        (b"slide;mpp\na.svs;0,2,5\n", "line 2: mpp '0,2,5' is not a number"),
        (b"slide;mpp\n\na.svs;fine\n", "line 3: mpp 'fine' is not a number"),
        (b"slide;mpp\n;0.5\n", "line 2: no slide"),
        (b"slide,mpp\na.svs,0.5,x\n", "line 2: too many cells"),
        (b"PK\x03\x04" + bytes(range(256)), "no text; save it as CSV"),
    ],
)
def test_broken_sheets_are_refused(tmp_path, content, words):
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        find_slides([str(tmp_path / "s.csv")])


# --- folders


def dicom(series):
    uid = series.encode()
    return bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid


def names(requests):
    return [request.path.name for request in requests]


def test_everything_in_a_folder_is_taken_or_named(tmp_path, caplog):
    touch(
        tmp_path, "a.svs", "b.qptiff", "c.ome.tiff", "photo.JPG", "shot.png", "notes.txt",
        "._a.svs", ".DS_Store", "d.mrxs", "d/Data0001.dat", "e.vms", "e_macro.jpg", "e(1,0).jpg",
        "sub/x.svs", "z.ome.zarr/zarr.json", "done/run.json",
    )  # fmt: skip
    for name, series in (("1.dcm", "1.2.3"), ("2.dcm", "1.2.3"), ("3.dcm", "1.2.4")):
        (tmp_path / name).write_bytes(dicom(series))
    (tmp_path / "again.svs").symlink_to(tmp_path / "a.svs")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    taken = [
        "1.dcm", "3.dcm", "a.svs", "b.qptiff", "c.ome.tiff", "d.mrxs", "e.vms", "z.ome.zarr"
    ]  # fmt: skip
    assert names(find_slides([str(tmp_path)])) == taken
    for name, reason in (
        ("photo.JPG, shot.png", "a photograph; --images takes it"),
        ("notes.txt", "no slide"),
        ("again.svs", "the same file as a.svs"),
        ("gone.svs", "a link to nothing"),
        ("sub", "a folder; --recursive searches it"),
        ("done", "a finished run"),
        ("._a.svs", "written by macOS"),
    ):
        assert f"{name} ({reason})" in caplog.text
    for silent in ("DS_Store", "Data0001", "e_macro", "2.dcm"):
        assert silent not in caplog.text
    everything = names(find_slides([str(tmp_path)], images=True, recursive=True))
    assert sorted(everything) == sorted([*taken, "photo.JPG", "shot.png", "x.svs"])


def test_a_folder_beside_a_slide_is_its_own_only_where_it_has_its_name(tmp_path, caplog):
    touch(tmp_path, "a.mrxs", "a/part.tif", "a_2/x.svs", "a (old)/y.svs", ".h.svs", ".DS_Store")
    assert sorted(names(find_slides([str(tmp_path)], recursive=True))) == [
        "a.mrxs", "x.svs", "y.svs"
    ]  # fmt: skip
    assert ".h.svs (hidden: its name begins with a point)" in caplog.text
    caplog.clear()
    assert names(find_slides([str(tmp_path)])) == ["a.mrxs"]
    assert "a (old), a_2 (a folder; --recursive searches it)" in caplog.text


def test_all_files_of_a_dicom_series_are_its_slide(tmp_path):
    for name, series in (("1.dcm", "1.2.3"), ("2.DCM", "1.2.3"), ("3.dcm", "1.2.4")):
        (tmp_path / name).write_bytes(dicom(series))
    touch(tmp_path, "a.svs", "empty.dcm")
    found = {p.name: files_of_slide(p) for p in tmp_path.iterdir()}
    assert found["1.dcm"] == found["2.DCM"] == ["1.dcm", "2.DCM"]
    for name in ("3.dcm", "a.svs", "empty.dcm"):
        assert found[name] == [name]


def test_a_pattern_names_what_it_matches_and_does_not_take(tmp_path, caplog):
    touch(tmp_path, "a.svs", "z.zarr/zarr.json", "sub/x.svs")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    assert names(find_slides([str(tmp_path / "*")])) == ["a.svs", "z.zarr"]
    assert "gone.svs (a link to nothing)" in caplog.text
    assert "sub (a folder; name it without a pattern)" in caplog.text


def test_folders_of_photographs_name_the_option(tmp_path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match="add --images for photographs"):
        find_slides([str(tmp_path)])
    assert names(find_slides([str(tmp_path)], images=True)) == ["a.jpg"]


def test_links_in_circles_end(tmp_path):
    touch(tmp_path, "a.svs", "sub/b.svs")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    assert names(find_slides([str(tmp_path)], recursive=True)) == ["a.svs", "b.svs"]


def test_a_slide_that_is_a_folder_is_named_alone(tmp_path):
    touch(tmp_path, "z.zarr/zarr.json")
    assert names(find_slides([str(tmp_path / "z.zarr")])) == ["z.zarr"]


@pytest.mark.parametrize("column", ["mpp", "MPP (µm)", "mpp [um/px]", "mpp(micrometer per pixel)"])
@pytest.mark.parametrize("cell", ["0.25", "0,25 µm", "0.25um/px", "2.5e-1 microns"])
@pytest.mark.parametrize("above", ["", "# made by hand; not checked\n# 2026\n"])
def test_the_unit_of_the_pixel_size_may_be_written(tmp_path, column, cell, above):
    touch(tmp_path, "a.svs")
    (tmp_path / "s.csv").write_text(f"{above}slide;{column}\na.svs;{cell}\n", encoding="utf-8")
    assert [slide.mpp for slide in find_slides([str(tmp_path / "s.csv")])] == [0.25]


@pytest.mark.parametrize("column", ["mpp (nm)", "mpp_x", "mppx"])
def test_a_pixel_size_that_is_not_understood_is_not_passed_over(tmp_path, column):
    touch(tmp_path, "a.svs")
    sheet = tmp_path / "s.csv"
    sheet.write_text(f"slide,{column}\na.svs,250\n")
    with pytest.raises(UsageError, match="name it 'mpp', with µm per pixel"):
        find_slides([str(sheet)])
    sheet.write_text(f"slide,{column},mpp\na.svs,250,0.25\n")
    assert [slide.mpp for slide in find_slides([str(sheet)])] == [0.25]
    sheet.write_text("slide,mpp\na.svs,250 nm\n")
    with pytest.raises(UsageError, match="mpp '250 nm' is not a number"):
        find_slides([str(sheet)])


def test_a_line_that_ends_before_its_slide_is_named(tmp_path):
    sheet = tmp_path / "a.csv"
    sheet.write_text("mpp,slide\n0.25,a.svs\n0.25\n")
    with pytest.raises(UsageError, match="line 3: no slide"):
        find_slides([str(sheet)], missing_ok=True)
