"""The server: only who has the token, only what it serves, only where it was told to write."""

import json
import shutil
import struct
import threading
from io import BytesIO

import numpy as np
import pytest
from command_line import succeed
from PIL import Image
from viewers import ask, ask_json, served

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.formats.geojson import read_geojson, read_header
from wsi_pipeline.viewer import library
from wsi_pipeline.viewer.library import Library, match_runs
from wsi_pipeline.viewer.server import ViewerServer

PATHS = ("/api/library", "/api/view/0", "/api/view/0/tile/10/0/0", "/api/view/0/layer/0/base")


@pytest.mark.parametrize("path", PATHS)
def test_data_needs_the_token(server, path):
    assert ask(server, path)[0] == 200
    for token in (None, "", "x", server.access.token[:-1], server.access.token + "x"):
        status, _, body = ask(server, path, X_Wsiseg_Token=token)
        assert status == 403
        assert json.loads(body) == {"error": "open the address that `wsiseg view` printed"}


def test_another_host_name_or_origin_gets_nothing(server):
    port = server.server_address[1]
    for path in ("/", *PATHS):
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1.x:{port}"):
            assert ask(server, path, Host=host)[0] == 421
        for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
            assert ask(server, path, Origin=origin)[0] == 403
        assert (
            ask(server, path, Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
        )


def test_every_answer_forbids_what_the_page_does_not_need(server):
    for path in ("/", "/main.js", "/nothing", *PATHS):
        _, headers, _ = ask(server, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert not any(name.lower().startswith("access-control") for name in headers)
        assert "Set-Cookie" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/..%2fserver.py", "//etc/passwd", "/etc/passwd", "/vendor/../../edits.py",
        "/static/main.js", "/vendor", "/api/view/0/layer/0/../../..", "/api/view/-1",
        "/api/view/%D9%A3", "/api/view/0/tile/10/0/0/", "/api/view/99999999999999999999",
    ],
)  # fmt: skip
def test_no_path_leads_to_other_files(server, path):
    status, _, body = ask(server, path.encode().decode("latin-1"))
    assert status in (400, 404) and len(body) < 300


def test_a_code_gives_the_token_once(server):
    code = server.access.new_code()
    status, _, body = ask(server, "/api/session", {"code": code}, X_Wsiseg_Token=None)
    assert status == 200 and json.loads(body)["token"] == server.access.token
    for body in ({"code": code}, {"code": None}, {}, "[1", "[" * 900):
        assert ask(server, "/api/session", body, X_Wsiseg_Token=None)[0] == 403


def test_only_the_loopback_address_is_served(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UsageError, match="give another --port"):
        ViewerServer(server.library, server.server_address[1])


def test_what_does_not_exist_is_named(server):
    for path, text in (
        ("/api/view/7", "slide 7 is not in the list of 1"),
        ("/api/view/0/tile/99/0/0", "level 99 does not exist"),
        ("/api/view/0/tile/10/9/9", "outside level 10"),
        ("/api/view/0/layer/3/base", "layer 3 does not exist"),
        ("/api/view/0/layer/0/object/99999", "object 99999 does not exist"),
        ("/api/view/0/layer/0/measurement/99", "measurement 99 does not exist"),
        ("/api/view/0/layer/0/outlines/999", "tile 999 does not exist"),
    ):
        status, _, body = ask(server, path)
        assert status == 400 and text in json.loads(body)["error"]


def test_too_much_is_refused_before_it_is_read(server):
    for length in (str(2**40), "-1", "x", "1e3"):
        assert ask(server, "/api/view/0/layer/0/export", "x", Content_Length=length)[0] == 413


def test_tiles_show_the_slide(server, slide_path):
    about = ask_json(server, "/api/view/0")
    assert (about["width"], about["height"], about["mpp"]) == (1003, 811, pytest.approx(0.5))
    _, headers, body = ask(server, f"/api/view/0/tile/{about['levels'] - 1}/1/1")
    assert headers["Content-Type"] == "image/jpeg"
    with Image.open(BytesIO(body)) as image:
        assert image.size == (1003 - 512, 811 - 512)
        shown = np.asarray(image).astype(float)
    slide = server.library.view(0).slide
    from wsi_pipeline.core.geometry import Box

    there = slide.read_region(Box(512, 512, 1003, 811)).astype(float)
    assert np.abs(shown - there).mean() < 4
    with Image.open(BytesIO(ask(server, "/api/view/0/tile/0/0/0")[2])) as image:
        assert image.size == (1, 1)


def test_a_damaged_tile_is_striped_and_the_others_are_shown(slide_path, tmp_path):
    path = tmp_path / "damaged.svs"
    data = bytearray(slide_path.read_bytes())
    from tifffile import TiffFile

    with TiffFile(slide_path) as tiff:
        page = tiff.pages[0]
        at, size = page.dataoffsets[0], page.databytecounts[0]
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    with served([path], []) as server:
        levels = ask_json(server, "/api/view/0")["levels"]
        status, _, body = ask(server, f"/api/view/0/tile/{levels - 1}/0/0")
        assert status == 200
        with Image.open(BytesIO(body)) as image:
            pixels = np.asarray(image).astype(int)
        grey = np.ptp(pixels[:64, :64], axis=2).max() < 12
        assert grey and {160 < v < 215 for v in pixels[:64, :64].ravel()} == {True}
        assert ask(server, f"/api/view/0/tile/{levels - 1}/1/1")[0] == 200
        assert server.library.view(0).picture.unreadable == 1


def test_a_run_without_its_slide_shows_the_thumbnail(run):
    with served([], [run]) as server:
        about = ask_json(server, "/api/view/0")
        assert (about["width"], about["height"], about["whole_slide"]) == (1003, 811, False)
        assert ask(server, f"/api/view/0/tile/{about['levels'] - 1}/1/1")[0] == 200


def test_objects_arrive_as_arrays(server, cells):
    assert ask_json(server, "/api/view/0")["layers"] == 1
    about = ask_json(server, "/api/view/0/layer/0")
    assert about["count"] == len(cells) and about["plotted_class"] == "cell"
    body = ask(server, "/api/view/0/layer/0/base")[2]
    tiles = about["columns"] * about["rows"]
    assert len(body) == 4 * (tiles + 1) + 9 * len(cells)
    assert struct.unpack_from("<I", body, 4 * tiles) == (len(cells),)
    for k in range(len(about["measurements"])):
        assert len(ask(server, f"/api/view/0/layer/0/measurement/{k}")[2]) == 4 * len(cells)


def test_points_do_not_wait_for_outlines(server, monkeypatch):
    go_on = threading.Event()
    read = library.read_parquet

    def slow(path):
        assert go_on.wait(20)
        return read(path)

    monkeypatch.setattr(library, "read_parquet", slow)
    about = ask_json(server, "/api/view/0/layer/0")
    assert len(ask(server, "/api/view/0/layer/0/base")[2]) > 9 * about["count"]
    assert len(ask(server, "/api/view/0/layer/0/measurement/1")[2]) == 4 * about["count"]
    assert ask(server, "/api/view/0/layer/0/outlines/0")[0::2] == (202, b"")
    go_on.set()
    assert len(ask_json(server, "/api/view/0/layer/0/object/0")["rings"][0]) > 5
    status, _, body = ask(server, "/api/view/0/layer/0/outlines/0")
    assert status == 200 and len(body) > 16


def test_corrections_are_saved_and_come_back(server, run, cells):
    base = "/api/view/0/layer/0"
    detail = ask_json(server, f"{base}/object/0")
    before = sorted(p.name for p in run.iterdir())
    edits = [{"id": detail["id"], "deleted": True}]
    area = [[0, 0], [300, 0], [300, 300], [0, 300], [0, 0]]
    answer = ask_json(server, f"{base}/corrections", {"edits": edits, "areas": [area]})
    assert answer == {"file": str(run / "corrections.geojson"), "objects": len(cells) - 1}
    written = sorted(p.name for p in run.iterdir())
    assert written == sorted([*before, "corrections.geojson", "corrections.area.geojson"])
    again = ask_json(server, f"{base}/corrections")
    assert [e["id"] for e in again["edits"]] == [detail["id"]] and len(again["areas"]) == 1
    assert len(read_geojson(run / "corrections.geojson")) == len(cells) - 1
    assert read_header(run / "corrections.geojson")["slide"]["id"] == "crowded"
    nothing = ask_json(server, f"{base}/corrections", {"edits": [], "areas": []})
    assert nothing["objects"] == len(cells)
    assert ask_json(server, f"{base}/corrections") == {"edits": [], "areas": []}


def test_a_refused_correction_changes_no_file(server, run):
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    for body in ("x", "[]", {"edits": [{"id": "x"}], "areas": []}, {"edits": [], "areas": [[1]]}):
        status, _, said = ask(server, "/api/view/0/layer/0/corrections", body)
        assert status == 400 and json.loads(said)["error"]
    assert {p.name: p.stat().st_mtime_ns for p in run.iterdir()} == before


def test_a_gate_exports_its_cells_with_their_nuclei(server, cells, tmp_path):
    held = server.library.view(0).layer(0).sorted.objects
    rows = np.flatnonzero(held.parent < 0)[:3]
    body = rows.astype("<u4").tobytes()
    status, _, content = ask(server, "/api/view/0/layer/0/export", body)
    assert status == 200
    path = tmp_path / "gate.geojson"
    path.write_bytes(content)
    wanted = set(rows) | set(np.flatnonzero(np.isin(held.parent, rows)))
    assert len(read_geojson(path)) == len(wanted)
    assert ask(server, "/api/view/0/layer/0/export", b"\xff" * 4)[0] == 400
    assert ask(server, "/api/view/0/layer/0/export", b"abc")[0] == 400
    *_, shown = ask(server, "/api/view/0/layer/0/gallery", body)
    ranked = {cell["row"] for cell in json.loads(shown)["cells"]}
    assert ranked and ranked <= wanted
    assert ask(server, "/api/view/0/layer/0/gallery", b"\xff" * 4)[0] == 400


def test_the_gallery_is_ranked_or_read(server, run, slide_path):
    first = ask_json(server, "/api/view/0/layer/0/gallery")
    assert "no diagnosis" in first["ranking"] and len(first["cells"]) > 0
    (run / "gallery").mkdir()
    chosen = ask_json(server, "/api/view/0/layer/0/object/4")["id"]
    listed = [{"id": chosen, "reasons": {"a": 2.0}}]
    listed = {"schema_version": 1, "ranking": "mine", "cells": listed}
    (run / "gallery" / "gallery.json").write_text(json.dumps(listed))
    again = ask_json(server, "/api/view/0/layer/0/gallery")
    assert again["ranking"] == "mine" and [c["row"] for c in again["cells"]] == [4]
    (run / "gallery" / "gallery.json").write_text('{"schema_version": 1, "cells": [7]}')
    assert ask(server, "/api/view/0/layer/0/gallery")[0] == 400


def test_runs_find_their_slides(slide_path, run, tmp_path):
    other = tmp_path / "other.svs"
    shutil.copy(slide_path, other)
    entries = match_runs([other, slide_path], [run])
    assert [(e.name, len(e.runs)) for e in entries] == [("crowded.svs", 1), ("other.svs", 0)]
    assert match_runs([other], [run])[0].runs == (run,)  # one slide: what is given belongs to it
    assert match_runs([], [run])[0].slide is None
    with pytest.raises(UsageError, match="one file for 2 runs"):
        Library(match_runs([slide_path], [run, run]), corrections=tmp_path / "c.geojson")
    for bad in (tmp_path / "c.txt", tmp_path / "no" / "c.geojson"):
        with pytest.raises(UsageError, match="--corrections"):
            Library(match_runs([slide_path], [run]), corrections=bad)
    with pytest.raises(UsageError, match="nothing to show"):
        Library([])


def test_a_slide_without_a_run_can_be_drawn_on(slide_path, tmp_path):
    file = tmp_path / "drawn.geojson"
    with served([slide_path], [], corrections=file) as server:
        edit = {"id": "00000000-0000-4000-8000-000000000001", "class": "nucleus",
                "rings": [[[10, 10], [50, 10], [50, 50], [10, 50]]]}  # fmt: skip
        body = {"edits": [edit], "areas": []}
        assert ask_json(server, "/api/view/0/layer/0/corrections", body)["objects"] == 1
        assert len(ask_json(server, "/api/view/0/layer/0/corrections")["edits"]) == 1
    assert read_geojson(file).bounds().tolist() == [[10, 10, 50, 50]]


@pytest.mark.slow
def test_what_is_saved_becomes_a_training_set_and_a_run(server, slide_path, run, tmp_path):
    base, held = "/api/view/0/layer/0", server.library.view(0).layer(0)
    nucleus = int(np.flatnonzero(held.sorted.objects.parent >= 0)[0])
    gone = ask_json(server, f"{base}/object/{nucleus}")["id"]
    area = [[0, 0], [500, 0], [500, 500], [0, 500]]
    body = {"edits": [{"id": gone, "deleted": True}], "areas": [area]}
    ask_json(server, f"{base}/corrections", body)
    file, areas = held.corrections, held.areas_file
    made = succeed(
        "dataset", "from-qupath", slide_path, file, "--run", run, "--area", areas,
        "--out", tmp_path / "set",
    )  # fmt: skip
    assert "1 area," in made and list((tmp_path / "set").glob("annotations*.json"))
    said = succeed("import", slide_path, file, "--run", run, "--out", tmp_path / "back")
    assert "removed    1 (1 nucleus)" in said
