"""docs/security.md: no file runs code, writes outside the output folder, or fills the memory."""

from __future__ import annotations

import ast
import gzip
import json
import re
import shutil
import struct
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
import zipfile
import zlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from wsiseg_models.training import pretrained
from wsiseg_models.training.initial_weights import start_from

from wsi_pipeline.batch.run_many import run_slides
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, DataError, SlideFormatError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.core.run_layout import run_folder_path
from wsi_pipeline.core.safe_names import NameRefused, check_name, slide_id_of
from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.reports.slide_summary import write_features
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.slides.tiff_reader import TiffReader

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Exploit:
    """Create a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path):
    done, path = tmp_path / "done", tmp_path / "state.pt"
    torch.save({"ema": {}, "x": Exploit(done)}, path)
    with pytest.raises(ValueError, match="more than weights"):
        pretrained._read(path)
    with pytest.raises(ValueError, match="more than weights"):
        start_from(torch.nn.Linear(1, 1), path)
    renamed = shutil.copy(path, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        model_for(RunConfig(checkpoint=renamed, out=tmp_path))
    assert not done.exists()
    torch.load(path, weights_only=False)
    assert done.exists()  # the file can run code where it is allowed to


BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "/etc",
    "a\\b",
    "a\nb",
    "a\0b",
    "\x1b[2J",
    "a\u202eb",
    "\udc80",
    "x" * 201,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_cannot_be_a_folder_is_refused(name, tmp_path):
    with pytest.raises(NameRefused, match="cannot name a slide's results"):
        check_name(name)
    with pytest.raises(NameRefused):
        run_folder_path(tmp_path, name, "dssnet")
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=40))
@example("Präparat 7 (2026) – №3")
def test_an_accepted_name_stays_in_its_folder(name):
    try:
        check_name(name)
    except NameRefused as refusal:
        assert str(refusal).isprintable()
        return
    out = Path("/out")
    assert (out / name).parent == out
    assert (out / f"{name}.summary.json").parent == out
    assert "\n" not in name
    assert name not in (".", "..")


@pytest.mark.parametrize("name", ["...svs", "..svs", "...ome.tif", "a\nb.svs", "\x1b[31m.svs"])
def test_the_name_of_a_slide_cannot_lead_out_of_the_output(name, slide_path, darkness, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    slide, good = folder / name, folder / "good.svs"
    for path in (slide, good):
        shutil.copy(slide_path, path)
    out = tmp_path / "deep" / "out"
    with pytest.raises(NameRefused):
        slide_id_of(slide)
    with pytest.raises(SlideFormatError):
        run_slide(slide, RunConfig(out=out, quiet=True), model=darkness)
    config = RunConfig(out=out, quiet=True, mpp=0.5)
    (outcome,) = run_slides([SlideRequest(slide)], config)
    assert outcome.failed
    assert "rename the file" in outcome.cause
    assert [p for p in tmp_path.rglob("*") if p.name in ("run.json", "plan.json")] == []


def test_features_do_not_follow_a_forged_id(tmp_path):
    folder = tmp_path / "in" / "run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"slide": {"id": "../../escaped"}}))
    with pytest.raises(DataError, match="path separator"):
        write_features(folder, tmp_path / "in" / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "run", "run.json"]


def png(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def bmp(width, height):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + head + bytes(100)


def tiff(width, height, chunk, data, *, tiled):
    """One RGB chunk, deflated, of the given width and height."""
    tags = {
        256: (4, width), 257: (4, height), 258: (3, 0), 259: (3, 8), 262: (3, 2), 277: (3, 3),
        284: (3, 1),
    }  # fmt: skip
    if tiled:
        tags |= {322: (4, chunk[0]), 323: (4, chunk[1]), 324: (4, 0), 325: (4, len(data))}
    else:
        tags |= {273: (4, 0), 278: (4, chunk[1]), 279: (4, len(data))}
    bits = 8 + 2 + 12 * len(tags) + 4
    out = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag in sorted(tags):
        kind, value = tags[tag]
        value = bits if tag == 258 else bits + 6 if tag in (273, 324) else value
        count = 3 if tag == 258 else 1
        form = "<HHIHH" if kind == 3 and count == 1 else "<HHII"
        out += struct.pack(form, tag, kind, count, value, *([0] if form == "<HHIHH" else []))
    return out + struct.pack("<IHHH", 0, 8, 8, 8) + data


FILL = zlib.compress(bytes(100_000))
ABSURD = {
    "million.png": (png(1_000_000, 1_000_000), "1000000 x 1000000 pixels, too many"),
    "just-too-large.png": (png(2**15, 2**14 + 1), "32768 x 16385 pixels, too many"),
    "million.bmp": (bmp(1_000_000, 30_000), "1000000 x 30000 pixels, too many"),
    "tile.tif": (tiff(65536, 65536, (65536, 65536), FILL, tiled=True), "tiles of 65536 x 65536"),
    "tile31.tif": (tiff(2**31 - 16, 2**31 - 16, (2**31 - 16,) * 2, FILL, tiled=True), "tile31.tif"),
    "strip.tif": (tiff(60_000, 60_000, (0, 60_000), FILL, tiled=False), "3600000000 pixels"),
}


# A process that may take at most 512 MB more: asking for the absurd amount would end it.
OPEN_ALL = """
import json, pathlib, resource, sys
from wsi_pipeline.core.errors import SlideFormatError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.slide import open_slide
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**29,) * 2)
refusals = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        open_slide(path, mpp=0.5).read_region(Box(0, 0, 8, 8))
    except SlideFormatError as error:
        refusals[path.name] = str(error)
print(json.dumps(refusals))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """The error for each of the absurd images, by name."""
    if sys.platform != "linux":
        pytest.skip("only Linux limits a process's memory")
    folder = tmp_path_factory.mktemp("absurd")
    for name, (data, _) in ABSURD.items():
        assert len(data) < 10_000
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", OPEN_ALL, str(folder)]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_image_is_refused_before_memory_is_taken(name, refusals):
    assert ABSURD[name][1] in refusals[name]
    assert "; " in refusals[name]  # the remedy


def test_a_large_tile_is_read(tmp_path):
    path = tmp_path / "large-tile.tif"
    path.write_bytes(tiff(4096, 4096, (4096, 4096), zlib.compress(bytes(3 * 4096**2)), tiled=True))
    with open_slide(path, mpp=0.5) as slide:
        assert not slide.read_region(slide.bounds).any()


def test_tifffile_refuses_such_tiles_too(tmp_path):
    path = tmp_path / "tile.tif"
    path.write_bytes(ABSURD["tile.tif"][0])
    with pytest.raises(Exception, match="tile or strip has 4294967296 pixels"):
        TiffReader(path)


def test_xml_cannot_multiply():
    names = [f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 50}">' for i in range(12)]
    with pytest.raises(ET.ParseError, match="amplification"):
        ET.fromstring(f"<!DOCTYPE r [{''.join(names)}]><r>&e11;</r>")


def spaces(size):
    return b'{"type":"FeatureCollection","features":[' + b" " * size + b"]}"


def test_geojson_that_unpacks_to_too_much_is_refused(tmp_path):
    size = 2**26 + 10_000_000
    packed = tmp_path / "bomb.geojson.gz"
    packed.write_bytes(gzip.compress(spaces(size), 9))
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.geojson", spaces(size // 2))
        file.writestr("b.geojson", spaces(size // 2))
    for path in (packed, archive):
        with pytest.raises(DataError, match="over 100 times as much; if you trust it"):
            read_geojson(path)
    packed.write_bytes(gzip.compress(spaces(1_000_000), 9))
    assert len(read_geojson(packed)) == 0  # far below the limit in bytes, whatever the ratio


def test_parquet_that_claims_too_much_is_refused(tmp_path):
    path = tmp_path / "objects.parquet"
    table = pa.table({"score": pa.array([0.5], pa.float32()).take(pa.array([0] * 3_000_000))})
    pq.write_table(table.replace_schema_metadata({"wsiseg": "{}"}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"states 3000000 objects in \d+ bytes; it is damaged"):
        read_parquet(path)


def test_each_promise_names_a_test_that_exists():
    promised, _ = (ROOT / "docs" / "security.md").read_text("utf-8").split("## Not promised")
    promises = re.findall(r"^- \*\*(.+?)\*\*((?:.*\n(?!- ))*.*)", promised, re.M)
    assert len(promises) > 14
    for promise, text in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)`", text)
        assert named, promise
        assert all((ROOT / name).is_file() for name in named), named


LISTENING = {
    "wsi_pipeline/cli/view.py": {"webbrowser"},
    "wsi_pipeline/runs/dask_client.py": {"asyncio"},
    "wsi_pipeline/runs/dask_worker.py": {"socket"},  # the name of the machine
    "wsi_pipeline/runs/lock_owner.py": {"socket"},  # the name of the machine
    "wsi_pipeline/viewer/server.py": {"http"},
}
"""Modules that import what can open a connection, see "Nothing is fetched or sent"."""
NETWORK = {
    "aiohttp", "asyncio", "fsspec", "ftplib", "http", "httpx", "huggingface_hub", "pooch",
    "requests", "smtplib", "socket", "socketserver", "ssl", "urllib3", "webbrowser", "xmlrpc",
}  # fmt: skip
FETCHES = {"hub", "load_state_dict_from_url", "urlopen", "urlretrieve", "load_url"}


def test_no_module_opens_a_connection():
    found: dict[str, set[str]] = {}
    for path in (*(ROOT / "wsi_pipeline").rglob("*.py"), *(ROOT / "models").rglob("*.py")):
        named = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name.partition(".")[0] for alias in node.names} & NETWORK
            elif isinstance(node, ast.ImportFrom) and not node.level:
                named |= {str(node.module).partition(".")[0]} & NETWORK
                named |= {alias.name for alias in node.names} & FETCHES
            elif isinstance(node, ast.Attribute):
                named |= {node.attr} & FETCHES
        if named:
            found[path.relative_to(ROOT).as_posix()] = named
    assert found == LISTENING


def test_the_audit_reads_every_pin_and_fails_where_it_cannot():
    audit = yaml.safe_load((ROOT / ".github" / "workflows" / "audit.yml").read_text("utf-8"))
    last = audit["jobs"]["audit"]["steps"][-1]["run"].split()
    assert last[:3] == ["pip-audit", "--requirement", "constraints.txt"]
    assert {"--no-deps", "--strict"} <= set(last)


PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)


def test_constraints_name_plain_versions():
    for name, version in PINS.items():
        assert str(Version(version)) == version, name
        assert Version(version).local is None, name  # torch +cpu would forbid a GPU's


def direct():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(r) for r in [*PROJECT["dependencies"], *(r for e in extras for r in e)]]


@pytest.mark.parametrize("requirement", direct(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_within_its_range(requirement):
    pins = {canonicalize_name(k): v for k, v in PINS.items()}
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_what_requirements_require_is_pinned_and_nothing_else():
    pins = {canonicalize_name(k): v for k, v in PINS.items()}
    waiting, seen = direct(), set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            there = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        if there.version != pins.get(key[0], there.version):
            pytest.skip(f"{key[0]} {there.version} is installed, {pins[key[0]]} pinned")
        for text in there.requires or ():
            further = Requirement(text)
            extras = ("", *requirement.extras)
            if not further.marker or any(further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)
    if len({name for name, _ in seen}) >= len(pins):
        assert {name for name, _ in seen} == set(pins)
    else:
        pytest.skip("not all extras are installed")
