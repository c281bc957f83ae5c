"""Corrections: what is not touched stays, and a saved file gives the same corrections again."""

import uuid

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from viewers import grid_of_cells

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.formats.geojson import GeoJsonWriter, read_geojson
from wsi_pipeline.viewer.edits import corrected, edits_between, id_text, parse_edits
from wsi_pipeline.viewer.object_tiles import sort_into_tiles

HELD = sort_into_tiles(grid_of_cells(), 1003, 811)


def ring(x, y, r=12.0):
    return shapely.get_coordinates(shapely.Point(x, y).buffer(r)).tolist()


def identity(row):
    return id_text(HELD.objects.ids[row])


def outlines(objects):
    keys = [id_text(i) for i in objects.ids]
    return dict(zip(keys, objects.polygons(), strict=True))


def saved(tmp_path, objects):
    path = tmp_path / "corrections.geojson"
    with GeoJsonWriter(path) as writer:
        writer.write(objects)
    return read_geojson(path)


def test_nothing_changed_is_nothing_corrected(tmp_path):
    after = corrected(HELD, [])
    assert edits_between(HELD, after) == []
    assert edits_between(HELD, saved(tmp_path, after)) == []


@given(
    deleted=st.sets(st.integers(0, 40), max_size=6),
    renamed=st.sets(st.integers(41, 70), max_size=6),
    reshaped=st.sets(st.integers(71, 100), max_size=6),
    added=st.integers(0, 3),
)
def test_corrections_come_back_from_the_objects(deleted, renamed, reshaped, added):
    entries = [{"id": identity(k), "deleted": True} for k in deleted]
    entries += [{"id": identity(k), "class": "HSIL"} for k in renamed]
    entries += [{"id": identity(k), "rings": [ring(400 + k, 300)]} for k in reshaped]
    new = [str(uuid.UUID(int=k + 1)) for k in range(added)]
    entries += [{"id": k, "class": "nucleus", "rings": [ring(950, 700)]} for k in new]
    after = corrected(HELD, parse_edits(entries))
    assert len(after) == len(HELD.objects) - len(deleted) + added
    back = {edit["id"]: edit for edit in edits_between(HELD, after)}
    assert set(back) == {entry["id"] for entry in entries}
    assert {k for k, e in back.items() if e["deleted"]} == {identity(k) for k in deleted}
    assert {k for k, e in back.items() if e["row"] == -1} == set(new)
    for k in renamed:
        assert back[identity(k)]["class"] == "HSIL" and not back[identity(k)]["moved"]
    for k in reshaped:
        assert back[identity(k)]["moved"] and not back[identity(k)]["renamed"]
    untouched = set(outlines(HELD.objects)) - set(back)
    shapes, before = outlines(after), outlines(HELD.objects)
    assert all(shapes[k].equals(before[k]) for k in untouched)


def test_a_saved_file_gives_the_same_corrections(tmp_path):
    cell = int(np.flatnonzero(HELD.objects.parent < 0)[3])
    x, y = (float(v) for v in HELD.centres[cell])
    new = str(uuid.uuid4())
    entries = [
        {"id": identity(cell), "rings": [ring(x, y, 50)], "class": None},
        {"id": new, "class": "nucleus", "rings": [ring(x, y + 30, 5)]},
    ]
    after = saved(tmp_path, corrected(HELD, parse_edits(entries)))
    back = {edit["id"]: edit for edit in edits_between(HELD, after)}
    assert set(back) == {identity(cell), new}
    assert back[identity(cell)]["row"] == cell
    drawn = shapely.Polygon(back[new]["rings"][0])
    assert drawn.area == pytest.approx(shapely.Polygon(ring(x, y + 30, 5)).area, rel=0.01)


def test_a_drawn_nucleus_belongs_to_the_smallest_cell_around_it():
    cells = np.flatnonzero(HELD.objects.parent < 0)
    cell = int(cells[5])
    x, y = (float(v) for v in HELD.centres[cell])
    around = {"id": str(uuid.uuid4()), "class": "cell", "rings": [ring(x, y, 200)]}
    inside = {"id": str(uuid.uuid4()), "class": "nucleus", "rings": [ring(x, y + 25, 4)]}
    outside = {"id": str(uuid.uuid4()), "class": "nucleus", "rings": [ring(-500, -500, 4)]}
    after = corrected(HELD, parse_edits([around, inside, outside]))
    names = [id_text(i) for i in after.ids]
    parents = {names[k]: names[p] if p >= 0 else None for k, p in enumerate(after.parent)}
    assert parents[inside["id"]] == identity(cell)
    assert parents[outside["id"]] is None


def test_nuclei_keep_their_cell_when_it_is_reshaped_and_lose_it_when_it_is_deleted():
    first, second = (int(k) for k in np.flatnonzero(HELD.objects.parent < 0)[:2])
    entries = [{"id": identity(first), "rings": [ring(60, 60, 45)]},
               {"id": identity(second), "deleted": True}]  # fmt: skip
    after = corrected(HELD, parse_edits(entries))
    names = [id_text(i) for i in after.ids]
    for cell, wanted in ((first, identity(first)), (second, None)):
        for row in np.flatnonzero(HELD.objects.parent == cell):
            parent = after.parent[names.index(identity(row))]
            assert (names[parent] if parent >= 0 else None) == wanted


def test_measurements_that_may_be_wrong_now_are_left_out():
    assert list(corrected(HELD, []).features) == ["Abnormal: probability"]


def test_a_crossed_outline_is_repaired():
    bow = [[0, 0], [40, 40], [40, 0], [0, 30], [0, 0]]
    (edit,) = parse_edits([{"id": str(uuid.uuid4()), "class": "cell", "rings": [bow]}])
    assert edit.polygon.is_valid and edit.polygon.area > 100


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {"id": "x"},
        {"id": str(uuid.UUID(int=1)), "class": ""},
        {"id": str(uuid.UUID(int=1)), "class": "a\nb"},
        {"id": str(uuid.UUID(int=1)), "class": "a:"},
        {"id": str(uuid.UUID(int=1)), "class": "x" * 101},
        {"id": str(uuid.UUID(int=1)), "rings": []},
        {"id": str(uuid.UUID(int=1)), "rings": "abc"},
        {"id": str(uuid.UUID(int=1)), "rings": [[[0, 0], [1, 1]]]},
        {"id": str(uuid.UUID(int=1)), "rings": [[[0, 0], [9, 9], [0, float("nan")]]]},
        {"id": str(uuid.UUID(int=1)), "rings": [[[0, 0], [1e300, 0], [0, 1e300]]]},
        {"id": str(uuid.UUID(int=1)), "rings": [[[0, 0], [0.1, 0], [0, 0.1]]]},
    ],
    ids=str,
)
def test_what_the_page_never_sends_is_refused_in_one_line(entry):
    with pytest.raises(DataError) as refusal:
        parse_edits([entry])
    assert len(str(refusal.value).splitlines()) == 1


def test_an_added_object_needs_class_and_outline():
    with pytest.raises(DataError, match="outline and a class"):
        corrected(HELD, parse_edits([{"id": str(uuid.UUID(int=9)), "class": "cell"}]))


def test_the_objects_of_another_slide_are_refused(monkeypatch):
    from wsi_pipeline.viewer import edits

    monkeypatch.setattr(edits, "MOST_EDITS", 10)
    other = HELD.objects.take(np.arange(20))
    with pytest.raises(DataError, match="objects differ"):
        edits_between(HELD, other)
