"""Helpers for tests that read or change run folders and HTML pages."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import SCHEMA_VERSION
from wsi_pipeline.formats.geoparquet import ParquetWriter
from wsi_pipeline.segmentation.morphometry import morphometry


def change_run(folder, **entries):
    """Replace entries of run.json."""
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def blank_run(slide, **entries):
    """A run.json that states as little as it can."""
    about = {"id": slide, "file": slide, "reader": "", "decoder": "", "vendor": ""}
    about |= {"width": 1, "height": 1, "bounds": [0, 0, 1, 1], "notes": []}
    about["mpp"] = {"x": 1.0, "y": 1.0, "source": ""}
    model = {"name": "", "identity": "", "precision": "", "classes": [], "mpp": 1.0, "halo_px": 0}
    return {
        "schema_version": SCHEMA_VERSION, "wsiseg": "", "slide": about, "model": model,
        "foreground": {"rule": "", "share": 1.0}, "settings": {}, "versions": {}, "device": "",
        "python": "", "objects": 0, "objects_larger_than_seen": 0, "regions": 0,
        "failed_regions": [], "seconds": 0.0, "stage_seconds": {}, "peak_memory_mb": 0,
        "batch_reduced_to": None, "cluster": None, "adaptation": None, **entries,
    }  # fmt: skip


def put_objects(folder, objects):
    """Replace the objects of a run."""
    with ParquetWriter(folder / "objects.parquet") as writer:
        writer.write(objects)


def squares(areas_px, *, step=1000, classes=("nucleus",)):
    """Square objects of the given areas side by side, `step` pixels apart."""
    side = np.sqrt(np.asarray(areas_px, float))
    x = np.arange(len(side)) * step
    n = len(side)
    return Objects.from_polygons(
        shapely.box(x, 0, x + side, side),
        classes=classes,
        ids=np.stack([np.zeros(n), np.arange(n)], 1).astype(np.uint64),
        class_index=np.zeros(n, np.uint8),
        score=np.ones(n, np.float32),
    )


def nuclei(areas_px, mpp=0.5):
    """Square nuclei with their measurements."""
    objects = squares(areas_px)
    return replace(objects, features=morphometry(objects, mpp))


class Page(HTMLParser):
    """Checks that the elements of a page nest, and keeps tags, text and what they link to."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
