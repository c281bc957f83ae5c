"""Write a synthetic slide as an Aperio SVS file.

plan_slide → SlidePlan → render, truth_objects, truth_cells, write_slide
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.synthetic.fields import write_fields
from wsi_pipeline.synthetic.placement import SlidePlan, plan_slide
from wsi_pipeline.synthetic.render import (
    PERIOD_PX,
    densities,
    expose,
    render,
    truth_cells,
    truth_objects,
)
from wsi_pipeline.synthetic.stains import Style

__all__ = [
    "SlidePlan",
    "plan_slide",
    "render",
    "truth_cells",
    "truth_objects",
    "write_fields",
    "write_slide",
]

_TILE_PX = 256
_BLOCK_PX = PERIOD_PX
"""Side of what is rendered at once: 4 × 4 tiles, one tile of level 1."""
_MAKER = "Aperio Image Library (wsiseg synthetic slide)"
Pixels = NDArray[np.uint8]


class _Block(NamedTuple):
    """A rendered block: its 16 tiles row by row, its tile at 1/4 size, its pixels at 1/16."""

    tiles: list[bytes]
    quarter: bytes
    small: Pixels


def write_slide(
    path: Path | str,
    plan: SlidePlan,
    *,
    quality: int = 80,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a plan as a pyramidal slide in Aperio's format, which OpenSlide and QuPath open.

    It needs memory for two rows of encoded blocks, the encoded quarter level and 1/256 of the
    pixels. The file appears when it is complete.

    Parameters
    ----------
    path
        ends in ``.svs``; an existing file is replaced
    plan
        from `plan_slide`
    quality
        JPEG quality, 1 to 100
    workers
        threads that render and encode; one per processor if not given
    progress
        called with (finished blocks, all blocks)

    Raises
    ------
    ConfigError
        the name does not end in ``.svs``, or the quality is not possible
    OutputError
        the file cannot be written
    """
    path = Path(path)
    if path.suffix.lower() != ".svs" or not 1 <= quality <= 100:
        raise ConfigError(
            f"the name must end in .svs, the JPEG quality be 1 to 100; got {path.name}, {quality}"
        )
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        with part_path(path) as part:
            _write_aperio(part, plan, quality, pool, progress or (lambda done, total: None))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_aperio(
    part: Path,
    plan: SlidePlan,
    quality: int,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
) -> None:
    """Baseline, thumbnail, reduced levels, label and macro, in Aperio's order."""
    width, height = plan.width, plan.height
    columns, rows = -(-width // _BLOCK_PX), -(-height // _BLOCK_PX)
    quarter: list[bytes] = []
    small = np.zeros((rows * _BLOCK_PX // 16, columns * _BLOCK_PX // 16, 3), np.uint8)

    def baseline() -> Iterator[bytes]:
        for row, band in enumerate(_bands(plan, quality, pool)):
            for column, block in enumerate(band):
                y, x = row * _BLOCK_PX // 16, column * _BLOCK_PX // 16
                small[y : y + _BLOCK_PX // 16, x : x + _BLOCK_PX // 16] = block.small
                quarter.append(block.quarter)
            # tifffile stops after the last tile, so no code after the loop would run.
            progress((row + 1) * columns, rows * columns)
            per_row = -(-width // _TILE_PX)
            for line in range(min(4, -(-(height - row * _BLOCK_PX) // _TILE_PX))):
                tiles = [tile for b in band for tile in b.tiles[4 * line : 4 * line + 4]]
                yield from tiles[:per_row]

    size = f"{width}x{height}"
    with tifffile.TiffWriter(part, bigtiff=width * height > 1 << 32) as tif:
        power = f"AppMag = {10 / plan.mpp:g}|MPP = {plan.mpp:.4f}"
        about = f"{_MAKER}\r\n{size} [0,0 {size}] ({_TILE_PX}x{_TILE_PX}) JPEG/RGB Q={quality}"
        _write_level(
            tif, baseline(), width, height, f"{about}|{power}|Seed = {plan.seed}", plan.mpp
        )
        small = small[: max(height // 16, 1), : max(width // 16, 1)]
        thumbnail = _fit(small, 1024, 768)
        _write_image(tif, thumbnail, f"{_MAKER}\r\n{size} -> {_size(thumbnail)}", quality, 0)
        for factor, tiles in _reduced(plan, quarter, small, quality):
            w, h = width // factor, height // factor
            _write_level(tif, tiles, w, h, f"{about} -> {w}x{h}", plan.mpp * factor)
        label, macro = _label(plan), _macro(thumbnail, plan.style)
        _write_image(tif, label, f"{_MAKER}\r\nlabel {_size(label)}", quality, 1)
        _write_image(tif, macro, f"{_MAKER}\r\nmacro {_size(macro)}", quality, 9)


def _bands(plan: SlidePlan, quality: int, pool: ThreadPoolExecutor) -> Iterator[list[_Block]]:
    """Yield rows of blocks from top to bottom; the next row is made while this one is written."""
    columns, rows = -(-plan.width // _BLOCK_PX), -(-plan.height // _BLOCK_PX)
    glass = _encode_block(expose(plan, None, Box(0, 0, _BLOCK_PX, _BLOCK_PX)), quality)

    def make(row: int, column: int) -> _Block:
        x, y = column * _BLOCK_PX, row * _BLOCK_PX
        box = Box(x, y, x + _BLOCK_PX, y + _BLOCK_PX)
        canvas = densities(plan, box)
        return glass if canvas is None else _encode_block(expose(plan, canvas, box), quality)

    ahead: list[Future[_Block]] = []
    for row in range(rows + 1):
        now = ahead
        ahead = [pool.submit(make, row, c) for c in range(columns)] if row < rows else []
        if row:
            yield [future.result() for future in now]


def _encode_block(pixels: Pixels, quality: int) -> _Block:
    side = range(0, _BLOCK_PX, _TILE_PX)
    tiles = [_jpeg(pixels[y : y + _TILE_PX, x : x + _TILE_PX], quality) for y in side for x in side]
    quarter = cv2.resize(pixels, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA)
    small = cv2.resize(quarter, (_TILE_PX // 4, _TILE_PX // 4), interpolation=cv2.INTER_AREA)
    return _Block(tiles, _jpeg(quarter, quality), small)


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels),
            level=quality,
            colorspace="RGB",
            outcolorspace="YCBCR",
            subsampling="420",
        )
    )


def _reduced(
    plan: SlidePlan, quarter: list[bytes], small: Pixels, quality: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Yield factor and encoded tiles of each reduced level, down to about 2000 px."""
    factor, longest = 4, max(plan.width, plan.height)
    while longest * 4 > 2048 * factor:
        if factor == 4:
            yield factor, _kept(quarter, plan)
        else:
            shape = (plan.width // factor, plan.height // factor)
            level = small
            if factor > 16:
                level = cv2.resize(small, shape, interpolation=cv2.INTER_AREA)
            yield factor, _tiles(level, quality)
        factor *= 4


def _kept(quarter: list[bytes], plan: SlidePlan) -> Iterator[bytes]:
    """Yield the tiles of the quarter level; a last block may be too thin for a pixel of it."""
    columns = -(-plan.width // _BLOCK_PX)
    wide = -(-(plan.width // 4) // _TILE_PX)
    for row in range(-(-(plan.height // 4) // _TILE_PX)):
        yield from quarter[row * columns : row * columns + wide]


def _tiles(level: Pixels, quality: int) -> Iterator[bytes]:
    h, w = level.shape[:2]
    padded = np.pad(level, ((0, -h % _TILE_PX), (0, -w % _TILE_PX), (0, 0)), "edge")
    for y in range(0, h, _TILE_PX):
        for x in range(0, w, _TILE_PX):
            yield _jpeg(padded[y : y + _TILE_PX, x : x + _TILE_PX], quality)


def _write_level(
    tif: tifffile.TiffWriter, tiles: Iterator[bytes], w: int, h: int, about: str, mpp: float
) -> None:
    tif.write(
        tiles,
        shape=(h, w, 3),
        dtype=np.uint8,
        tile=(_TILE_PX, _TILE_PX),
        photometric="rgb",
        compression="jpeg",
        subsampling=(2, 2),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        description=about,
        metadata=None,
        software=False,
        maxworkers=1,
    )


def _write_image(
    tif: tifffile.TiffWriter, pixels: Pixels, about: str, quality: int, kind: int
) -> None:
    """Write a small image in one strip, as Aperio stores thumbnail, label and macro."""
    tif.write(
        pixels,
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": quality},
        rowsperstrip=pixels.shape[0],
        subfiletype=kind,
        description=about,
        metadata=None,
        software=False,
    )


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _fit(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the image scaled to fit, with its ratio of sides."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _label(plan: SlidePlan) -> Pixels:
    """Return the label of the slide, with its seed and pixel size."""
    label = np.full((400, 440, 3), (238, 238, 230), np.uint8)
    lines = ("SYNTHETIC", "liquid-based Pap", f"seed {plan.seed}", f"{plan.mpp:g} um/px")
    for k, line in enumerate(lines):
        at = (24, 90 + 80 * k)
        cv2.putText(label, line, at, cv2.FONT_HERSHEY_SIMPLEX, 1.3, (20, 20, 60), 2, cv2.LINE_AA)
    return label


def _macro(thumbnail: Pixels, style: Style) -> Pixels:
    """Return a picture of the whole glass with its frosted end on the left."""
    macro = np.full((430, 1280, 3), np.array(style.white) * 0.98, np.uint8)
    macro[:, :400] = (205, 208, 214)
    deposit = _fit(thumbnail, 800, 380)
    y, x = (430 - deposit.shape[0]) // 2, 440 + (800 - deposit.shape[1]) // 2
    macro[y : y + deposit.shape[0], x : x + deposit.shape[1]] = deposit
    return macro
