"""Painted cells in a slide: they have its stain, lie where they should, and are counted."""

import json

import numpy as np
import pytest
import shapely
from scipy.stats import binomtest

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.spike_record import SPIKE_FOLDER, read_spike
from wsi_pipeline.evaluation import spike
from wsi_pipeline.evaluation.spike_field import CROWDED, FAINT, FREE, GROUP, Wanted, lay
from wsi_pipeline.evaluation.spike_report import spike_markdown, write_spike
from wsi_pipeline.evaluation.spike_stain import SlideStain, measure_slide, style_of
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.synthetic.real_painter import RealPainter

MPP = 0.5
STAIN = SlideStain(
    glass=(240.0, 238.0, 235.0), stained=0.03, green=(0.15, 0.09, 0.06), pink=(0.05, 0.16, 0.09),
    pink_share=0.3, nucleus=(0.5, 0.42, 0.3), spot_contrast=0.15, blur_um=0.3, spots=100,
)  # fmt: skip
SINGLE = [Wanted(k, FREE) for k in ("intermediate", "parabasal", "superficial")] * 7


def painter(seed=0, stain=STAIN):
    return RealPainter(MPP, style_of(stain), np.random.default_rng(seed))


def glass(side=700):
    return np.full((side, side, 3), STAIN.glass, np.uint8)


@pytest.fixture(scope="module")
def laid():
    return lay(glass(), MPP, STAIN, painter(), SINGLE, [], 10)


def test_the_stain_that_is_painted_is_the_stain_that_is_measured(laid):
    found = measure_slide([laid.image], MPP)
    assert len(laid.spikes) > 12 and found.spots > 8
    np.testing.assert_allclose(found.glass, STAIN.glass, atol=1)
    np.testing.assert_allclose(found.nucleus, STAIN.nucleus, rtol=0.35)
    np.testing.assert_allclose(found.green, STAIN.green, rtol=0.6)
    assert found.nucleus[0] > found.nucleus[1] > found.nucleus[2]
    assert found.green[0] > found.green[1] and found.pink[1] > found.pink[0]
    assert found.blur_um == pytest.approx(STAIN.blur_um, abs=0.25)


def test_a_darker_stain_gives_darker_nuclei(laid):
    dark = SlideStain(**{**vars(STAIN), "nucleus": (0.9, 0.8, 0.6)})
    found = measure_slide([lay(glass(), MPP, dark, painter(0, dark), SINGLE, [], 10).image], MPP)
    assert np.mean(found.nucleus) > 1.3 * np.mean(measure_slide([laid.image], MPP).nucleus)


def test_only_pixels_of_laid_cells_change_and_they_get_darker(laid):
    cells = shapely.union_all([spike.cell.buffer(3 / MPP) for spike in laid.spikes])
    y, x = np.nonzero((laid.image != glass()).any(2))
    assert len(x) and shapely.contains_xy(cells, x + 0.5, y + 0.5).all()
    assert (laid.image <= glass()).all()
    again = lay(glass(), MPP, STAIN, painter(), SINGLE, [], 10)
    assert (again.image == laid.image).all()


def test_cells_lie_where_they_should(laid):
    ours = [s.cell for s in laid.spikes]
    overlap = shapely.STRtree(ours).query(ours, predicate="intersects")
    areas = [shapely.intersection(ours[i], ours[j]).area for i, j in overlap.T if i != j]
    assert max(areas, default=0) < 20  # half-covered pixels at the border
    known = shapely.box(100, 100, 600, 300)
    more = [Wanted("parabasal", CROWDED), Wanted("intermediate", CROWDED)] * 6
    # `laid` is now the slide: crowded cells lie on its cells, and no nucleus on a known nucleus.
    over = lay(laid.image, MPP, STAIN, painter(1), more, [known], 10)
    assert over.spikes and len(over.spikes) + len(over.left) == len(more)
    stained = shapely.union_all(ours)
    for one in over.spikes:
        assert one.cell.intersection(stained).area > 0.4 * one.cell.area
        assert not one.nucleus.intersects(known)
    group = lay(glass(), MPP, STAIN, painter(2), [Wanted("hsil", GROUP)], [], 10).spikes
    nuclei = [one.nucleus for one in group]
    assert len(group) == 7
    assert all(a.disjoint(b) for i, a in enumerate(nuclei) for b in nuclei[:i])
    pale = lay(glass(), MPP, STAIN, painter(), [w._replace(place=FAINT) for w in SINGLE], [], 10)
    assert len(pale.spikes) > 12 and pale.image.min() > laid.image.min()
    assert lay(glass(80), MPP, STAIN, painter(3), SINGLE[:1], [], 30).left == tuple(SINGLE[:1])


@pytest.mark.parametrize(("found", "count"), [(0, 5), (3, 7), (40, 40)])
def test_intervals_are_wilsons(found, count):
    theirs = binomtest(found, count).proportion_ci(method="wilson")
    assert spike.wilson(found, count) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_a_slide_is_measured_written_and_read(slide_path, darkness, tmp_path):
    with open_slide(slide_path) as slide:
        result = spike.spike_slide(slide, darkness, RunConfig(), segment_whole, count=24)
        blind = spike.spike_slide(
            slide, darkness, RunConfig(), lambda *_: darkness.empty(), count=24
        )
        record = write_spike(tmp_path / SPIKE_FOLDER, result, slide, darkness, {"count": 24})
        with pytest.raises(UsageError, match="12"):
            spike.spike_slide(slide, darkness, RunConfig(), segment_whole, count=3)
    assert read_spike(tmp_path) == read_spike(tmp_path / SPIKE_FOLDER)
    assert read_spike(tmp_path) == json.loads(json.dumps(record))
    assert read_spike(tmp_path / "nothing") is None
    (total,) = [r for r in record["results"] if r["kind"] == r["place"] == "all"]
    usual = [s for s in record["spikes"] if s["place"] != FAINT]
    good = [s for s in usual if s["nucleus_iou"] >= 0.5]
    assert 0 < len(good) == total["found"] <= total["laid"] == len(usual) < len(record["spikes"])
    assert total["low"] <= total["share"] <= total["high"] and total["cells_found"] is None
    for row in record["results"]:
        at = usual if row["place"] == "all" else record["spikes"]
        one = [s for s in at if row["place"] in ("all", s["place"])]
        assert row["laid"] == sum(row["kind"] in ("all", s["kind"]) for s in one)
    assert all((tmp_path / SPIKE_FOLDER / name).is_file() for name in record["pictures"])
    assert f"| all | all | {total['laid']} | {total['found']} |" in spike_markdown(record)
    assert not any(field.nucleus_iou.any() for field in blind.fields)
    assert sum(field.false + field.lost + field.before for field in blind.fields) == 0


def test_a_slide_without_cells_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="too little"):
        measure_slide([glass()], MPP)
    (tmp_path / "spike.json").write_text(json.dumps({"schema_version": 1, "results": [{}]}))
    with pytest.raises(DataError, match="again"):
        read_spike(tmp_path)
    (tmp_path / "spike.json").write_text(json.dumps({"schema_version": 9}))
    with pytest.raises(DataError, match="schema_version 9"):
        read_spike(tmp_path)
