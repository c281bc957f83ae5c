"""Small slides in the formats of scanners: Leica SCN, Ventana BIF and 3DHISTECH MRXS.

They have what OpenSlide's readers ask for, and little else; OpenSlide decides whether they are
right. Tiles are stored without loss, so that a pixel is known; those of MRXS may be JPEG.
"""

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE = 64
SLIDE_ID = "0123456789ABCDEF"


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def halves(picture, levels):
    return [picture[:: 2**k, :: 2**k].copy() for k in range(levels)]


def _tiles(pixels, missing=()):
    """Yield the tiles of a page, padded with white; None is a tile without data."""
    height, width = pixels.shape[:2]
    corners = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    for number, (y, x) in enumerate(corners):
        part = pixels[y : y + TILE, x : x + TILE]
        whole = np.full((TILE, TILE, 3), 255, np.uint8)
        whole[: part.shape[0], : part.shape[1]] = part
        yield None if number in missing else whole


def _page(tiff, pixels, missing=(), **more):
    tiff.write(
        _tiles(pixels, missing), shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE),
        photometric="rgb", compression="zlib", metadata=None, **more,
    )  # fmt: skip


# ── Leica ─────────────────────────────────────────────────────────────────────────────────────

_SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">
<collection name="c" uuid="urn:uuid:2" sizeX="{x}" sizeY="{y}">{images}</collection></scn>"""
_SCN_IMAGE = """<image name="{name}" uuid="urn:uuid:3">
<creationDate>2026-01-01T00:00:00Z</creationDate><device model="m" version="1"/>
<pixels sizeX="{w}" sizeY="{h}">{dimensions}</pixels>
<view sizeX="{view_x}" sizeY="{view_y}" offsetX="{x}" offsetY="{y}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><numericalAperture>0.4</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>
</image>"""


def write_scn(path, canvas, areas, *, nm=250, missing=()):
    """Write scanned areas on an empty canvas, and an overview.

    Parameters
    ----------
    canvas
        (width, height), level-0 pixels
    areas
        pairs of the levels of an area and its (x, y)
    missing
        numbers of the tiles of the first page that have no data
    """
    images, pages = "", []
    whole = [*((levels, at, False) for levels, at in areas), ([noise(90, 100)], (0, 0), True)]
    for number, (levels, (x, y), overview) in enumerate(whole):
        dimensions = "".join(
            f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{r}" '
            f'ifd="{len(pages) + r}"/>'
            for r, level in enumerate(levels)
        )
        pages += levels
        height, width = levels[0].shape[:2]
        view = canvas if overview else (width, height)
        images += _SCN_IMAGE.format(
            name=number, w=width, h=height, dimensions=dimensions, x=x * nm, y=y * nm,
            view_x=view[0] * nm, view_y=view[1] * nm,
        )  # fmt: skip
    text = _SCN.format(x=canvas[0] * nm, y=canvas[1] * nm, images=images)
    per_cm = 1e7 / nm
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, page in enumerate(pages):
            first = number == 0
            _page(
                tiff, page, missing if first else (), description=text if first else None,
                resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


# ── Ventana ───────────────────────────────────────────────────────────────────────────────────


def _joints(columns, rows, overlap):
    """Return the joints between the tiles of an area, numbered in turns from its lower left."""

    def number(column, row):
        return row * columns + (columns - 1 - column if row % 2 else column) + 1

    pairs = [
        *(("RIGHT", (c, r), (c + 1, r), overlap[0], 0)
          for r in range(rows) for c in range(columns - 1)),
        *(("UP", (c, r), (c, r + 1), 0, overlap[1])
          for r in range(rows - 1) for c in range(columns)),
    ]  # fmt: skip
    return "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{direction}" '
        f'Tile1="{number(*a)}" Tile2="{number(*b)}" OverlapX="{x}" OverlapY="{y}"/>'
        for direction, a, b, x, y in pairs
    )


def write_bif(path, picture, areas, *, levels=3, overlap=(4, 6), missing=()):
    """Write scanned areas whose tiles overlap.

    Parameters
    ----------
    picture
        (h, w, 3): the stored tiles side by side, before they are moved together
    areas
        (column, row, columns, rows, x, y): tiles of an area, and its place
    missing
        numbers of the tiles of level 0 that have no data
    """
    stitched = "".join(
        f'<ImageInfo AOIScanned="1" AOIIndex="{n}" NumRows="{rows}" NumCols="{columns}" '
        f'Width="{TILE}" Height="{TILE}" Pos-X="{x}" Pos-Y="{y}">'
        f"{_joints(columns, rows, overlap)}</ImageInfo>"
        for n, (_, _, columns, rows, x, y) in enumerate(areas)
    )
    origins = "".join(
        f'<AOI{n} OriginX="{column * TILE}" OriginY="{row * TILE}"/>'
        for n, (column, row, *_) in enumerate(areas)
    )
    encoded = (
        f'<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo>{stitched}</SlideStitchInfo>'
        f"<AoiOrigin>{origins}</AoiOrigin></EncodeInfo>"
    ).encode()
    scan = b'<iScan Magnification="20" ScanRes="0.465" Z-layers="1" ScannerModel="x"/>'
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        packet = [(700, 7, len(scan), scan, True)]
        _page(tiff, noise(TILE, TILE), description="Label_Image", extratags=packet)
        packet = [(700, 7, len(encoded), encoded, True)]
        for k, level in enumerate(halves(picture, levels)):
            _page(
                tiff, level, () if k else missing, extratags=None if k else packet,
                description=f"level={k} mag={20 / 2**k:g} quality=95",
            )  # fmt: skip
    return path


# ── 3DHISTECH ─────────────────────────────────────────────────────────────────────────────────


def _packed(pixels, kind):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def _slidedat(across, down, levels, overlap, kind, placed):
    names = {f"HIER_0_VAL_{k}": f"ZoomLevel_{k}" for k in range(levels)}
    sections = {f"HIER_0_VAL_{k}_SECTION": f"LAYER_0_LEVEL_{k}_SECTION" for k in range(levels)}
    ini = {
        "GENERAL": {
            "SLIDE_VERSION": "01.02", "SLIDE_ID": SLIDE_ID, "IMAGENUMBER_X": across,
            "IMAGENUMBER_Y": down, "OBJECTIVE_MAGNIFICATION": 20, "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1, "NONHIER_COUNT": int(placed), "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level", "HIER_0_COUNT": levels, **names, **sections,
        },
        "DATAFILE": {"FILE_COUNT": 1 + placed, "FILE_0": "Data0000.dat", "FILE_1": "Data0001.dat"},
    }  # fmt: skip
    if placed:
        ini["HIERARCHICAL"] |= {
            "NONHIER_0_NAME": "VIMSLIDE_POSITION_BUFFER", "NONHIER_0_COUNT": 1,
            "NONHIER_0_VAL_0": "default", "NONHIER_0_SECTION": "NONHIERLAYER_0_SECTION",
        }  # fmt: skip
    for k in range(levels):
        ini[f"LAYER_0_LEVEL_{k}_SECTION"] = {
            "OVERLAP_X": overlap[0] / 2**k, "OVERLAP_Y": overlap[1] / 2**k,
            "MICROMETER_PER_PIXEL_X": 0.25 * 2**k, "MICROMETER_PER_PIXEL_Y": 0.25 * 2**k,
            "IMAGE_FORMAT": kind, "IMAGE_FILL_COLOR_BGR": 0xF0E0D0, "DIGITIZER_WIDTH": TILE,
            "DIGITIZER_HEIGHT": TILE, "IMAGE_CONCAT_FACTOR": min(k, 1),
        }  # fmt: skip
    return "".join(
        f"[{section}]\r\n" + "".join(f"{name} = {value}\r\n" for name, value in entries.items())
        for section, entries in ini.items()
    )


def write_mrxs(
    path: Path, picture, *, levels=3, overlap=(0, 0), missing=(), kind="PNG", places=None
):
    """Write a slide of whole images, ``TILE`` wide; level k joins 2**k of them to one.

    Parameters
    ----------
    picture
        (h, w, 3): the stored images side by side
    overlap
        pixels that neighbours have in common
    missing
        (level, column, row) of images that are not stored, columns and rows of level 0
    kind
        format of the images, "PNG" or "JPEG"
    places
        (x, y) of each image, row by row, level-0 pixels, as a file of positions states them
    """
    down, across = (side // TILE for side in picture.shape[:2])
    head = b"01.02" + SLIDE_ID.encode()
    data, pages = bytearray(head), []
    for k, level in enumerate(halves(picture, levels)):
        images = []
        for y, x in np.ndindex(-(-down // 2**k), -(-across // 2**k)):
            if (k, x * 2**k, y * 2**k) in missing:
                continue
            part = level[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
            packed = _packed(next(_tiles(part)), kind)
            images.append((y * 2**k * across + x * 2**k, len(data), len(packed), 0))
            data += packed
        pages.append(images)
    index = bytearray(head)
    start = len(index) + 8 + 4 * levels
    lists, stated = b"", b"".join(struct.pack("<bii", 0, x, y) for x, y in places or ())
    after = start + sum(16 + 16 * len(images) for images in pages)
    index += struct.pack("<ii", len(index) + 8, after)
    for images in pages:
        here = start + len(lists)
        index += struct.pack("<i", here)
        lists += struct.pack("<iiii", 0, here + 8, len(images), 0)
        lists += b"".join(struct.pack("<iiii", *image) for image in images)
    folder = path.with_suffix("")
    folder.mkdir()
    Image.fromarray(noise(30, 40)).save(path, "JPEG")  # an overview, as scanners write it
    if stated:
        lists += struct.pack("<iii", after + 4, 0, after + 12)
        lists += struct.pack("<iiiiiii", 1, 0, 0, 0, len(head), len(stated), 1)
        (folder / "Data0001.dat").write_bytes(head + stated)
    ini = _slidedat(across, down, levels, overlap, kind, places is not None)
    (folder / "Slidedat.ini").write_text(ini, "utf-8")
    (folder / "Index.dat").write_bytes(bytes(index) + lists)
    (folder / "Data0000.dat").write_bytes(bytes(data))
    return path
