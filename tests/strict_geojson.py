"""A strict GeoJSON reader: an error for all that QuPath 0.4 to 0.7 refuses, drops or warns about.

Also small GeoJSON documents, good ones and ones with one fault.
"""

import copy
import json
import uuid
from decimal import Decimal

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.objects import Objects

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def check(text: str) -> list[dict]:
    """Features of a FeatureCollection that every QuPath opens without a warning."""

    def no_duplicates(pairs):
        assert len({key for key, _ in pairs}) == len(pairs), "duplicate key"
        assert all(value is not None for _, value in pairs), "null"
        return dict(pairs)

    def no_constant(name):
        raise AssertionError(f"{name} is not a number")

    document = json.loads(
        text,
        object_pairs_hook=no_duplicates,
        parse_constant=no_constant,
        parse_float=Decimal,
        parse_int=Decimal,
    )
    assert document["type"] == "FeatureCollection"
    features = document["features"]
    for feature in features:
        _check_feature(feature)
    assert len({f["id"] for f in features}) == len(features), "ids repeat"
    return features


def _check_feature(feature):
    assert set(feature) == {"type", "id", "geometry", "properties"}, "keys of a Feature"
    assert feature["type"] == "Feature"
    assert isinstance(feature["id"], str) and str(uuid.UUID(feature["id"])) == feature["id"], "id"
    _check_geometry(feature["geometry"])
    properties = feature["properties"]
    allowed = {"objectType", "classification", "name", "isLocked", "measurements"}
    assert set(properties) <= allowed, "QuPath drops other properties"
    assert properties["objectType"] in ("annotation", "detection", "cell", "tile"), "objectType"
    if "classification" in properties:
        classification = properties["classification"]
        assert set(classification) == {"name", "color"}, "class without colour"
        name, color = classification["name"], classification["color"]
        assert name == name.strip() != "" and "\n" not in name
        assert len(color) == 3 and all(c in range(256) for c in color), "colour"
    for name, value in properties.get("measurements", {}).items():
        assert name.strip() and isinstance(value, Decimal), "measurement"
        assert np.isfinite(np.float32(float(value)))


def _check_geometry(geometry):
    assert set(geometry) == {"type", "coordinates"}
    parts = [geometry["coordinates"]]
    if geometry["type"] == "MultiPolygon":
        parts = geometry["coordinates"]
    else:
        assert geometry["type"] == "Polygon"
    for ring in (ring for part in parts for ring in part):
        assert len(ring) >= 4, "too few points"
        assert ring[0] == ring[-1], "not closed"
        for number in (number for point in ring for number in point):
            assert isinstance(number, Decimal) and number * 100 == int(number * 100), "decimals"
    shapes = [shapely.Polygon(p[0], p[1:]) for p in np_floats(parts)]
    shape = shapes[0] if geometry["type"] == "Polygon" else shapely.MultiPolygon(shapes)
    assert shape.is_valid, shapely.is_valid_reason(shape)
    reduced = shapely.set_precision(shape, 0.01)
    assert reduced.is_valid
    # Vertices closer than the grid to another edge are snapped to it.
    assert reduced.area == pytest.approx(shape.area, abs=0.01 * shape.length)
    assert shape.area >= 1, "no area"


def np_floats(parts):
    return [[[[float(v) for v in point] for point in ring] for ring in part] for part in parts]


GOOD = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-00000000000{k}",
            "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": "nucleus", "color": [1, 2, 3]},
                "measurements": {"Area µm^2": 1.5},
            },
        }
        for k in range(2)
    ],
}


def mutated(where: str, value) -> dict:
    """GOOD with the member `where` of the second feature set, or taken out for `...`."""
    document = copy.deepcopy(GOOD)
    *path, last = where.split(".")
    target = document["features"][1]
    for key in path:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


def polygon(*rings, **members):
    return {"type": "Polygon", "coordinates": list(rings), **members}


def saved(path, document, encoding="utf-8"):
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding)
    return path


def objects_of(shapes, features=None, classes=("nucleus", 'a "quoted" µ-class')) -> Objects:
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=classes,
        ids=np.stack([np.arange(n, dtype=np.uint64), np.full(n, 2**63 + 5, np.uint64)], axis=1),
        class_index=(np.arange(n) % len(classes)).astype(np.uint8),
        score=np.linspace(0, 1, n, dtype=np.float32),
        features=features,
    )
