"""foreground.geojson is what the run used; the script for QuPath is whole and quotes every name."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from strict_geojson import check

from wsi_pipeline.core.run_layout import FOREGROUND, GEOJSON, RUN_JSON
from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.runs.qupath_files import foreground_document, groovy_text, import_script
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.slides.foreground import Foreground

FAILURES = [
    {"region": 3, "level0_box": [0, 0, 90, 90], "cause": "tile\n is damaged",
     "missing": [[5, 5, 20, 20], [10, 10, 30, 30], [60, 60, 70, 70]]},
    {"region": 7, "level0_box": [200, 100, 9000, 9000], "cause": "no answer"},
]  # fmt: skip


@st.composite
def masks(draw) -> Foreground:
    rows, columns = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    downsample = draw(st.sampled_from([1.0, 7.3, 32.0, 1000 / 3]))
    cut = draw(st.floats(0, 0.4)) * downsample
    bits = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    size = max(1, round(columns * downsample - cut)), max(1, round(rows * downsample - cut))
    return Foreground(np.reshape(bits, (rows, columns)), downsample, *size, "drawn")


def written(tmp, foreground, roi=None, failures=()):
    """Class → area in the file; the file is one that QuPath opens."""
    slide = SimpleNamespace(width=foreground.width, height=foreground.height)
    plan = SimpleNamespace(foreground=foreground, object_filter=ObjectFilter(foreground, roi))
    path = tmp / FOREGROUND
    path.write_bytes(foreground_document(slide, plan, failures))
    features = check(path.read_text("utf-8"))
    for feature in features:
        properties = feature["properties"]
        assert properties["objectType"] == "annotation" and properties["isLocked"]
        assert properties["name"].startswith("wsiseg: ")
    found = read_geojson(path)
    kinds = np.array(found.classes)[found.class_index] if len(found) else np.zeros(0, str)
    areas = {k: shapely.union_all(found.polygons()[kinds == k]) for k in found.classes}
    return features, areas


@given(masks())
def test_the_outline_is_the_foreground_that_the_run_used(tmp_path_factory, foreground):
    _, areas = written(tmp_path_factory.getbasetemp(), foreground)
    area = areas.get("Foreground", shapely.Polygon())
    rows, columns = foreground.mask.shape
    x, y = ((np.arange(n) + 0.5) * foreground.downsample for n in (columns, rows))
    x[-1] = (x[-1] - foreground.downsample / 2 + foreground.width) / 2
    y[-1] = (y[-1] - foreground.downsample / 2 + foreground.height) / 2
    inside = shapely.contains_xy(area, *np.meshgrid(x, y))
    assert np.array_equal(inside, foreground.mask)
    share = area.area / (foreground.width * foreground.height)
    slack = 0.02 * (area.length + 1) / (foreground.width * foreground.height)
    assert share == pytest.approx(foreground.share, abs=slack)


def test_regions_of_interest_and_what_could_not_be_read_stand_beside_it(tmp_path):
    foreground = Foreground(np.ones((4, 6), bool), 50.0, 300, 200, "all")
    beyond = shapely.box(-50, 20, 1e9, 1e9).difference(shapely.box(100, 100, 150, 150))
    features, areas = written(tmp_path, foreground, beyond, FAILURES)
    assert list(areas) == ["Foreground", "Region of interest", "Unreadable"]
    assert areas["Foreground"].equals(shapely.box(0, 0, 300, 200))
    assert areas["Region of interest"].area == 300 * 180 - 50 * 50
    boxes = [shapely.box(*b) for b in (*FAILURES[0]["missing"], (200, 100, 300, 200))]
    assert areas["Unreadable"].equals(shapely.union_all(boxes))
    names = [f["properties"]["name"] for f in features[2:]]
    assert names == ["wsiseg: unreadable, region 3: tile is damaged",
                     "wsiseg: unreadable, region 7: no answer"]  # fmt: skip
    nothing = replace(foreground, mask=np.zeros((4, 6), bool))
    assert written(tmp_path, nothing) == ([], {})


def test_a_mask_of_many_pixels_has_few_vertices(tmp_path):
    y, x = np.mgrid[:600, :800]
    disc = (x - 400) ** 2 + (y - 300) ** 2 < 250**2
    _, areas = written(tmp_path, Foreground(disc, 16.0, 12800, 9600, "disc"))
    assert len(shapely.get_coordinates(areas["Foreground"])) < 3000


# --- the script ---

TOKEN = re.compile(r"//[^\n]*|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|.", re.DOTALL)
PAIRS = {")": "(", "]": "[", "}": "{"}


def code_and_texts(script: str) -> tuple[str, list[str]]:
    """Check quotes and brackets of a script; return it without texts and comments, and texts."""
    tokens = TOKEN.findall(script)
    texts = [t for t in tokens if len(t) > 1 and t[0] == "'"]
    code = "".join(t for t in tokens if len(t) == 1)
    assert "'" not in code and '"' not in code, "a text does not end"
    stack: list[str] = []
    for c in code:
        if c in "([{":
            stack.append(c)
        elif c in PAIRS:
            assert stack.pop() == PAIRS[c]
    assert not stack
    return code, texts


def meant(text: str) -> str:
    """What Groovy makes of a text in single quotes."""
    plain = {"n": "\n", "r": "\r", "t": "\t"}

    def one(found: re.Match[str]) -> str:
        return chr(int(found[2], 16)) if found[2] else plain.get(found[1], found[1])

    joined = re.sub(r"\\(u([0-9a-f]{4})|.)", one, text[1:-1])
    return joined.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(
    st.text(max_size=40)
    | st.sampled_from([r"C:\users\o'Neil $x", "/a b/Müller/細胞/🔬", "\\u0027"])
)
def test_any_name_is_quoted_for_groovy(name):
    text = groovy_text(name)
    assert text.isascii() and text.isprintable()
    code, texts = code_and_texts(text)
    assert (code, texts) == ("", [text]) and meant(text) == name


@pytest.mark.parametrize("name", ["out", "o'Neil's $lides", 'a "b" \\ ${c}', "Zellen µ 細胞"])
def test_the_script_is_whole_and_holds_its_values(name, tmp_path):
    script = import_script(tmp_path / name, "dssnet").decode("ascii")
    code, texts = code_and_texts(script)
    assert "@" not in code, "a value is missing"
    held = [meant(t) for t in texts]
    folder = str((tmp_path / name).resolve())
    for value in (folder, "dssnet", "wsiseg: ", RUN_JSON, GEOJSON, FOREGROUND):
        assert value in held
    assert held.index(folder) < held.index("dssnet")
    for call in (
        "PathIO.readObjects(", ".removeObjects(", ".addObjects(", "setPixelSizeMicrons(",
        "resolveHierarchy()", "getCurrentServer()", ".getFlattenedObjectList(null)",
    ):  # fmt: skip
        assert call in code
    assert code.index(".removeObjects(") < code.index(".addObjects(") < code.index("resolveHier")
    assert "(slide.files ?: []).contains(fileName)" in code  # any file of a DICOM series
    assert "run.slide.mpp.source in [, ]" in code and "--mpp" in held
