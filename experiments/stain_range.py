"""Measure the range of stains in the training sets of a nucleus model, for `wsiseg run --adapt`.

    python experiments/stain_range.py CHECKPOINT SET[=WEIGHT]... [--write]

`wsiseg train` measures it itself; this is for weights that were trained before. Give the sets with
the weights of the training: the checkpoint's card lists them. Images that the training held out
are left out. With --write the range goes into the card of the checkpoint, and is appended to
results/stain_range.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from wsiseg_models.checkpoint import load_checkpoint, save_checkpoint
from wsiseg_models.training.coco import Split
from wsiseg_models.training.config import weighted
from wsiseg_models.training.semantic_data import Sample, load_set
from wsiseg_models.training.stain_of_sets import range_of_samples

RESULTS = Path(__file__).parent / "results" / "stain_range.md"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("sets", nargs="+", metavar="SET[=WEIGHT]")
    parser.add_argument("--write", action="store_true", help="write it into the checkpoint")
    given = parser.parse_args()
    state, card = load_checkpoint(given.checkpoint)
    split = Split(card.training.get("split", "fold:0/5"))
    samples: list[Sample] = []
    chances: list[float] = []
    for spec in given.sets:
        where, weight = weighted(spec)
        mine, _ = load_set(where, mpp=card.mpp, split=split)
        area = np.array([s.labels.size for s in mine], float)
        chances += list(weight * area / area.sum())
        samples += mine
    entry = {**range_of_samples(samples, np.array(chances)), "sets": sorted(map(_name, given.sets))}
    print(json.dumps(entry, indent=1))
    if given.write:
        halved = any(v.element_size() == 2 for v in _stored(given.checkpoint))
        card = replace(card, stain=entry, sha256="")
        save_checkpoint(given.checkpoint, state, card, half=halved)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(f"- {given.checkpoint.stem}: {json.dumps(entry)}\n")


def _name(spec: str) -> str:
    place = Path(weighted(spec)[0])
    return (place.parent if place.suffix else place).name


def _stored(path: Path) -> list:
    from safetensors.torch import load_file

    return list(load_file(path).values())


if __name__ == "__main__":
    main()
