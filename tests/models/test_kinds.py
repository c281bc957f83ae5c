"""Laws of the network that sorts nuclei, its weights and its training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wsiseg_models.checkpoint import Card, save_checkpoint, shipped_models, weights_path
from wsiseg_models.kinds.crops import CROP_PX
from wsiseg_models.kinds.network import (
    KINDS,
    kindnet,
    load_kinds,
    network_input,
    without_norms,
)
from wsiseg_models.kinds.train import SOURCE_PX, KindSet, fit_kinds, kind_probabilities, middle

CARD = Card(
    name="tiny_kinds", task="kinds", classes=KINDS, mpp=0.5, halo_px=32, stride=1,
    options={"kinds": 4, "width": 4},
)  # fmt: skip


def drawn(n, seed):
    """Nuclei on white: small ones are normal, large ones abnormal, three lobes are leukocytes."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 3
    crops = np.full((n, SOURCE_PX, SOURCE_PX, 4), 230, np.uint8)
    y, x = np.mgrid[:SOURCE_PX, :SOURCE_PX] - SOURCE_PX / 2
    for crop, kind in zip(crops, kinds, strict=True):
        radius = (5, 11, 4)[kind] + rng.uniform(-0.5, 0.5)
        places = [(-5, 0), (4, 4), (4, -4)] if kind == 2 else [(0, 0)]
        mask = np.any([np.hypot(x - a, y - b) < radius for a, b in places], 0)
        crop[mask, :3] = 60
        crop[..., 3] = mask * 255
    return KindSet(crops, kinds)


@pytest.mark.slow
def test_training_tells_kinds_apart():
    torch.manual_seed(0)
    network = fit_kinds(kindnet(width=4), CARD, [(drawn(60, 0), 1.0)], steps=100, batch=24)
    held = drawn(60, 1)
    found = kind_probabilities(network, CARD, middle(held.crops))
    assert (found.argmax(1) == held.kinds).mean() > 0.9
    assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_training_is_deterministic():
    start = kindnet(width=4).state_dict()
    held, found = drawn(6, 1), []
    for seed in range(2):
        torch.manual_seed(seed)  # training has a seed of its own
        network = kindnet(width=4)
        network.load_state_dict(start)
        trained = fit_kinds(network, CARD, [(drawn(12, 0), 1.0)], steps=5, batch=12)
        found.append(kind_probabilities(trained, CARD, middle(held.crops)))
    assert np.array_equal(*found)


def test_folded_batch_norms_change_nothing():
    torch.manual_seed(1)
    network = kindnet(width=8)
    crops = torch.randint(0, 256, (32, CROP_PX, CROP_PX, 4), dtype=torch.uint8)
    x = network_input(crops, CARD)
    network(x)  # so that the norms have something to do
    network.eval()
    folded = without_norms(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.inference_mode():
        assert torch.allclose(network(x), folded(x), atol=1e-4)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


def test_a_checkpoint_gives_the_same_network(tmp_path):
    network = kindnet(width=4).eval()
    path = tmp_path / "tiny_kinds.safetensors"
    save_checkpoint(path, network.state_dict(), CARD)
    again, card = load_kinds(path)
    assert card.classes == KINDS and card.task == "kinds"
    x = network_input(torch.from_numpy(middle(drawn(3, 0).crops)), CARD)
    with torch.inference_mode():
        assert torch.equal(network(x), again(x))


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="is a network for nuclei, not for kinds"):
        load_kinds(weights_path("dssnet"))
    with pytest.raises(ValueError, match="at least 2 and 1"):
        kindnet(kinds=1)


def test_the_network_that_ships():
    """It is small, and no model that segments."""
    path = weights_path("nucleus_kinds")
    network, card = load_kinds(path)
    assert path.stat().st_size <= 2**20
    assert sum(p.numel() for p in network.parameters()) == card.parameters <= 200_000
    assert set(card.rule) == set(KINDS[1:]) and all(0.3 <= v < 1 for v in card.rule.values())
    assert not any("cric" in text for text in card.data)  # suites measure on it
    assert card.data and card.licence and set(card.metrics) >= {"herlev40", "cric_dssnet"}
    assert "nucleus_kinds" not in shipped_models() and "dssnet" in shipped_models()


def test_the_nucleus_s_own_mask_decides():
    """In one picture, the larger of two nuclei looks more abnormal than the smaller one."""
    network, card = load_kinds(weights_path("nucleus_kinds"))
    small, large = drawn(3, 0).crops[:2]
    picture = np.minimum(np.roll(small, -20, 1), np.roll(large, 20, 1))
    own = [picture.copy(), picture.copy()]
    own[0][..., 3], own[1][..., 3] = np.roll(small, -20, 1)[..., 3], np.roll(large, 20, 1)[..., 3]
    one, two = kind_probabilities(network, card, middle(np.stack(own)))
    abnormal, leukocyte = KINDS.index("abnormal"), KINDS.index("leukocyte")
    assert two[abnormal] > 10 * one[abnormal] and one[leukocyte] > 10 * two[leukocyte]
