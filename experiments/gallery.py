"""Measure which cells `wsiseg gallery` shows first, where it is known which are dysplastic.

    python experiments/gallery.py generated --work DIR [--choose]
    python experiments/gallery.py cric --work DIR --data ../shared/data/cric_fields
    python experiments/gallery.py million --work DIR

Each part prints Markdown rows for experiments/results/gallery.md. `generated` makes slides with
planted dysplastic cells, segments them and counts how many of the first 40 are planted; `--choose`
takes the slides on which the weights of the ranking were chosen, which are none of those that are
judged. `cric` ranks the marked nuclei of real fields, on which nothing was chosen. `million` times
the ranking of 10^6 nuclei, a run repeated side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.machine import peak_bytes
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET, read_run
from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.formats.parquet_rows import read_boxes
from wsi_pipeline.reports import gallery
from wsi_pipeline.reports.atypia import rank_atypical, rankable
from wsi_pipeline.reports.chromatin import looked_at
from wsi_pipeline.segmentation.kinds import ABNORMAL
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.synthetic.looks import POSITIVE_KINDS, LookName, dysplastic_mix, find_look
from wsi_pipeline.synthetic.placement import SlidePlan, plan_slide
from wsi_pipeline.synthetic.render import truth_cells, truth_kinds
from wsi_pipeline.synthetic.svs_writer import write_slide

PLANTED = set(POSITIVE_KINDS)


class Made(NamedTuple):
    """A slide to generate: look, seed, share of dysplastic cells (None: the look's own), side.

    Without `groups` there are no dense groups of cells, which hold dysplastic ones, too.
    """

    look: LookName
    seed: int
    share: float | None = None
    side: int = 6000
    groups: bool = True


CHOSEN_ON = {
    "many, real": Made("real", 501, side=5000),
    "many, plain": Made("plain", 502, side=5000),
    "few, real, in dense groups": Made("real", 503, 0.01, side=5000),
}
"""Slides on which the weights were chosen."""
JUDGED = {
    "few, plain": Made("plain", 601, 0.01, groups=False),
    "few, plain, 2": Made("plain", 611, 0.01, groups=False),
    "few, real": Made("real", 612, 0.02, groups=False),
    "many, plain": Made("plain", 631),
    "many, real": Made("real", 602),
}
"""Slides for the judgement."""
COUNT, CRIC_MPP = 40, 0.228
ABNORMAL_MARKS = {"ASC-H", "HSIL", "LSIL", "SCC"}


def planned(made: Made) -> SlidePlan:
    """Return a slide on which about this share of the cells is dysplastic."""
    known = find_look(made.look)
    mix = None if made.share is None else dysplastic_mix(known, made.share)
    scene = known.scene if made.groups else replace(known.scene, groups=0.0)
    return plan_slide(
        made.side, made.side, seed=made.seed, look=made.look, mix=mix, scene=scene
    )  # fmt: skip


def segmented(slide: Path, model: str, *options: str) -> Path:
    """Return the run folder of a slide; run it where it is not there."""
    out = slide.parent / "runs"
    folder = out / slide.stem / model
    if not (folder / "run.json").is_file():
        command = [sys.executable, "-m", "wsi_pipeline", "run", str(slide), "--out", str(out)]
        subprocess.run([*command, "--model", model, "--quiet", *options], check=True)
    return folder


def without_kinds(objects: Objects) -> Objects:
    """Return objects as a run without `--kinds` has them."""
    features = {n: column for n, column in objects.features.items() if n != ABNORMAL}
    names = tuple(n if n == "cell" else "nucleus" for n in objects.classes)
    return replace(objects, features=features, classes=names)


def generated(work: Path, choose: bool) -> None:
    """Rank the cells of generated slides."""
    print("| slide | run | planted | segmented | planted among the first 40 | best possible | "
          "recall of the segmented | others |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, made in (CHOSEN_ON if choose else JUDGED).items():
        plan = planned(made)
        slide = work / f"{made.look}-{made.seed}.svs"
        if not slide.is_file():
            write_slide(slide, plan)
        for model, kinds in (("unet", False), ("unet", True), ("cascade", False)):
            options = ("--kinds",) if model == "unet" else ()
            judge_generated(name, plan, slide, segmented(slide, model, *options), kinds)


def judge_generated(name: str, plan: SlidePlan, slide: Path, folder: Path, kinds: bool) -> None:
    """Print the row of one run."""
    truth, kind = truth_cells(plan), truth_kinds(plan)[0]
    inner = np.flatnonzero(truth.parent >= 0)  # type: ignore[operator]
    cell = truth.parent[inner]  # type: ignore[index]
    middle = shapely.get_coordinates(shapely.centroid(truth.polygons()[inner]))
    objects = read_boxes(folder / PARQUET)
    box = objects.bounds()
    away, near = cKDTree(middle).query((box[:, :2] + box[:, 2:]) / 2)
    near[away * plan.mpp > 4] = -1
    with open_slide(slide) as opened:
        light = objects if kinds else without_kinds(objects)
        order = gallery.ranked(folder / PARQUET, opened, light, COUNT, plan.mpp).order
    planted = {c for c, k in enumerate(kind) if k in PLANTED}
    of_nucleus = [int(cell[j]) if j >= 0 else -1 for j in near]
    there = planted & {of_nucleus[i] for i in np.flatnonzero(rankable(light))}
    found = planted & {of_nucleus[i] for i in order}
    others = Counter(kind[of_nucleus[i]] if of_nucleus[i] >= 0 else "nothing in the truth"
                     for i in order if of_nucleus[i] not in planted)  # fmt: skip
    text = ", ".join(f"{n} {k}" for k, n in others.most_common(4))
    best = min(COUNT, len(planted))
    run = folder.name + (" --kinds" if kinds else "")
    print(f"| {name} | {run} | {len(planted)} | {len(there)} | {len(found)} | {best} | "
          f"{len(found) / max(min(len(there), COUNT), 1):.2f} | {text} |", flush=True)  # fmt: skip


def cric(work: Path, data: Path) -> None:
    """Rank the marked nuclei of cric_fields: each field by itself, and all five as one slide."""
    marks = json.loads((data / "boxes.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in marks["categories"]}
    print("| run | field | nuclei ranked | marked abnormal | AUC against marked NILM | against all "
          "others | places of the marked |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for model, kinds in (("unet", False), ("unet", True), ("cascade", False)):
        fields = []
        for image in marks["images"]:
            path = data / image["file_name"]
            link = work / path.name
            if not link.exists():
                link.write_bytes(path.read_bytes())
            options = ("--kinds",) if model == "unet" else ()
            folder = segmented(link, model, "--mpp", str(CRIC_MPP), *options)
            points = [(a["point"], names[a["category_id"]]) for a in marks["annotations"]
                      if a["image_id"] == image["id"]]  # fmt: skip
            fields.append(field_of(link, folder, points, kinds))
        for n, field in enumerate(fields, 1):
            judge_marks(f"{model}{' --kinds' * kinds} | field {n}", *field)
        together = Objects.concatenate([f[0] for f in fields])
        looked = {k: np.concatenate([f[1][k] for f in fields]) for k in fields[0][1]}
        judge_marks(f"{model}{' --kinds' * kinds} | all as one", together, looked,
                    np.concatenate([f[2] for f in fields]))  # fmt: skip


Field = tuple[Objects, dict[str, NDArray[np.float32]], NDArray[np.str_]]


def field_of(
    image: Path, folder: Path, points: list[tuple[list[float], str]], kinds: bool
) -> Field:
    """Return objects, z-scores of their pixels, and the mark of each, "" without one."""
    objects = read_parquet(folder / PARQUET)
    objects = objects if kinds else without_kinds(objects)
    with open_slide(image, mpp=CRIC_MPP) as slide:
        rows = np.flatnonzero(rankable(objects))
        looked = looked_at(slide, objects.take(rows), rows, np.ones(len(rows), bool),
                           n=len(objects), mpp=CRIC_MPP)  # fmt: skip
    mark = np.full(len(objects), "", "U8")
    for point, name in points:
        away = shapely.distance(objects.polygons()[rows], shapely.Point(point))
        if len(rows) and away.min() * CRIC_MPP < 2:
            mark[rows[int(away.argmin())]] = name
    return objects, looked, mark


def judge_marks(
    what: str, objects: Objects, looked: dict[str, NDArray[np.float32]], mark: NDArray[np.str_]
) -> None:
    """Print the row of one field or of all."""
    ranking = rank_atypical(objects, len(objects), spread=False, looked=looked)
    ranked = np.isfinite(ranking.score)
    abnormal = ranked & np.isin(mark, sorted(ABNORMAL_MARKS))
    if not abnormal.any():
        return
    aucs = [
        f"{rank_auc(ranking.score[abnormal | other], abnormal[abnormal | other]):.3f}"
        if other.any() else "–"
        for other in (ranked & (mark == "NILM"), ranked & ~abnormal)
    ]  # fmt: skip
    best_first = np.argsort(-np.where(ranked, ranking.score, -np.inf))[: ranked.sum()]
    places = np.flatnonzero(abnormal[best_first]) + 1
    shown = ", ".join(map(str, places[:12])) + (" …" if len(places) > 12 else "")
    print(f"| {what} | {ranked.sum()} | {abnormal.sum()} | {aucs[0]} | {aucs[1]} | {shown} |")


class Tiled:
    """A slide repeated side by side, of which windows are read."""

    def __init__(self, slide: Slide, times: int) -> None:
        self.slide, self.background = slide, slide.background
        self.width, self.height = slide.width * times, slide.height * times

    def read_what_is_there(self, box: Box, scale: float) -> tuple[NDArray[np.uint8], None]:
        """Return the pixels of the copy in which a window begins."""
        x, y = (int(n / scale) for n in (self.slide.width, self.slide.height))
        moved = Box(box.x0 % x, box.y0 % y, box.x0 % x + box.width, box.y0 % y + box.height)
        return self.slide.read_what_is_there(moved, scale)[0], None


def repeated(objects: Objects, side: float, times: int) -> Iterator[Objects]:
    """Yield the objects of a run again and again, on a grid."""
    rng = np.random.default_rng(0)
    for k in range(times**2):
        corner = np.array([k % times * side, k // times * side])
        yield replace(
            objects, coords=objects.coords + corner,
            ids=rng.integers(0, 2**63, (len(objects), 2), np.uint64),
        )  # fmt: skip


def million(work: Path) -> None:
    """Time the gallery of 10^6 objects."""
    slide = work / "plain-631.svs"
    if not slide.is_file():
        write_slide(slide, planned(JUDGED["many, plain"]))
    for model in ("unet", "cascade"):
        folder = segmented(slide, model, *(("--kinds",) if model == "unet" else ()))
        objects = read_parquet(folder / PARQUET)
        times = int(np.ceil(np.sqrt(1e6 / len(objects))))
        big = work / f"million-{model}"
        big.mkdir(exist_ok=True)
        if not (big / PARQUET).is_file():
            with ParquetWriter(big / PARQUET) as writer:
                for part in repeated(objects, JUDGED["many, plain"].side, times):
                    writer.write(part)
        (big / "run.json").write_text(json.dumps(read_run(folder)), encoding="utf-8")
        with open_slide(slide) as opened:
            before = time.perf_counter()
            cells = gallery.gallery_cells(big, Tiled(opened, times))  # type: ignore[arg-type]
        seconds = time.perf_counter() - before
        peak = peak_bytes() / 2**30
        print(f"| {model} | {len(objects) * times**2:,} | {len(cells)} | {seconds:.1f} s | "
              f"{peak:.2f} GB |", flush=True)  # fmt: skip


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("generated", "cric", "million"))
    parser.add_argument("--work", type=Path, required=True, help="folder for slides and runs")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cric_fields"))
    parser.add_argument("--choose", action="store_true", help="slides for choosing weights")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.part == "generated":
        generated(options.work, options.choose)
    elif options.part == "cric":
        cric(options.work, options.data)
    else:
        million(options.work)


if __name__ == "__main__":
    main()
