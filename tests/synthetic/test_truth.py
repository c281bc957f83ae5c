"""The truth of synthetic slides: cells with their nuclei, in memory and in files."""

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.objects import is_cell
from wsi_pipeline.formats.geojson import read_geojson, read_header
from wsi_pipeline.synthetic.looks import POSITIVE_KINDS, dysplastic_mix, find_look
from wsi_pipeline.synthetic.make_slide import make_slide
from wsi_pipeline.synthetic.svs_writer import plan_slide, truth_cells, truth_objects


def test_truth_of_a_slide_is_one_list_of_cells_and_their_nuclei(plan):
    nuclei, cells = truth_objects(plan)
    both = truth_cells(plan)
    assert np.array_equal(both.ids, np.concatenate([cells.ids, nuclei.ids]))
    assert is_cell(both).tolist() == [True] * len(cells) + [False] * len(nuclei)
    owner = both.polygons()[both.parent[len(cells) :]]
    outside = shapely.area(shapely.difference(nuclei.polygons(), shapely.make_valid(owner)))
    assert (outside <= 0.05 * shapely.area(nuclei.polygons())).mean() > 0.99
    empty = truth_cells(plan_slide(300, 300, tissue=0, style=plan.style, bank=plan.bank))
    assert len(empty) == 0 and len(empty.parent) == 0


@pytest.mark.parametrize("limit", [0.0, 0.25, 0.5])
def test_no_cell_lies_further_over_another_than_was_asked_for(plan, limit):
    crowded = plan_slide(
        900, 800, mpp=0.5, seed=2, tissue=1, style=plan.style, bank=plan.bank, max_overlap=limit
    )
    objects = truth_cells(crowded)
    shapes = shapely.make_valid(objects.polygons()[objects.class_index == 0])
    one, two = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    one, two = one[one < two], two[one < two]
    area = shapely.area(shapes)
    share = shapely.area(shapely.intersection(shapes[one], shapes[two]))
    share /= np.minimum(area[one], area[two])
    assert share.max(initial=0) <= limit + 1e-3
    assert len(shapes) > 50 and (limit == 0 or share.max() > 0.8 * limit)


@pytest.mark.parametrize("look", ["plain", "real"])
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_the_share_of_dysplastic_cells_is_what_was_asked_for(look, share):
    known = find_look(look)
    mix = dysplastic_mix(known, share)
    assert sum(mix.values()) == pytest.approx(1)
    assert sum(mix[k] for k in mix if k in POSITIVE_KINDS) == pytest.approx(share)
    others = [k for k in mix if k not in POSITIVE_KINDS]
    ratio = [mix[k] / known.cells[k].share for k in others]
    assert ratio == pytest.approx([ratio[0]] * len(ratio))
    with pytest.raises(ConfigError, match="0 to 1"):
        dysplastic_mix(known, share + 1.1)


def test_synth_writes_cells_with_nuclei_and_nuclei_alone(tmp_path):
    size = {"width": 300, "height": 280, "mpp": 0.5, "seed": 1, "tissue": 1.0}
    files = make_slide(tmp_path / "a.svs", **size, max_overlap=0.3, quiet=True)
    assert [f.name for f in files] == ["a.svs", "a.truth.geojson.gz", "a.truth-cells.geojson.gz"]
    nuclei, both = read_geojson(files[1]), read_geojson(files[2])
    assert nuclei.parent is None and nuclei.classes == ("nucleus",)
    assert both.classes == ("cell", "nucleus") and (both.parent >= 0).sum() == len(nuclei)
    kinds = read_header(files[2])["kinds"]
    assert len(kinds) == (both.class_index == 0).sum() > 5
    assert set(kinds) & set(POSITIVE_KINDS)
    assert "kinds" not in read_header(files[1])
    none = make_slide(tmp_path / "c.svs", **size, max_overlap=0.3, dysplastic=0, quiet=True)
    assert not set(read_header(none[2])["kinds"]) & set(POSITIVE_KINDS)
    own = both.take(both.class_index == 1)
    assert {bytes(i) for i in own.ids} == {bytes(i) for i in nuclei.ids}
    assert shapely.area(own.polygons()).sum() == pytest.approx(
        shapely.area(nuclei.polygons()).sum(), rel=0.01
    )
    with pytest.raises(ConfigError, match="between 0 and 1, got 2"):
        make_slide(tmp_path / "b.svs", **size, max_overlap=2, quiet=True)
