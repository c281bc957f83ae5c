"""Measure labels on a real stain that the network of kinds has not seen.

    python experiments/learn_kinds_real.py WORK REPLAY [--labels 40] [--draws 5]

WORK is the folder of crops of `nucleus_kinds.py`, REPLAY the generated fields that `wsiseg train
nucleus_kinds` made. A network is trained without cric_fields, as `nucleus_kinds.py` does it. Each
field of the set is then judged by the network that went on from it on 40 labels of the other
fields, drawn at random: what is marked there, and what a developer called the objects beside the
marks; a leukocyte has the label "not a cell". The same with bttfa_lbc, of which a fifth of the
images is judged. herlev40 fold 0, which neither network has seen, shows what is forgotten. The
table is appended to results/correct_and_learn.md.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from correct_and_learn import note
from nucleus_kinds import CARD, PRIOR, SHARES, _of, _start, _train
from nucleus_kinds_data import ABNORMAL, LEUKOCYTE, NORMAL, OTHER, Marked, load
from numpy.typing import NDArray
from wsiseg_models.kinds.labelled import read_labelled
from wsiseg_models.kinds.network import KINDS, KindNet
from wsiseg_models.kinds.train import Embedded, KindSet, embed, kind_probabilities
from wsiseg_models.kinds.tune import Examples, tune_head
from wsiseg_models.training.coco import Split

from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.segmentation.kinds import decide

Sets = dict[str, tuple[Marked, Embedded]]
Judge = Callable[[KindNet], NDArray[np.float32]]
ALLOWED = {
    NORMAL: (True, False, False, False), ABNORMAL: (False, True, False, False),
    LEUKOCYTE: (False, False, True, True), OTHER: (False, False, True, True),
}  # fmt: skip
"""Kind → kinds that the label of a reader leaves open."""


def embedded(work: Path, network: KindNet) -> Sets:
    """Return the crops with their features; those that are labelled or learned with copies."""
    sets = {}
    for path in sorted(work.glob("*.npz")):
        if path.stem.endswith("dssnet") or path.stem.startswith("judge"):
            continue
        marked = load(path)
        views = 4 if path.stem.partition("_")[0] in SHARES else 0
        sets[path.stem] = (marked, embed(network, CARD, marked.data, views=views))
        print(f"{path.stem}: {len(marked.group)} crops", flush=True)
    return sets


def replayed(folder: Path, network: KindNet) -> Examples:
    """Return the nuclei of generated fields."""
    found = read_labelled(str(folder), Split("none"))
    data = KindSet(found.crops, found.allowed.argmax(1))
    features = embed(network, CARD, data, views=2).features
    return Examples(features, found.allowed, np.ones(len(found.labels), np.float32))


def labelled(
    one: tuple[Marked, Embedded], use: NDArray[np.bool_], count: int, seed: int
) -> Examples:
    """Draw nuclei to label, again where all are of one kind, which the command refuses."""
    marked, features = one
    every = np.flatnonzero(use & (marked.data.kinds >= 0))
    rng = np.random.default_rng(seed)
    rows = rng.permutation(every)[:count]
    while len(np.unique(marked.data.kinds[rows])) == 1:
        rows = rng.permutation(every)[:count]
    allowed = np.array([ALLOWED[int(kind)] for kind in marked.data.kinds[rows]], bool)
    return Examples(features.features[:, rows], allowed, np.ones(len(rows), np.float32))


def tuned(network: KindNet, labels: Examples, replay: Examples, seed: int) -> KindNet:
    """Return a network that went on from another one."""
    network = copy.deepcopy(network)
    tune_head(network, labels, replay, prior=PRIOR, seed=seed)
    return network


def judged(kinds: NDArray[np.int64], found: NDArray[np.float32], limits: Any) -> list[float]:
    """Return AUC, and shares of the kinds that are called so; leukocytes: called no cell."""
    called, two = decide(found, limits), np.isin(kinds, [NORMAL, ABNORMAL])
    auc = rank_auc(found[two, ABNORMAL], kinds[two] == ABNORMAL) if (kinds == 1).any() else np.nan
    out = [auc]
    for kind, good in ((NORMAL, [0]), (ABNORMAL, [1]), (LEUKOCYTE, [2, 3])):
        own = kinds == kind
        out.append(float(np.isin(called[own], good).mean()) if own.any() else np.nan)
    return out


def cric(sets: Sets, network: KindNet, replay: Examples, count: int, seed: int) -> list[Any]:
    """Return found probabilities on cric_fields before and after, field by field, and Herlev's."""
    marked, features = one = sets["cric_unet"]
    after = np.zeros((len(marked.group), len(KINDS)), np.float32)
    herlev = []
    for field in np.unique(marked.group):
        own = marked.group == field
        network_after = tuned(network, labelled(one, ~own, count, seed), replay, seed)
        after[own] = kind_probabilities(network_after, features.features[0, own])
        herlev.append(of_herlev(sets, network_after))
    return [after, float(np.mean(herlev))]


def bttfa(sets: Sets, network: KindNet, replay: Examples, count: int, seed: int) -> list[Any]:
    """Return found probabilities on bttfa_lbc after, and Herlev's AUC."""
    marked, features = one = sets["bttfa_unet"]
    use = (marked.group % 5 > 1) & marked.drawn
    after = tuned(network, labelled(one, use, count, seed), replay, seed)
    return [kind_probabilities(after, features.features[0]), of_herlev(sets, after)]


def of_herlev(sets: Sets, network: KindNet) -> float:
    """Return the AUC on herlev40, fold 0, as `nucleus_kinds.py` judges it."""
    marked, features = sets["herlev"]
    own = marked.group == 0
    found = kind_probabilities(network, features.features[0, own])
    return rank_auc(found[:, ABNORMAL], marked.data.kinds[own] == ABNORMAL)


def measure(
    name: str, sets: Sets, replay: Examples, counts: list[int], draws: int
) -> list[list[str]]:
    """Return the rows of a set: before, and after so many labels."""
    network = _start()
    limits = _of(_train(network, sets, without=name))
    marked, features = sets[f"{name}_unet"]
    if name == "cric":
        test = ~np.isin(marked.name, ["unclear"]) & (marked.data.kinds >= 0)
        test &= np.isin(marked.name, ["normal", "other"], invert=True)  # marks, and leukocytes
    else:
        test = marked.drawn & (marked.group % 5 == 0)
    kinds = marked.data.kinds[test]
    before = kind_probabilities(network, features.features[0])[test]
    rows = [[name, "0", *_texts([[*judged(kinds, before, limits), of_herlev(sets, network)]])]]
    way = {"cric": cric, "bttfa": bttfa}[name]
    for count in counts:
        found = []
        for seed in range(draws):
            after, herlev = way(sets, network, replay, count, seed)
            found.append([*judged(kinds, after[test], limits), herlev])
        rows.append([name, str(count), *_texts(found)])
    return rows


def _texts(found: list[list[float]]) -> list[str]:
    """Return mean and range of each value over the draws."""
    values = np.array(found)
    out = []
    for column in values.T:
        if np.isnan(column).all():
            out.append("–")
        elif len(column) == 1:
            out.append(f"{column[0]:.3f}")
        else:
            out.append(f"{column.mean():.3f} ({column.min():.3f}–{column.max():.3f})")
    return out


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("replay", type=Path)
    parser.add_argument("--labels", type=int, action="append", help="number of labels; repeatable")
    parser.add_argument("--draws", type=int, default=5, help="draws of labels")
    given = parser.parse_args()
    network = _start()
    sets, replay = embedded(given.work, network), replayed(given.replay, network)
    rows = [["set", "labels", "AUC", "normal called so", "abnormal", "leukocytes not counted",
             "herlev40 fold 0, AUC"]]  # fmt: skip
    for name in ("cric", "bttfa"):
        rows += measure(name, sets, replay, given.labels or [40], given.draws)
    note("kinds, labels of a real set that the start has not seen: mean (range) of draws", rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
