"""Train and judge `nucleus_kinds`: what kind of nucleus a segmented object is.

    python experiments/nucleus_kinds.py work

trains on the crops in the folder work, which `nucleus_kinds_data.py` wrote, and writes
work/nucleus_kinds.safetensors. It takes minutes: the features of the encoder are computed once, and
each head that is trained on them takes seconds. So cric_fields is judged field by field, each by a
network that has not seen it, and each real set also by a network without this set.
experiments/results/nucleus_kinds.md has all commands and what was measured.

Files: herlev.npz, cric_NAME.npz, bttfa_NAME.npz, isbi_NAME.npz, train_NAME.npz are learned from;
limits are chosen on choose_NAME.npz and on every fifth image of bttfa and isbi; judge_NAME.npz,
fold 0 of 5 of herlev40 and every fifth image of bttfa and isbi are judged and never learned from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nucleus_kinds_data import ABNORMAL, LEUKOCYTE, NORMAL, OTHER, Marked, load
from numpy.typing import NDArray
from wsiseg_models.checkpoint import Card, load_checkpoint, save_checkpoint, weights_path
from wsiseg_models.kinds.crops import CROP_MPP, CROP_PX
from wsiseg_models.kinds.network import KINDS, TASK, KindNet, kindnet
from wsiseg_models.kinds.train import Embedded, embed, fit_head, kind_probabilities

from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.segmentation.kinds import decide

ENCODER_FROM = "unet"
"""Model whose encoder makes the features."""
SHARES = {"herlev": 2.0, "cric": 2.0, "bttfa": 1.0, "isbi": 0.5, "train": 5.0}
"""Share of each batch."""
PRIOR = (0.60, 0.15, 0.20, 0.05)
"""How common the kinds are where the probabilities hold."""
LEAST = 0.5
"""Least limit: then a kind is more probable than all others together."""
CALLED_ABNORMAL = 0.01
"""Share of normal nuclei that may be called abnormal."""
CARD = Card(
    name="nucleus_kinds", task=TASK, classes=KINDS, mpp=CROP_MPP, halo_px=CROP_PX // 2,
    tile_px=CROP_PX, stride=1, options={"kinds": len(KINDS), "encoder": "lite0", "hidden": 64},
    licence="research use; see data",
    data=(
        "herlev40 (licence: repository MIT; cite Jantzen et al., NiSIS 2005; pixel size lost)",
        "cric_fields (CC BY 4.0; cite Rezende et al., Scientific Data 8, 151, 2021)",
        "bttfa_lbc (CC BY 4.0; Zhang, doi 10.17632/jks43dkjj7.1)",
        "isbi2014 (licence: none stated; cite Lu et al., IEEE TIP 24(4), 2015)",
        "synthetic cytology fields (licence: generated, free to use)",
        "through its encoder, that of unet: what the card of unet names",
    ),
)  # fmt: skip

Sets = dict[str, tuple[Marked, Embedded]]


def main() -> None:
    """Train, calibrate, choose limits, judge, write the checkpoint and print all numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder with crops, and for what is written")
    parser.add_argument("--views", type=int, default=4, help="changed copies of each crop")
    given = parser.parse_args()
    began = time.process_time()
    network = _start()
    sets = _embedded(given.work, network, given.views)
    metrics = _by_field(network, sets) | _without_each_set(network, sets)
    rule = _train(network, sets)
    print("limits", rule)
    metrics |= _held_out(network, sets, rule)
    minutes = round((time.process_time() - began) / 60, 1)
    count = sum(p.numel() for p in network.parameters())
    card = replace(CARD, metrics=metrics, parameters=count, rule=rule, training={
        "views": given.views, "CPU minutes": minutes,
        "prior": dict(zip(KINDS, PRIOR, strict=True)), "encoder": f"that of {ENCODER_FROM}",
    })  # fmt: skip
    save_checkpoint(given.work / "nucleus_kinds.safetensors", network.state_dict(), card)
    print(f"{count} parameters, {minutes} CPU minutes")


def _start() -> KindNet:
    """Return a network with the encoder of a model that ships."""
    network = kindnet(**CARD.options)
    state = load_checkpoint(weights_path(ENCODER_FROM))[0]
    own = {k.removeprefix("encoder."): v.float() for k, v in state.items() if "encoder." in k}
    network.encoder.load_state_dict(own)
    return network.eval().to(memory_format=torch.channels_last)


def _embedded(work: Path, network: KindNet, views: int) -> Sets:
    """Return all crops with their features, by file; those only judged have no changed copies."""
    sets = {}
    for path in sorted(work.glob("*.npz")):
        marked, set_name = load(path), path.stem.partition("_")[0]
        copies = views if set_name in SHARES else 0
        sets[path.stem] = (marked, embed(network, CARD, marked.data, views=copies))
        print(f"{path.stem}: {len(marked.group)} crops", flush=True)
    return sets


def _kept_back(set_name: str, marked: Marked) -> NDArray[np.bool_]:
    """Return which crops no final network learns from."""
    if set_name == "herlev":
        return marked.group == 0
    if set_name in ("bttfa", "isbi"):
        return marked.group % 5 <= 1
    return np.zeros(len(marked.group), np.bool_)


def _train(
    network: KindNet, sets: Sets, *, without: str = "", field: int | None = None
) -> dict[str, float]:
    """Train, calibrate and return the limits; without a set, or without a field of cric_fields."""
    learned = []
    for set_name, share in SHARES.items():
        if set_name == without:
            continue
        own = {n: one for n, one in sets.items() if n.partition("_")[0] == set_name}
        parts = []
        for marked, embedded in own.values():
            use = ~_kept_back(set_name, marked) & (marked.data.kinds >= 0)
            if set_name == "cric" and field is not None:
                use &= marked.group != field
            parts.append(embedded.take(use))
        total = sum(len(part.data.kinds) for part in parts)
        learned += [(part, share * len(part.data.kinds) / total) for part in parts]
    fit_head(network, learned)
    chosen = [one for name, one in sets.items() if name.startswith("choose")]
    _calibrate(network, chosen)
    for name, (marked, embedded) in sets.items():
        if name.partition("_")[0] in {"bttfa", "isbi"} - {without}:
            use = marked.group % 5 == 1
            chosen.append((marked.take(use), embedded.take(use)))
    return _limits(network, chosen)


def _calibrate(network: KindNet, sets: Sequence[tuple[Marked, Embedded]]) -> None:
    """Fit temperature and prior on drawn nuclei and put both into the last layer.

    Each nucleus has the weight that gives its kind the share of `PRIOR`.
    """
    features = np.concatenate([e.features[0, m.drawn] for m, e in sets])
    kinds = torch.from_numpy(np.concatenate([m.data.kinds[m.drawn] for m, _ in sets]))
    logits = torch.from_numpy(kind_probabilities(network, features)).clamp(1e-6).log()
    weight = torch.tensor(PRIOR)[kinds] / torch.bincount(kinds, minlength=len(KINDS))[kinds]
    cold, bias = torch.zeros((), requires_grad=True), torch.zeros(len(KINDS), requires_grad=True)
    fit = torch.optim.LBFGS([cold, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        fit.zero_grad()
        each = torch.nn.functional.cross_entropy(
            logits * cold.exp() + bias, kinds, reduction="none"
        )
        total = (weight * each).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    fit.step(loss)  # type: ignore[arg-type]
    last = network.head[-1]
    with torch.no_grad():
        last.weight.mul_(cold.exp())  # type: ignore[operator, union-attr]
        last.bias.mul_(cold.exp()).add_(bias - bias.mean())  # type: ignore[operator, union-attr]


def _limits(network: KindNet, sets: Sequence[tuple[Marked, Embedded]]) -> dict[str, float]:
    """Return the limits: `LEAST`, for abnormal the least one that keeps `CALLED_ABNORMAL`.

    Generated and real normal nuclei each keep it.
    """
    abnormal = LEAST
    for generated in (True, False):
        normal = np.concatenate([
            kind_probabilities(network, e.features[0, m.drawn & (m.data.kinds == NORMAL)])
            for m, e in sets if (LEUKOCYTE in m.data.kinds) == generated
        ])  # fmt: skip
        abnormal = max(abnormal, float(np.quantile(normal[:, ABNORMAL], 1 - CALLED_ABNORMAL)))
    return {"abnormal": round(abnormal, 3), "leukocyte": LEAST, "other": LEAST}


def _by_field(network: KindNet, sets: Sets) -> dict[str, Any]:
    """Judge each field of cric_fields by a network that has not seen it."""
    names = [name for name in sets if name.startswith("cric")]
    found = {name: np.zeros((len(sets[name][0].group), len(KINDS)), np.float32) for name in names}
    called = {name: np.zeros(len(sets[name][0].group), np.int64) for name in names}
    for field in np.unique(sets[names[0]][0].group):
        rule = _train(network, sets, field=int(field))
        for name in names:
            own = sets[name][0].group == field
            found[name][own] = kind_probabilities(network, sets[name][1].features[0, own])
            called[name][own] = decide(found[name][own], _of(rule))
    title = "each field by a network that has not seen it"
    return {f"{name}, {title}": _marks(name, sets[name][0], found[name], called[name])
            for name in names}  # fmt: skip


def _marks(
    title: str, one: Marked, found: NDArray[np.float32], called: NDArray[np.int64]
) -> dict[str, Any]:
    """Print and return what happens to marked nuclei and to all that is drawn on cric_fields."""
    marked = ~np.isin(one.name, ["normal", "leukocyte", "other", "unclear"])
    counts = (called == NORMAL) | (called == ABNORMAL)
    result = _auc(title, one.take(marked), found[marked], called[marked])
    marks, drawn = int(marked.sum()), one.drawn
    result |= {
        "marks drawn": int((drawn & marked).sum()),
        "marks drawn that count as nuclei": int((drawn & marked & counts).sum()),
        "drawn per mark": round(float(drawn.sum() / marks), 2),
        "of them nuclei, per mark": round(float((drawn & counts).sum() / marks), 2),
    }
    for kind in ("normal", "leukocyte", "other", "unclear"):
        own = drawn & (one.name == kind)
        result[f"unmarked: {kind}"] = _table(called[own])
    print(f"{title}: {result}")
    return result


def _table(called: NDArray[np.integer]) -> dict[str, int]:
    counts = np.bincount(called, minlength=len(KINDS)).tolist()
    return dict(zip(KINDS, counts, strict=True))


def _without_each_set(network: KindNet, sets: Sets) -> dict[str, Any]:
    """Judge each real set by a network that learned from none of its images."""
    metrics: dict[str, Any] = {}
    for set_name in ("herlev", "cric", "bttfa", "isbi"):
        rule = _train(network, sets, without=set_name)
        for name, (marked, embedded) in sets.items():
            if name.partition("_")[0] == set_name:
                found = kind_probabilities(network, embedded.features[0])
                called = decide(found, _of(rule))
                title = f"{name}, by a network without this set"
                if set_name == "cric":
                    metrics[title] = _marks(title, marked, found, called)
                elif set_name == "herlev":
                    metrics[title] = _auc(title, marked, found, called)
                else:
                    metrics[title] = _confusion(title, marked, called)
    return metrics


def _held_out(network: KindNet, sets: Sets, rule: Mapping[str, float]) -> dict[str, Any]:
    """Judge the final network on what it has not seen."""
    metrics: dict[str, Any] = {}
    for name, (marked, embedded) in sets.items():
        set_name = name.partition("_")[0]
        if set_name in ("herlev", "bttfa", "isbi", "judge"):
            use = _kept_back(set_name, marked) if set_name != "judge" else marked.drawn
            if set_name in ("bttfa", "isbi"):
                use = marked.drawn & (marked.group % 5 == 0)
            one, found = marked.take(use), kind_probabilities(network, embedded.features[0, use])
            called = decide(found, _of(rule))
            metrics[name] = (_auc(name, one, found, called) if set_name == "herlev"
                             else _confusion(name, one, called))  # fmt: skip
    return metrics


def _of(rule: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(rule.get(name, 0.0) for name in KINDS)


def _auc(
    title: str, one: Marked, found: NDArray[np.float32], called: NDArray[np.integer]
) -> dict[str, Any]:
    """Print and return how well abnormal is told from normal, and what each class is called."""
    abnormal, values = one.data.kinds == ABNORMAL, found[:, ABNORMAL]
    alone = values / (values + found[:, NORMAL] + 1e-9)
    result: dict[str, Any] = {
        "AUC": round(rank_auc(values, abnormal), 4),
        "AUC without the other kinds": round(rank_auc(alone, abnormal), 4),
        "AUC of area": round(rank_auc(one.area, abnormal), 4),
        "normal called normal": round(float((called[~abnormal] == NORMAL).mean()), 3),
        "abnormal called abnormal": round(float((called[abnormal] == ABNORMAL).mean()), 3),
        "nuclei": len(abnormal),
    }
    print(f"{title}: {result}")
    for name in np.unique(one.name):
        own, middle = one.name == name, np.median(values[one.name == name])
        print(f"    {name}: {own.sum()}, median {middle:.2f}, {_table(called[own])}")
    return result


def _confusion(title: str, one: Marked, called: NDArray[np.integer]) -> dict[str, Any]:
    """Print and return how many of each kind go to each class."""
    table = {}
    for kind in (NORMAL, ABNORMAL, LEUKOCYTE, OTHER):
        own = one.data.kinds == kind
        if own.any():
            table[KINDS[kind]] = _table(called[own])
            print(f"{title}: {KINDS[kind]} ({own.sum()}): {table[KINDS[kind]]}")
            for name in np.unique(one.name[own]):
                print(f"    {name}: {_table(called[own & (one.name == name)])}")
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
