"""docs/outputs.md names every file, key and measurement of a run; cohort.md every column."""

import dataclasses
import inspect
from pathlib import Path

import pytest

from wsi_pipeline.core import records, run_layout
from wsi_pipeline.reports.slide_summary import COLUMNS
from wsi_pipeline.runs.lock_owner import LockOwner
from wsi_pipeline.runs.part_file import PartHeader
from wsi_pipeline.segmentation.boxes import BoxModel
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.extended_features import EXTENDED
from wsi_pipeline.segmentation.nuclei import model_from_function
from wsi_pipeline.segmentation.pixel_features import COLUMNS as OF_PIXELS

DOCS = Path(__file__).parents[2] / "docs"
OUTPUTS = (DOCS / "outputs.md").read_text("utf-8")
RECORDS = [PartHeader, *(v for _, v in inspect.getmembers(records, inspect.isclass)
                         if "__total__" in vars(v))]  # fmt: skip


def named(names, text=OUTPUTS):
    assert [n for n in names if f"`{n}`" not in text and f".{n}`" not in text] == []


def test_every_file_is_named():
    named([*run_layout.RUN_FILES, run_layout.LOCK_JSON])


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_every_key_is_named_and_is_snake_case(record):
    keys = record.__annotations__
    assert all(k == k.lower() and k.isidentifier() for k in keys)
    named(keys)


def test_the_records_are_there_and_the_lock_is_named():
    assert {records.RunRecord, records.PlanRecord, records.FailureRecord} <= set(RECORDS)
    named(field.name for field in dataclasses.fields(LockOwner))


def test_every_measurement_and_column_is_named():
    function = model_from_function(lambda image: image[..., 0], name="a", mpp=0.5)
    cells = InstanceModel(name="b", classes=("cell", "nucleus"), mpp=1, halo_px=0, stride=1,
                          tile_px=64, identity="b", network=lambda images: [])  # fmt: skip
    boxes = BoxModel(name="c", classes=("nucleus",), mpp=1, halo_px=0, stride=1, tile_px=64,
                     identity="c", network=lambda images: [])  # fmt: skip
    for model in (function, cells, boxes):
        named(model.empty().features)
    named(["id", "class", "score", "parent_id", "geometry", "bbox"])


def test_every_extended_measurement_is_named():
    prefixes = ("Nucleus: ", "Cytoplasm: ")
    own = [n for n in EXTENDED if n.removeprefix(prefixes[0]).removeprefix(prefixes[1])
           not in OF_PIXELS]  # fmt: skip
    stains = [n.rsplit(" OD ", 1)[0] + " OD" if " OD " in n else n for n in OF_PIXELS]
    named([n for n in (*own, *stains) if not n.startswith("OD ")])


def test_every_column_of_the_tables_is_described():
    text = (DOCS / "cohort.md").read_text("utf-8")
    spread = ("_p10", "_p25", "_median", "_p75", "_p90", "_iqr")
    stems = {next((c.removesuffix(s) + "_*" for s in spread if c.endswith(s)), c) for c in COLUMNS}
    between = {"height_px", "mpp_um"}  # written as `width_px` … `mpp_source`
    named(sorted(stems - between), text)
