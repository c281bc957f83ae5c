"""Compare the objects of two runs of the same slide: ids, outlines and measurements.

    python experiments/same_objects.py BEFORE/objects.parquet AFTER/objects.parquet

Prints one row of the table in experiments/results/same_objects.md. Reads the files with pyarrow and
shapely alone, so that it can compare runs of different versions of wsiseg. Exit code 1 if an
outline moved by more than --tolerance-px.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import shapely


def compare(before: Path, after: Path) -> dict[str, float]:
    """Figures of the comparison; distances are Hausdorff distances of outlines, level-0 px."""
    old, new = (pq.read_table(path).to_pandas().set_index("id") for path in (before, after))
    ids = old.index.intersection(new.index)
    a, b = (shapely.from_wkb(table.loc[ids, "geometry"].to_numpy()) for table in (old, new))
    same = shapely.equals_exact(shapely.normalize(a), shapely.normalize(b), 1e-9)
    moved = np.flatnonzero(~same)
    distance = shapely.hausdorff_distance(a[moved], b[moved])
    numbers = [n for n in old.columns if old[n].dtype.kind == "f" and n in new.columns]
    x, y = (table.loc[ids, numbers].to_numpy(np.float64) for table in (old, new))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(x - y) / np.maximum(np.abs(x), 1e-9)
    relative[(x == y) | (np.isnan(x) & np.isnan(y))] = 0
    return {
        "before": len(old), "after": len(new), "shared": len(ids), "equal": int(same.sum()),
        "distance": float(distance.max(initial=0)),
        "measured": float(np.nan_to_num(relative, nan=np.inf).max(initial=0)),
        "missing columns": len(set(old.columns) - set(new.columns)),
    }  # fmt: skip


def main() -> None:
    """Print the row of two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--name", default="", help="first column of the row")
    parser.add_argument("--tolerance-px", type=float, default=0.0)
    given = parser.parse_args()
    r = compare(given.before, given.after)
    print(
        f"| {given.name} | {r['before']:.0f} and {r['after']:.0f} | {r['shared']:.0f} "
        f"| {r['equal']:.0f} | {r['distance']:.3f} | {r['measured']:.2g} |"
    )
    sys.exit(r["distance"] > given.tolerance_px or r["missing columns"] > 0)


if __name__ == "__main__":
    main()
