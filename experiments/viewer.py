"""Measure how fast the viewer is on a slide of 40 000 × 40 000 pixels with many objects.

The slide and its objects are those of a generated slide of 8000 × 8000 pixels and a run on it, five
times in each direction; for a million objects they are repeated with small shifts. Chromium draws
without a graphics card here. The table goes to experiments/results/viewer.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET, RUN_JSON
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.viewer.library import Library, match_runs
from wsi_pipeline.viewer.server import ViewerServer

TILE_PX = 400
TIMES = 5
ARGUMENTS = [
    "--headless", "--no-sandbox", "--no-first-run", "--disable-background-networking",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-gpu-rasterization", "--disable-accelerated-2d-canvas",
]  # fmt: skip
PAN = """async (seconds) => {
  const { box } = wsiseg.view();
  const width = box.x1 - box.x0, x = (box.x0 + box.x1) / 2, y = (box.y0 + box.y1) / 2;
  const times = [], start = performance.now();
  for (let last = start; last - start < 1000 * seconds; ) {
    const turn = (2 * Math.PI * (last - start)) / (1000 * seconds);
    wsiseg.goTo(x + 0.3 * width * Math.sin(turn), y, width, true);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  return { frames: times.length, seconds: times.reduce((a, b) => a + b, 0) / 1000 };
}"""


def jpeg_tiles(slide: Slide, scale: int) -> Iterator[bytes]:
    """Yield the tiles of a level of the large slide, row by row."""
    side = slide.width // scale // TILE_PX
    known = {
        (x, y): simplejpeg.encode_jpeg(
            slide.read_scaled(
                Box(x * TILE_PX, y * TILE_PX, (x + 1) * TILE_PX, (y + 1) * TILE_PX), scale
            ),
            85,
            colorsubsampling="420",
        )
        for x in range(side)
        for y in range(side)
    }
    for y in range(side * TIMES):
        for x in range(side * TIMES):
            yield known[x % side, y % side]


def write_large(slide: Slide, path: Path) -> None:
    """Write the slide repeated, as a TIFF with levels 1, 4 and 20."""
    mpp = slide.require_mpp().value
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for scale in (1, 4, 20):
            side = slide.width // scale * TIMES
            tiff.write(
                jpeg_tiles(slide, scale), shape=(side, side, 3), dtype=np.uint8,
                photometric="ycbcr", subsampling=(2, 2), tile=(TILE_PX,) * 2, compression="jpeg",
                subfiletype=int(scale > 1), resolution=(1e4 / mpp / scale,) * 2,
                resolutionunit="CENTIMETER", metadata=None,
            )  # fmt: skip


def moved(objects: Objects, shift: NDArray[np.float64], number: int) -> Objects:
    """Return the objects elsewhere, with other ids."""
    ids = objects.ids ^ np.uint64(number << 20)
    return replace(objects, coords=np.round(objects.coords + shift, 2), ids=ids)


def write_run(source: Path, folder: Path, side: int, copies: int) -> int:
    """Write a run on the large slide; return the number of objects."""
    folder.mkdir(parents=True, exist_ok=True)
    record = json.loads((source / RUN_JSON).read_text("utf-8"))
    record["slide"] |= {"width": side * TIMES, "height": side * TIMES, "file": "large.tif"}
    (folder / RUN_JSON).write_text(json.dumps(record), "utf-8")
    objects, random, number = read_parquet(source / PARQUET), np.random.default_rng(0), 0
    with ParquetWriter(folder / PARQUET) as writer:
        for copy in range(copies):
            for place in np.ndindex(TIMES, TIMES):
                number += 1
                jitter = random.uniform(0, 60, 2) if copy else np.zeros(2)
                writer.write(moved(objects, np.array(place) * side + jitter, number))
    return writer.count


def browser_seconds() -> float:
    """Return the CPU time of the browser's processes."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:2])
    return total


def pan(page: Any, seconds: float) -> tuple[float, float]:
    """Move the slide to and fro; return frames a second, and CPU milliseconds for each frame."""
    before = browser_seconds()
    found = page.evaluate(PAN, seconds)
    spent = browser_seconds() - before
    return found["frames"] / found["seconds"], 1000 * spent / found["frames"]


def measure(slide: Path, run: Path, chromium: str) -> dict[str, Any]:
    """Return seconds to the first picture and objects, and texts about frames at three zooms."""
    from playwright.sync_api import sync_playwright

    library = Library(match_runs([slide], [run]))
    threading.Thread(target=library.read_ahead, daemon=True).start()  # as the command does
    with ViewerServer(library) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(server.access.origin + "/icon.svg")  # the browser itself is warm
        began = time.perf_counter()
        page.goto(server.access.address)
        found: dict[str, Any] = {}
        for mark in ("picture", "objects"):
            while not page.evaluate(f"performance.getEntriesByName('first-{mark}').length"):
                page.wait_for_timeout(20)
            found[mark] = time.perf_counter() - began
        for name, width in (("far", None), ("middle", 7000), ("near", 900)):
            if width:
                page.evaluate(f"wsiseg.goTo(11500, 11500, {width}, true)")
            page.wait_for_timeout(4000)
            level = (page.inner_text("#detail-level") or "outlines").split(":")[0].lower()
            shown = pan(page, 4)
            page.evaluate("wsiseg.app.shown = false")
            bare = pan(page, 4)
            page.evaluate("wsiseg.app.shown = true")
            found[name] = f"{level}: {shown[0]:.0f}, {shown[1]:.0f} ms ({bare[1]:.0f} ms)"
        browser.close()
        server.shutdown()
    return found


def main() -> None:
    """Make the slides, measure, print the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, help="generated slide, 8000 x 8000 pixels")
    parser.add_argument("run", type=Path, help="run folder of it")
    parser.add_argument("--work", type=Path, default=Path("viewer-speed"), help="folder to write")
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 8], help="objects at a place")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    given = parser.parse_args()
    large = given.work / "large.tif"
    given.work.mkdir(parents=True, exist_ok=True)
    with open_slide(given.slide) as slide:
        side = slide.width
        if not large.exists():
            write_large(slide, large)
    for copies in given.copies:
        run = given.work / f"run{copies}"
        if not (run / PARQUET).exists():
            write_run(given.run, run, side, copies)
        count = len(read_parquet(run / PARQUET))
        found = measure(large, run, given.chromium)
        rates = " | ".join(found[name] for name in ("far", "middle", "near"))
        load = f"{psutil.getloadavg()[0]:.0f}"
        seconds = f"{found['picture']:.1f} | {found['objects']:.1f}"
        print(f"| {count} | {seconds} | {rates} | {load} |")


if __name__ == "__main__":
    main()
