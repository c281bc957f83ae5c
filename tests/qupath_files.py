"""What QuPath writes, for the tests of what reads it."""

import json

import shapely


def annotation(shape, name=None):
    """One annotation of QuPath."""
    kind = {} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}}
    geometry = json.loads(shapely.to_geojson(shape))
    return {"type": "Feature", "geometry": geometry,
            "properties": {"objectType": "annotation", **kind}}  # fmt: skip
