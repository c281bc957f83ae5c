"""A cohort of 40 files of which 25 are broken, each in another way: 15 done, 25 named."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest
import tifffile
from cheap_models import cheap_models
from command_line import wsiseg
from PIL import Image

from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.core.run_layout import RUN_FILES

GOOD, BROKEN = 15, 25


def tiff(path, shape=(600, 600, 3), **options):
    """A slide of grey pixels, with the middle tag of its choice changed by `put`."""
    put = options.pop("put", {})
    how = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib", **options}
    tifffile.imwrite(path, np.full(shape, 230, np.uint8), **how)
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        places = {code: (tags[code].offset, tags[code].dtype) for code in put}
    data = bytearray(path.read_bytes())
    for code, value in put.items():
        at, kind = places[code]
        struct.pack_into("<I" if kind == 4 else "<H", data, at + 8, value)
    path.write_bytes(data)


def broken(folder, slide):
    """Write 25 files, each broken in another way; return their names."""
    whole = slide.read_bytes()
    cut = {"half": whole[: len(whole) // 2], "head": whole[:100], "eight": whole[:8], "empty": b""}
    cut |= {"text": b"no pixels\n", "zeros": bytes(50_000), "ones": b"\xff" * 50_000}
    cut |= {
        "gzip": b"\x1f\x8b\x08" + whole[:999],
        "backwards": whole[::-1],
        "shifted": b"x" + whole,
    }
    cut |= {"page": b"<html><body>404</body></html>", "first": whole[:4] + b"\xff" * 4 + whole[8:]}
    for name, data in cut.items():
        (folder / f"{name}.svs").write_bytes(data)
    strips = {"tile": None, "rowsperstrip": 16, "compression": "lzma"}
    tiff(folder / "wide.tif", put={256: 2**31})
    tiff(folder / "high.tif", **strips, put={257: 1_000_000})
    tiff(folder / "flat.tif", **strips, put={257: 0})
    tiff(folder / "packed.tif", put={259: 999})
    tiff(folder / "turned.tif", extratags=[(274, 3, 1, 6, True)])
    tiff(folder / "tiles.tif", put={322: 2**16})
    tiff(folder / "none.tif", **strips, put={278: 0})
    tifffile.imwrite(folder / "float.tif", np.ones((600, 600, 3), np.float32), photometric="rgb")
    image = Image.new("RGB", (900, 900), "white")
    image.save(folder / "cut.png")
    image.save(folder / "short.jpg")
    for name in ("cut.png", "short.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-300])
    png = bytearray((folder / "cut.png").read_bytes())
    (folder / "bomb.png").write_bytes(png[:16] + struct.pack(">II", 30_000, 30_000) + png[24:])
    (folder / "huge.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 1_000_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100))  # fmt: skip
    (folder / "loop.svs").symlink_to("loop.svs")
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_of_forty_files_the_fifteen_whole_ones_are_done(made, tmp_path):
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    names = broken(folder, made / "a.svs")
    assert len(names) == BROKEN
    good = [f"whole{number:02}.svs" for number in range(GOOD)]
    for name in good:
        shutil.copy(made / "a.svs", folder / name)
    mixed = sorted([*names, *good], key=lambda name: name[::-1])
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("slide,mpp\n" + "".join(f"slides/{name},0.5\n" for name in mixed))
    assert len(find_slides([str(sheet)])) == GOOD + BROKEN
    with cheap_models():
        ended = wsiseg("run", sheet, "--out", out, "--quiet")
    assert ended.exit_code == 1, ended.output
    lines = [line for line in ended.stderr.splitlines() if line.startswith("wsiseg: ")]
    named = {name for name in names if sum(line.count(f"{name}") for line in lines)}
    assert named == set(names)
    assert not any(name in line for line in lines for name in good)
    runs = {
        path.parent.parent.name: json.loads(path.read_text()) for path in out.glob("*/*/run.json")
    }
    whole = {slide: run["objects"] for slide, run in runs.items() if not run["failed_regions"]}
    assert sorted(whole) == [name.removesuffix(".svs") for name in good]
    assert len(set(whole.values())) == 1
    assert all(runs[slide]["failed_regions"][0]["cause"] for slide in set(runs) - set(whole))
    left = {p.name for p in out.rglob("*") if p.is_file()} - {"000000.failed.json"}
    assert left <= set(RUN_FILES), "no part, and nothing half written"
    assert {p.name for p in out.iterdir()} == set(runs)
