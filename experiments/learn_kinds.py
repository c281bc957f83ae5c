"""Measure what labels of the review page bring to `nucleus_kinds`, and what is forgotten.

    python experiments/learn_kinds.py OUT [--stain yellow] [--crops WORK]

Two slides are generated in a stain that no training had, the first with 3 % of dysplastic cells,
the second with 15 %. The 40 cells of the gallery of the first get their labels from the truth, and
then 40 further ones, drawn at random, too. They go through `wsiseg dataset from-review` and `wsiseg
train nucleus_kinds --from shipped`, and the second slide is run before and after.

With --crops, the folder of crops that `nucleus_kinds.py` works with, both networks are also judged
on real nuclei. Tables are appended to results/correct_and_learn.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import shapely
from correct_and_learn import SLIDE_MPP, SLIDE_PX, STYLE, note, wsiseg
from nucleus_kinds_data import ABNORMAL, ABNORMAL_KINDS, LEUKOCYTE, LEUKOCYTES, NORMAL, load
from numpy.typing import NDArray
from wsiseg_models.checkpoint import weights_path
from wsiseg_models.kinds.network import KINDS, load_kinds
from wsiseg_models.kinds.train import embed, kind_probabilities

from wsi_pipeline.corrections.read import id_text
from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.formats.convert import read_objects
from wsi_pipeline.segmentation.kinds import ABNORMAL as PROBABILITY
from wsi_pipeline.segmentation.kinds import KIND_CLASSES, decide
from wsi_pipeline.synthetic.looks import dysplastic_mix, find_look
from wsi_pipeline.synthetic.placement import SlidePlan, plan_slide
from wsi_pipeline.synthetic.render import truth_kinds, truth_leukocytes, truth_objects
from wsi_pipeline.synthetic.stains import Style
from wsi_pipeline.synthetic.svs_writer import write_slide

STYLES = {
    "yellow": STYLE,
    "green": Style(
        stains=np.array(
            [[0.35, 0.75, 1.00], [0.60, 0.10, 0.50], [0.45, 0.20, 0.60], [0.25, 0.30, 0.30]],
            np.float32,
        ),
        white=(236.0, 241.0, 246.0), nucleus=0.8, cytoplasm=0.8, eosin=1.0, blur_um=0.3, noise=2.5,
        shade=0.04,
    ),
}  # fmt: skip
"""Pale yellow nuclei in violet and cyan cytoplasm; brown nuclei in pale green cytoplasm."""
SLIDES = {"labelled": (25, 0.03), "other": (26, 0.15)}
"""Seed of a slide, and its share of dysplastic cells."""
LABELS = {"normal": "NILM", "abnormal": "LSIL", "leukocyte": "not a cell", "other": "not a cell"}
MODEL, GALLERY, RANDOM = "unet", 40, 40


def generate(path: Path, style: Style, seed: int, share: float) -> SlidePlan:
    """Write a slide that looks like real ones but for its stain."""
    mix = dysplastic_mix(find_look("real"), share)
    plan = plan_slide(
        SLIDE_PX, SLIDE_PX, mpp=SLIDE_MPP, seed=seed, tissue=0.9, density=90, style=style,
        look="real", mix=mix,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_slide(path, plan)
    return plan


def true_kinds(plan: SlidePlan, shapes: NDArray[np.object_]) -> NDArray[np.str_]:
    """Return the true kind of each outline, or nothing where it is unclear.

    An outline is the nucleus that it overlaps with an IoU of 0.5 or more; "other" is what covers
    less than 5 % of its area with nuclei. Cells of dense groups are unclear.
    """
    of_cells, of_leukocytes = truth_kinds(plan)
    names = [*(of_cells[k] for k in plan.nucleus_cell), *of_leukocytes]
    parts = (truth_objects(plan)[0], truth_leukocytes(plan))
    truth = shapely.make_valid(np.concatenate([part.polygons() for part in parts]))
    tree = shapely.STRtree(truth)
    found = []
    for shape in shapes:
        near = tree.query(shape, predicate="intersects")
        shared = shapely.area(shapely.intersection(truth[near], shape))
        if shared.sum() < 0.05 * shape.area:
            found.append("other")
            continue
        best = near[shared.argmax()]
        iou = shared.max() / (truth[best].area + shape.area - shared.max())
        found.append(_kind(names[best]) if iou >= 0.5 else "")
    return np.array(found)


def _kind(name: str) -> str:
    if name == "crowded":
        return ""
    return "abnormal" if name in ABNORMAL_KINDS else "leukocyte" if name in LEUKOCYTES else "normal"


def write_labels(path: Path, slide: str, labels: Mapping[str, str]) -> None:
    """Write labels as the review page saves them."""
    content = {"schema_version": 1, "slide": slide, "model": MODEL, "labels": labels}
    path.write_text(json.dumps(content), encoding="utf-8")


def label(out: Path, plan: SlidePlan) -> dict[str, Path]:
    """Label the gallery of the first slide by its truth, and further nuclei at random."""
    run = out / "before" / "labelled" / MODEL
    wsiseg("gallery", run, out / "labelled.svs", "--count", GALLERY)
    gallery = json.loads((run / "gallery" / "gallery.json").read_text("utf-8"))["cells"]
    objects = read_objects(run)
    kinds = true_kinds(plan, objects.polygons())
    ids = [id_text(own) for own in objects.ids]
    true = {own: LABELS[kind] for own, kind in zip(ids, kinds, strict=True) if kind}
    shown = {cell["id"]: true[cell["id"]] for cell in gallery if cell["id"] in true}
    rest = [own for own in ids if own in true and own not in shown]
    more = np.random.default_rng(0).permutation(rest)[:RANDOM].tolist()
    files = {"gallery": shown, "gallery and random": shown | {own: true[own] for own in more}}
    for name, labels in files.items():
        write_labels(out / f"{name}.json", "labelled", labels)
    return {name: out / f"{name}.json" for name in files}


def train(out: Path, name: str, labels: Path) -> Path:
    """Make a set of labels, and train on it; return the checkpoint."""
    run = out / "before" / "labelled" / MODEL
    folder = out / name.replace(" ", "_")
    print(wsiseg("dataset", "from-review", out / "labelled.svs", labels, "--run", run, "--out",
                 folder / "set"))  # fmt: skip
    print(wsiseg("train", "nucleus_kinds", "--from", "shipped", "--data", folder / "set", "--out",
                 folder / "tuned"))  # fmt: skip
    return folder / "tuned" / "nucleus_kinds.safetensors"


def measure(run: Path, plan: SlidePlan) -> list[str]:
    """Return what the classes of a run are worth, as cells of a table."""
    objects = read_objects(run)
    kinds = true_kinds(plan, objects.polygons())
    called = np.array(objects.classes)[objects.class_index]
    two = np.isin(kinds, ["normal", "abnormal"])
    auc = rank_auc(objects.features[PROBABILITY][two], kinds[two] == "abnormal")
    shares = [
        f"{np.mean(called[kinds == kind] == name):.3f} of {(kinds == kind).sum()}"
        for kind, name in zip(("normal", "abnormal", "leukocyte"), KIND_CLASSES, strict=False)
    ]
    none = np.isin(called[kinds == "leukocyte"], KIND_CLASSES[2:]).mean()
    return [f"{auc:.4f}", *shares, f"{none:.3f}"]


def learn(out: Path, stain: str) -> dict[str, Path]:
    """Measure the second slide before and after; return the networks."""
    plans = {}
    for name, (seed, share) in SLIDES.items():
        plans[name] = generate(out / f"{name}.svs", STYLES[stain], seed, share)
        wsiseg("run", out / f"{name}.svs", "--model", MODEL, "--kinds", "--out", out / "before",
               "--device", "cpu")  # fmt: skip
    head = ["labels", "AUC", "normal called so", "abnormal", "leukocytes", "… not counted"]
    rows = [head, ["none", *measure(out / "before" / "other" / MODEL, plans["other"])]]  # fmt: skip
    networks = {"none": weights_path("nucleus_kinds")}
    for name, labels in label(out, plans["labelled"]).items():
        networks[name] = train(out, name, labels)
        after = out / f"after {name}"
        wsiseg("run", out / "other.svs", "--model", MODEL, "--kinds-checkpoint", networks[name],
               "--out", after, "--device", "cpu")  # fmt: skip
        given = list(json.loads(labels.read_text("utf-8"))["labels"].values())
        told = ", ".join(f"{given.count(k)} {k}" for k in dict.fromkeys(LABELS.values()))
        rows.append([f"{name}: {told}", *measure(after / "other" / MODEL, plans["other"])])
    note(f"kinds, stain {stain}, a second slide of it", rows)
    return networks


def forget(networks: Mapping[str, Path], crops: Path, stain: str) -> None:
    """Judge the networks on real nuclei and on generated fields of other stains."""
    names = ("herlev", "cric_unet", "bttfa_unet", "isbi_unet", "judge_real_unet")
    sets = {name: load(crops / f"{name}.npz") for name in names}
    kept = {
        "herlev": sets["herlev"].group == 0,
        "cric_unet": ~np.isin(sets["cric_unet"].name, ["normal", "leukocyte", "other", "unclear"]),
        "bttfa_unet": sets["bttfa_unet"].drawn & (sets["bttfa_unet"].group % 5 == 0),
        "isbi_unet": sets["isbi_unet"].drawn & (sets["isbi_unet"].group % 5 == 0),
        "judge_real_unet": sets["judge_real_unet"].drawn,
    }
    features = {}
    for name, marked in sets.items():
        network, card = load_kinds(networks["none"])
        sets[name] = marked.take(kept[name])
        features[name] = embed(network, card, sets[name].data, views=0).features[0]
    rows = [["set", "nuclei", *networks]]
    for name, marked in sets.items():
        kinds, cells = marked.data.kinds, []
        for path in networks.values():
            network, card = load_kinds(path)
            found = kind_probabilities(network, features[name])
            called = decide(found, tuple(card.rule.get(kind, 0.5) for kind in KINDS))
            cells.append(_judged(kinds, found, called))
        counts = "/".join(str(int((kinds == k).sum())) for k in (NORMAL, ABNORMAL, LEUKOCYTE))
        rows.append([name, counts, *cells])
    note(f"kinds, stain {stain}, forgetting: AUC, and normal/abnormal/leukocytes called so", rows)


def _judged(
    kinds: NDArray[np.int64], found: NDArray[np.float32], called: NDArray[np.integer]
) -> str:
    two = np.isin(kinds, [NORMAL, ABNORMAL])
    both = (kinds == ABNORMAL).any()
    auc = f"{rank_auc(found[two, ABNORMAL], kinds[two] == ABNORMAL):.3f}; " if both else ""
    shares = [f"{np.mean(called[kinds == k] == k):.2f}" if (kinds == k).any() else "–"
              for k in (NORMAL, ABNORMAL, LEUKOCYTE)]  # fmt: skip
    return auc + "/".join(shares)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--stain", choices=list(STYLES), default="yellow")
    parser.add_argument("--crops", type=Path, help="folder of crops from nucleus_kinds_data.py")
    given = parser.parse_args()
    networks = learn(given.out, given.stain)
    if given.crops:
        forget(networks, given.crops, given.stain)


if __name__ == "__main__":
    main()
