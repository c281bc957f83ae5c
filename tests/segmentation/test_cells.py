"""Cells on slides: each exactly once, complete, with its nucleus, whatever the tiles.

The slide's pixels encode their own position, so the model can compute the true instances of each
window, cut at the window's edge.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import pytest
import shapely
import tifffile
import torch
from wsiseg_models.checkpoint import Card, save_checkpoint
from wsiseg_models.instance.config import LIGHT
from wsiseg_models.registry import MODELS

from wsi_pipeline import RunConfig, run_slide
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.runs import work_plan
from wsi_pipeline.segmentation import cells
from wsi_pipeline.segmentation.cell_features import (
    CELL_NUCLEI,
    CELL_OVERLAP,
    NUCLEUS_OFFSET,
    NUCLEUS_RATIO,
    renewed,
)
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.mask_atlas import draw_atlas
from wsi_pipeline.segmentation.model import Instances, paste
from wsi_pipeline.segmentation.pairing import assign_nuclei

WIDTH, HEIGHT = 1400, 1100
SIDE = 28


@pytest.fixture(autouse=True)
def _codes_are_no_stain(request, monkeypatch):
    """Slides whose pixels encode their position have no glass that could be taken out of masks."""
    if "glass" not in request.node.name:
        monkeypatch.setattr(cells, "clear_glass", lambda *_: None)


@dataclass
class Ellipse:
    """Centre, half axes and turn."""

    x: float
    y: float
    a: float
    b: float
    turn: float
    kind: int

    @cached_property
    def polygon(self):
        circle = shapely.Point(0, 0).buffer(1, quad_segs=32)
        wide = shapely.affinity.scale(circle, self.a, self.b, origin=(0, 0))
        turned = shapely.affinity.rotate(wide, self.turn, origin=(0, 0), use_radians=True)
        return shapely.affinity.translate(turned, self.x, self.y)

    def depth(self, x, y):
        """How far inside points lie, about, in pixels."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        u = ((x - self.x) * c + (y - self.y) * s) / self.a
        v = ((y - self.y) * c - (x - self.x) * s) / self.b
        return (1 - np.hypot(u, v)) * min(self.a, self.b)


def scene(seed=3, large=()):
    """Overlapping cells with a nucleus each, some cells without, some nuclei alone."""
    rng = np.random.default_rng(seed)
    cells, links = [], []
    while len([c for c in cells if c.kind == 0]) < 120:
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        a, b, turn = rng.uniform(22, 48), rng.uniform(18, 40), rng.uniform(0, 3)
        if any(np.hypot(c.x - x, c.y - y) < 30 for c in cells if c.kind == 0):
            continue
        cells.append(Ellipse(x, y, a, b, turn, 0))
    cells += [Ellipse(x, y, r, r * 0.9, 0.3, 0) for x, y, r in large]
    nuclei = []
    for i, c in enumerate(cells):
        if i % 10:
            nuclei.append(Ellipse(c.x + 2, c.y - 3, 8, 6, c.turn, 1))
            links.append(i)
    for _ in range(8):
        x, y = rng.uniform(20, WIDTH - 20), rng.uniform(20, HEIGHT - 20)
        if all(np.hypot(c.x - x, c.y - y) > 90 for c in cells):
            nuclei.append(Ellipse(x, y, 7, 7, 0, 1))
            links.append(-1)
    return cells, nuclei, links


def slide(folder):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], 2).astype(np.uint8)
    path = folder / "where.tif"  # a photographed field would go on in its own colour
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def oracle(things, halo=128, jitter=0.0):
    """A model that returns the true instances of a window, cut at its edge."""

    def instances(image):
        h, w = image.shape[:2]
        row, column = np.argwhere(image[..., 2] < 96)[0]  # beyond the slide it is white
        r, g, b = (int(v) for v in image[row, column])
        ox, oy = (b % 16) * 256 + r - column, (b // 16) * 256 + g - row
        boxes, kinds, masks, scores = [], [], [], []
        for k, thing in enumerate(things):
            x0, y0, x1, y1 = thing.polygon.bounds
            box = np.array([max(x0 - ox, 0), max(y0 - oy, 0), min(x1 - ox, w), min(y1 - oy, h)])
            if (box[2:] - box[:2] < 3).any():
                continue
            step = (np.arange(SIDE) + 0.5) / SIDE
            px = ox + box[0] + step * (box[2] - box[0])
            py = oy + box[1] + step * (box[3] - box[1])
            depth = thing.depth(px[None], py[:, None]) + jitter * np.sin(ox + 2 * oy + k)
            masks.append(255 / (1 + np.exp(-2 * depth)))
            boxes.append(box)
            kinds.append(thing.kind)
            scores.append(0.7 + 0.29 * (k % 7) / 7)
        return Instances(
            np.array(boxes, np.float32).reshape(-1, 4), np.array(kinds, np.uint8),
            np.array(scores, np.float32), np.array(masks, np.uint8).reshape(-1, SIDE, SIDE),
        )  # fmt: skip

    return InstanceModel(
        name="oracle", classes=("cell", "nucleus"), mpp=0.5, halo_px=halo, stride=32, tile_px=512,
        identity="oracle", network=lambda images: [instances(i) for i in images],
    )  # fmt: skip


def found(tmp_path, name, model, **settings):
    settings = {"min_score": 0.5, "min_small_score": 0.5, "foreground": "all"} | settings
    config = RunConfig(out=tmp_path / name, mpp=0.5, quiet=True, overwrite=True, **settings)
    result = run_slide(slide(tmp_path), config, model=model)
    assert not result.failed
    return read_parquet(result.folder / "objects.parquet"), result


def inside(thing):
    """The part of a cell that lies on the slide."""
    return thing.polygon.intersection(shapely.box(0, 0, WIDTH, HEIGHT))


def check_all_there(objects, cells, nuclei, links, iou=0.85):
    """Each true cell and nucleus on the slide exactly once, joined as they should be."""
    shapes = objects.polygons()
    tree = shapely.STRtree(shapes)
    true = [inside(t) for t in (*cells, *nuclei)]
    kinds = [0] * len(cells) + [1] * len(nuclei)
    match = {}
    for k, (polygon, kind) in enumerate(zip(true, kinds, strict=True)):
        if polygon.area < 40:
            continue
        agree = [
            i for i in tree.query(polygon) if objects.class_index[i] == kind
            and shapes[i].intersection(polygon).area
            >= (iou if polygon.area > 400 else 0.7) * shapes[i].union(polygon).area
        ]  # fmt: skip
        assert len(agree) == 1, (k, kind, polygon.centroid, agree)
        match[k] = agree[0]
    assert len(set(match.values())) == len(match)
    extra = set(range(len(shapes))) - set(match.values())
    assert all(shapes[i].area < 60 for i in extra)
    for n, cell in enumerate(links):
        if len(cells) + n in match and (cell < 0 or cell in match):
            wanted = -1 if cell < 0 else match[cell]
            assert objects.parent[match[len(cells) + n]] == wanted


@pytest.mark.parametrize("tile_px", [256, 384, 512])
def test_every_cell_is_there_once_with_its_nucleus(tmp_path, tile_px):
    cells, nuclei, links = scene()
    objects, _ = found(tmp_path, "a", oracle([*cells, *nuclei], jitter=0.4), tile_px=tile_px)
    check_all_there(objects, cells, nuclei, links)
    assert len(np.unique(objects.ids, axis=0)) == len(objects)
    assert {"Cell: Area µm^2", "Nucleus/Cell area ratio"} <= set(objects.features)


def test_nuclei_that_overlap_in_a_cell_are_cut_once_for_all_formats(tmp_path):
    """A copy goes, the others are cut before they are measured; the ratio is of their union."""
    cell = Ellipse(300, 300, 60, 50, 0, 0)
    nuclei = [Ellipse(x, 300, 12, 10, 0, 1) for x in (280, 298, 283)]
    objects, result = found(tmp_path, "a", oracle([cell, *nuclei]), tile_px=512)
    held = objects.polygons()[objects.parent >= 0]
    assert len(held) == 2
    assert shapely.intersection(*held).area == 0
    area = shapely.area(held) * 0.5**2
    measured = objects.features["Nucleus: Area µm^2"]
    assert measured[objects.parent >= 0] == pytest.approx(area, rel=1e-4)
    whole = is_cell(objects)
    union = shapely.union_all([n.polygon for n in nuclei[:2]]).area
    ratio = union / cell.polygon.area
    assert objects.features[NUCLEUS_RATIO][whole] == pytest.approx(ratio, rel=0.06)
    assert objects.features[CELL_NUCLEI][whole].tolist() == [2]
    drawn = read_geojson(result.folder / "objects.geojson.gz")
    assert np.array_equal(drawn.ids, objects.ids)
    assert np.allclose(shapely.area(drawn.polygons()), shapely.area(objects.polygons()))


@pytest.mark.parametrize("region_px", [512, 1024])
def test_measurements_that_depend_on_neighbours_hold_across_seams(tmp_path, monkeypatch, region_px):
    """Nuclei, ratio, overlap and offset are those of the objects in the file, all at once."""
    monkeypatch.setattr(work_plan, "REGION_PX", region_px)
    cells, nuclei, _ = scene(11)
    model = oracle([*cells, *nuclei], jitter=0.4)
    objects, _ = found(tmp_path, "a", model, tile_px=256)
    again = renewed(objects).features
    for name in (CELL_NUCLEI, CELL_OVERLAP, NUCLEUS_RATIO, NUCLEUS_OFFSET):
        assert objects.features[name] == pytest.approx(again[name], nan_ok=True, abs=1e-5), name
    counted = np.bincount(objects.parent[objects.parent >= 0], minlength=len(objects))
    cell = is_cell(objects)
    assert (objects.features[CELL_NUCLEI][cell] == counted[cell]).all()
    assert (np.isnan(objects.features[NUCLEUS_RATIO][cell]) == (counted[cell] == 0)).all()


def test_the_result_does_not_depend_on_batch_and_workers(tmp_path):
    cells, nuclei, _ = scene(5)
    model = oracle([*cells, *nuclei], jitter=0.4)
    one, _ = found(tmp_path, "a", model, tile_px=256, workers=1, batch=1)
    other, _ = found(tmp_path, "b", model, tile_px=256, workers=2, batch=8)
    for column in ("ids", "coords", "score", "parent", "class_index", "ring_offsets"):
        assert np.array_equal(getattr(one, column), getattr(other, column))


def test_a_cell_wider_than_the_halo_is_complete(tmp_path):
    cells, nuclei, links = scene(7, large=[(512, 500, 170), (256, 800, 150)])
    objects, result = found(tmp_path, "a", oracle([*cells, *nuclei], halo=64), tile_px=256)
    check_all_there(objects, cells, nuclei, links)
    assert result.summary["objects_larger_than_seen"] == 0


def test_no_straight_edges_at_seams(tmp_path):
    cells, nuclei, _ = scene(9)
    objects, _ = found(tmp_path, "a", oracle([*cells, *nuclei]), tile_px=256)
    seams = list(range(256, WIDTH, 256))
    ends = np.delete(np.arange(len(objects.coords) - 1), objects.ring_offsets[1:-1] - 1)
    a, b = objects.coords[ends], objects.coords[ends + 1]
    on = [(np.abs(a - s) < 1) & (np.abs(b - s) < 1) for s in (seams, [s + 97 for s in seams])
          for s in s]  # fmt: skip
    length = [np.where(o, np.abs(b - a)[:, ::-1], 0).sum() for o in on]
    at, elsewhere = sum(length[: len(seams)]), sum(length[len(seams) :])
    assert at < 2 * elsewhere + 60


def test_instances_are_drawn_as_they_are_pasted():
    rng = np.random.default_rng(1)
    low = rng.uniform(-5, 180, (40, 2))
    found = Instances(
        np.hstack([low, low + rng.uniform(1, 60, (40, 2))]).astype(np.float32),
        np.zeros(40, np.uint8), np.ones(40, np.float32),
        cv2.GaussianBlur(rng.uniform(0, 255, (SIDE, SIDE, 40)), (0, 0), 4).transpose(2, 0, 1)
        .astype(np.uint8),
    )  # fmt: skip
    atlas = draw_atlas(found, 200, 200)
    for k, ((rows, columns), mask) in enumerate(paste(found, (200, 200))):
        image = np.zeros((200, 200), bool)
        image[rows, columns] = mask
        (u, v), (x, y), (w, h) = atlas.origin[k], atlas.corner[k], atlas.size[k]
        drawn = np.zeros_like(image)
        drawn[v : v + h, u : u + w] = atlas.probability[y : y + h, x : x + w] >= 128
        assert np.array_equal(drawn, image)


def boxes(*rows):
    """Objects from (class, x0, y0, x1, y1)."""
    return Objects.from_polygons(
        [shapely.box(*r[1:]) for r in rows], classes=("cell", "nucleus"),
        ids=np.arange(2 * len(rows), dtype=np.uint64).reshape(-1, 2),
        class_index=np.array([r[0] for r in rows], np.uint8),
        score=np.ones(len(rows), np.float32),
    )  # fmt: skip


def test_a_nucleus_in_an_overlap_goes_to_the_cell_that_has_no_other():
    paired = assign_nuclei(boxes((0, 0, 0, 40, 40), (0, 25, 0, 80, 40), (1, 8, 15, 18, 25),
                        (1, 27, 15, 37, 25)))  # fmt: skip
    assert paired.parent.tolist() == [-1, -1, 0, 1]


def test_a_second_nucleus_joins_and_one_outside_stays_alone():
    paired = assign_nuclei(boxes((0, 0, 0, 40, 40), (1, 5, 5, 12, 12), (1, 20, 20, 30, 30),
                        (1, 100, 0, 110, 10), (1, 36, 0, 46, 10)))  # fmt: skip
    assert paired.parent.tolist() == [-1, 0, 0, -1, -1]


@pytest.mark.parametrize("place", [(15, 15), (150, 16), (190, 110), (100, 75)])
@pytest.mark.parametrize(("od", "spare"), [(0.0, 0), (0.1, 0), (0.1, 8)])
def test_a_cell_on_glass_is_left_out_also_at_the_border_of_the_slide(tmp_path, place, od, spare):
    """Beyond the slide a window is white, lighter than the glass; and a speck is no stain.

    The outline of a cell that stays is that of its stain, also where the mask is wider; but not in
    a corner, where less than a tenth of what is around the cell is glass.
    """
    image = np.full((150, 200, 3), 205, np.uint8)
    cell = Ellipse(*place, 30, 26, 0, 0)
    speck = Ellipse(*place, 12, 11, 0, 1)
    x, y = np.meshgrid(np.arange(200) + 0.5, np.arange(150) + 0.5)
    image[cell.depth(x, y) > 0] = round(205 * 10**-od)
    image[speck.depth(x, y) > 0] = 90
    cv2.imwrite(str(tmp_path / "glass.png"), image)
    sizes = ((30 + spare, 26 + spare), (12, 11))

    def network(images):
        out = []
        for window in images:
            row, column = np.argwhere((window == 90).all(2)).mean(0) + 0.5
            boxes = [(column - a, row - b, column + a, row + b) for a, b in sizes]
            step = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
            disc = np.uint8(255) * (np.hypot(step[None], step[:, None]) < 1)
            boxes = np.clip(boxes, 0, [*window.shape[1::-1]] * 2)
            out.append(
                Instances(
                    boxes.astype(np.float32),
                    np.array([0, 1], np.uint8),
                    np.ones(2, np.float32),
                    np.stack([disc, disc]).astype(np.uint8),
                )
            )
        return out

    model = InstanceModel(
        name="one", classes=("cell", "nucleus"), mpp=0.5, halo_px=64, stride=32, tile_px=512,
        identity="one", network=network,
    )  # fmt: skip
    config = RunConfig(out=tmp_path / "out", mpp=0.5, quiet=True, foreground="all")
    result = run_slide(tmp_path / "glass.png", config, model=model)
    stored = read_parquet(result.folder / "objects.parquet")
    assert (stored.class_index == 0).sum() == (od > 0)
    for outline in stored.polygons()[stored.class_index == 0]:
        true = cell.polygon.intersection(shapely.box(0, 0, 200, 150))
        wide = spare + 2 if place in ((15, 15), (190, 110)) else 5
        assert true.buffer(-3).within(outline) and outline.within(true.buffer(wide))
    assert (stored.class_index == 1).sum() == 1


def test_cells_have_a_least_score_of_their_own(tmp_path):
    cells, nuclei, _ = scene()
    model = oracle([*cells, *nuclei])
    everything, _ = found(tmp_path, "all", model)
    whole = everything.class_index == 0
    strict, _ = found(tmp_path, "strict", model, min_cell_score=0.8)
    kept = {tuple(i) for i in everything.ids[~whole | (everything.score >= 0.8)].tolist()}
    assert {tuple(i) for i in strict.ids.tolist()} == kept
    assert 0 < (strict.class_index == 0).sum() < whole.sum()
    both, _ = found(tmp_path, "both", model, min_score=0.8, min_small_score=0.8)
    assert both.score.min() >= 0.8 and (both.class_index == 0).any()


def test_a_checkpoint_of_cells_runs_from_file_to_qupath(tmp_path, slide_path):
    """Through the real network, untrained."""
    torch.manual_seed(0)
    options = {**LIGHT, "trunk_width": 16, "fpn_width": 16, "mask_width": 16, "mask_convs": 1,
               "fusion_width": 16, "box_width": 32, "rpn_post_nms": (40, 40), "score": 0.0,
               "max_detections": 20}  # fmt: skip
    entry = MODELS["donet"]
    network = entry.for_inference(entry.builder(**options))
    card = Card(
        name="donet", task="cells", classes=("cell", "nucleus"), mpp=1.0, halo_px=64, tile_px=128,
        stride=32, options={k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
    )  # fmt: skip
    save_checkpoint(tmp_path / "tiny.safetensors", network.state_dict(), card, half=True)
    config = RunConfig(
        checkpoint=tmp_path / "tiny.safetensors", out=tmp_path / "out", quiet=True,
        min_score=0.0, min_small_score=0.0,
    )  # fmt: skip
    result = run_slide(slide_path, config)
    assert result.objects > 0
    stored = read_parquet(result.folder / "objects.parquet")
    shown = read_geojson(result.folder / "objects.geojson.gz")
    assert len(stored) == result.objects
    assert len(shown) == len(stored)
    assert set(map(tuple, shown.ids.tolist())) == set(map(tuple, stored.ids.tolist()))


def test_only_cells_that_touch_an_unreadable_part_are_left_out(tmp_path):
    cells, nuclei, _ = scene()
    model = oracle([*cells, *nuclei])
    whole, _ = found(tmp_path, "whole", model)
    path = slide(tmp_path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        strip = len(page.dataoffsets) // 2
        start, size, rows = page.dataoffsets[strip], page.databytecounts[strip], page.rowsperstrip
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * size)
    gap = shapely.box(0, strip * rows, WIDTH, (strip + 1) * rows)
    config = RunConfig(
        out=tmp_path / "out", mpp=0.5, quiet=True, min_score=0.5, min_small_score=0.5,
        foreground="all",
    )  # fmt: skip
    result = run_slide(path, config, model=model)
    assert result.failed
    assert all("the rest is kept" in failure["cause"] for failure in result.failed)
    left = set(map(tuple, read_parquet(result.folder / "objects.parquet").ids.tolist()))
    away = shapely.distance(shapely.box(*whole.bounds().T), gap) > 4
    assert 0 < (~away).sum() < len(whole) / 2
    assert {tuple(i) for i in whole.ids[away].tolist()} <= left
    touching = shapely.intersects(whole.polygons(), gap)
    assert not {tuple(i) for i in whole.ids[touching].tolist()} & left


def test_a_nucleus_that_others_of_its_cell_cover_is_left_out(tmp_path):
    """QuPath's cells cannot hold it, so no file counts it."""
    cell, nucleus = Ellipse(300, 300, 60, 50, 0, 0), Ellipse(300, 300, 10, 9, 0, 1)
    behind, beside = Ellipse(301, 300, 6, 6, 0, 1), Ellipse(318, 300, 12, 9, 0, 1)
    objects, result = found(tmp_path, "a", oracle([cell, nucleus, behind, beside]))
    assert objects.class_index.tolist().count(1) == 2
    assert (objects.parent >= 0).sum() == 2
    shown = read_geojson(result.folder / "objects.geojson.gz")
    assert len(shown) == len(objects) == result.objects == 3
