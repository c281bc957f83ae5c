"""Instance networks that are small enough to learn a drawn scene by heart in seconds."""

import cv2
import numpy as np
import torch
from wsiseg_models.instance.config import LIGHT
from wsiseg_models.instance.network import cascade, donet, htc, maskrcnn, ms_rcnn, orcnn
from wsiseg_models.training.optimizers import cosine

TINY = {
    **LIGHT,
    "trunk_width": 8,
    "fpn_width": 16,
    "mask_width": 16,
    "mask_convs": 1,
    "fusion_width": 8,
    "box_width": 64,
    "roi_samples": 16,
    "rpn_pre_nms": (100, 100),
    "rpn_post_nms": (30, 60),
}


def lite(**options):
    """A cascade on EfficientNet-Lite."""
    return cascade(**{**options, "backbone": "efficientnet_lite0", "norm": "batch"})


BUILDERS = {
    "maskrcnn": maskrcnn, "cascade": cascade, "donet": donet, "lite": lite, "ms_rcnn": ms_rcnn,
    "htc": htc, "orcnn": orcnn,
}  # fmt: skip


def scene(px=96, cells=(((34, 40), (26, 20)), ((62, 54), (22, 25)))):
    """Cells as ellipses (centre, half axes) that overlap, each with its nucleus: image, target."""
    image = np.full((px, px, 3), 210, np.uint8)
    labels, masks = [], []
    for centre, axes in cells:
        for label, size, shade in ((1, 1.0, 0.75), (2, 0.35, 0.5)):
            mask = np.zeros((px, px), np.uint8)
            half = tuple(int(a * size) for a in axes)
            cv2.ellipse(mask, centre, half, 20, 0, 360, 1, -1)
            image[mask > 0] = image[mask > 0] * shade
            labels.append(label)
            masks.append(mask)
    where = [np.nonzero(m) for m in masks]
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in where]
    target = {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(np.stack(masks)),
    }
    return (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 128) / 128, target


def empty(h=96, w=96):
    """The target of an image with nothing in it."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, h, w, dtype=torch.uint8),
    }


def learned(build, steps, **options):
    """A tiny network after `steps` on one scene, and its total loss at each."""
    torch.manual_seed(0)
    network = build(**{**TINY, **options}).train()
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    image, target = scene()
    totals = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * cosine(step, steps)
        loss = sum(network(image, [target]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        totals.append(float(loss.detach()))
    return network.eval(), totals
