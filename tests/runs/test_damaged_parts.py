"""Laws of damaged parts: they are noticed before use, and their regions are made again."""

import json
import os
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.runs.part_file import part_bytes, read_part, read_sealed, sealed
from wsi_pipeline.runs.run_folder import RunFolder

PLAN = {"result_version": 1}


def some_objects(count):
    return Objects.from_polygons(
        [shapely.box(n, n, n + 5, n + 7) for n in range(count)],
        classes=("nucleus",),
        ids=np.arange(2 * count, dtype=np.uint64).reshape(count, 2),
        class_index=np.zeros(count, np.uint8),
        score=np.ones(count, np.float32),
    )


PART = part_bytes(some_objects(1), 0)
FAILURE = {"region": 1, "level0_box": [0, 0, 9, 9], "cause": "damaged tile"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_a_pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path.unlink()
    os.mkfifo(path)


def bomb(size):
    content = BytesIO()
    np.savez_compressed(content, coords=np.zeros(size))
    return content.getvalue()


def of_another_plan(path):
    with RunFolder(path.parents[1] / "other", {"result_version": 2}) as other:
        other.write_part(1, some_objects(1), 0)
    path.write_bytes((other.parts / path.name).read_bytes())


DAMAGE = {
    "a bit": flip,
    "cut short": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "with zeros behind it": lambda path: os.truncate(path, path.stat().st_size + 512),
    "longer than any part": lambda path: os.truncate(path, 1 << 33),
    "text": lambda path: path.write_text("[" * 1000),
    "a bomb": lambda path: path.write_bytes(bomb(10**6)),
    "of an earlier version": lambda path: path.write_bytes(PART),
    "of another region": lambda path: path.write_bytes(path.with_name("000000.npz").read_bytes()),
    "of another plan": of_another_plan,
    "a link": replace_by_a_link,
    "a pipe": replace_by_a_pipe,
}


@pytest.fixture
def run(tmp_path):
    """A run folder with three parts."""
    with RunFolder(tmp_path / "run", PLAN) as folder:
        for region in range(3):
            folder.write_part(region, some_objects(region), region)
    return tmp_path / "run"


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_part_is_made_again_and_no_other(run, kind, caplog):
    DAMAGE[kind](run / "parts" / "000001.npz")
    with RunFolder(run, PLAN) as folder:
        assert [folder.done(region) for region in range(3)] == [True, False, True]
        assert "000001.npz is made again: it" in caplog.text
        folder.write_part(1, some_objects(1), 7)
        assert list(folder.regions()) == [0, 1, 2] and folder.read_part(1)[1] == 7
    with RunFolder(run, PLAN) as folder:
        assert all(folder.done(region) for region in range(3))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_during_a_run_ends_it_with_a_remedy(run, kind):
    with RunFolder(run, PLAN) as folder:
        DAMAGE[kind](run / "parts" / "000001.npz")
        with pytest.raises(OutputError, match=r"000001\.npz is damaged .*the region is made again"):
            folder.read_part(1)
        assert folder.read_part(2)[1] == 2


@given(at=st.integers(0, len(PART) + 31), bit=st.integers(0, 7))
def test_each_bit_of_a_part_counts(tmp_path_factory, at, bit):
    path = tmp_path_factory.getbasetemp() / "000000.npz"
    content = bytearray(sealed(PART, b"0"))
    path.write_bytes(content)
    assert read_sealed(path, b"0") == PART
    content[at] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum is wrong"):
        read_sealed(path, b"0")


def test_a_part_takes_the_memory_of_its_bytes(tmp_path):
    """Not of the largest part that there may be, which some systems refuse."""
    path = tmp_path / "000000.npz"
    path.write_bytes(sealed(PART, b"0"))
    tracemalloc.start()
    try:
        read_sealed(path, b"0")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_arrays_that_unpack_to_more_than_the_file_are_refused():
    with pytest.raises(ValueError, match="its arrays are compressed"):
        read_part(BytesIO(bomb(10**6)))
    with pytest.raises(zipfile.BadZipFile):
        read_part(BytesIO(b"no archive"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", "[" * 100_000, json.dumps({**FAILURE, "region": 2}),
     json.dumps({**FAILURE, "region": None}), "\xff", " " * 17_000_000,
     json.dumps({**FAILURE, "cause": "\ud800"})],
    ids=range(11),
)  # fmt: skip
def test_a_region_whose_failure_cannot_be_read_is_made_again(run, text):
    with RunFolder(run, PLAN) as folder:
        folder.write_part(1, some_objects(1), 0, FAILURE)
        assert folder.failures() == [FAILURE]
    (run / "parts" / "000001.failed.json").write_text(text, "latin-1")
    with RunFolder(run, PLAN) as folder:
        assert [folder.done(region) for region in range(3)] == [True, False, True]
        assert folder.failures() == [] and not folder.has(1)


@pytest.mark.parametrize("record", [{}, {"failed_regions": []}, {"objects": 1},
                                    {"objects": "1", "failed_regions": []},
                                    {"objects": 1, "failed_regions": 0},
                                    {"objects": 1, "failed_regions": ["a"]}])  # fmt: skip
def test_a_run_json_without_what_is_used_is_refused_with_a_remedy(run, record):
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=r"run\.json cannot be used \(.+\); use --overwrite"):
        RunFolder(run, PLAN)
    with RunFolder(run, PLAN, overwrite=True) as folder:
        assert folder.finished is None


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000, "\0"])
@pytest.mark.parametrize("name", ["plan.json", "run.json"])
def test_a_record_that_is_no_mapping_is_refused_with_a_remedy(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(OutputError, match=rf"{name} cannot be read .*use --overwrite"):
        RunFolder(run, PLAN)
    with RunFolder(run, PLAN, overwrite=True) as folder:
        assert not list(folder.regions())
