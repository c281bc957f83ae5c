"""Laws of the network that sorts nuclei, its weights and its training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wsiseg_models.checkpoint import Card, save_checkpoint, shipped_models, weights_path
from wsiseg_models.kinds.network import (
    KINDS,
    SIZES,
    kindnet,
    load_kinds,
    network_input,
)
from wsiseg_models.kinds.train import (
    SOURCE_PX,
    KindSet,
    embed,
    fit_head,
    kind_probabilities,
    middle,
)

CARD = Card(
    name="tiny_kinds", task="kinds", classes=KINDS, mpp=0.5, halo_px=24, stride=1,
    options={"kinds": 4, "encoder": "lite0", "hidden": 8},
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


def fresh():
    """A network whose random features are still good enough for shapes this plain."""
    torch.manual_seed(0)
    return kindnet(hidden=8).eval()


def probabilities(network, card, crops):
    with torch.inference_mode():
        return network(network_input(torch.from_numpy(crops), card)).softmax(1).numpy()


@pytest.mark.slow
def test_training_tells_kinds_apart():
    network, held = fresh(), drawn(60, 1)
    fit_head(network, [(embed(network, CARD, drawn(60, 0), views=1), 1.0)], steps=150)
    found = probabilities(network, CARD, middle(held.crops))
    assert (found.argmax(1) == held.kinds).mean() > 0.9
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    features = embed(network, CARD, held, views=0).features[0]
    assert np.allclose(kind_probabilities(network, features), found, atol=1e-4)


def test_training_is_deterministic_and_leaves_the_encoder_alone():
    found, encoders = [], []
    for seed in range(2):
        network = fresh()
        before = {k: v.clone() for k, v in network.encoder.state_dict().items()}
        torch.manual_seed(seed)  # training has a seed of its own
        embedded = embed(network, CARD, drawn(12, 0), views=1)
        fit_head(network, [(embedded, 1.0)], steps=5, batch=12)
        found.append(kind_probabilities(network, embedded.features[0]))
        encoders.append(all(torch.equal(v, before[k])
                            for k, v in network.encoder.state_dict().items()))  # fmt: skip
    assert np.array_equal(*found) and all(encoders)


def test_nothing_is_learned_of_a_size_that_is_not_known():
    """Two trainings that differ in the sizes of nuclei of unknown size give the same network."""
    found = []
    for factor in (1.0, 3.0):
        network = fresh()
        sized = embed(network, CARD, drawn(12, 0), views=0)
        lost = KindSet(sized.data.crops, sized.data.kinds, sized=False)
        unsized = embed(network, CARD, lost, views=0)
        unsized.features[..., -SIZES:] *= factor
        fit_head(network, [(sized, 1.0), (unsized, 1.0)], steps=5, batch=12)
        found.append(kind_probabilities(network, sized.features[0]))
    assert np.array_equal(*found)


def test_a_checkpoint_gives_the_same_network(tmp_path):
    network = fresh()
    path = tmp_path / "tiny_kinds.safetensors"
    save_checkpoint(path, network.state_dict(), CARD)
    again, card = load_kinds(path)
    assert card.classes == KINDS and card.task == "kinds"
    crops = middle(drawn(3, 0).crops)
    assert np.allclose(*(probabilities(n, CARD, crops) for n in (network, again)), atol=1e-6)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="is a network for nuclei, not for kinds"):
        load_kinds(weights_path("dssnet"))
    with pytest.raises(ValueError, match="at least 2 and 1"):
        kindnet(kinds=1)
    with pytest.raises(ValueError, match="one of lite0"):
        kindnet(encoder="vgg16")


def test_the_network_that_ships():
    """It is small, and no model that segments."""
    path = weights_path("nucleus_kinds")
    network, card = load_kinds(path)
    assert path.stat().st_size <= 4 * 2**20
    assert sum(p.numel() for p in network.parameters()) == card.parameters <= 800_000
    assert set(card.rule) == set(KINDS[1:]) and all(0.3 <= v < 1 for v in card.rule.values())
    assert card.data and card.licence and "herlev" in card.metrics
    assert "nucleus_kinds" not in shipped_models() and "dssnet" in shipped_models()


def test_the_nucleus_s_own_mask_decides():
    """In one picture, the larger of two nuclei looks more abnormal than the smaller one."""
    network, card = load_kinds(weights_path("nucleus_kinds"))
    small, large = drawn(3, 0).crops[:2]
    picture = np.minimum(np.roll(small, -20, 1), np.roll(large, 20, 1))
    own = [picture.copy(), picture.copy()]
    own[0][..., 3], own[1][..., 3] = np.roll(small, -20, 1)[..., 3], np.roll(large, 20, 1)[..., 3]
    one, two = probabilities(network, card, middle(np.stack(own)))
    abnormal, leukocyte = KINDS.index("abnormal"), KINDS.index("leukocyte")
    assert two[abnormal] > 10 * one[abnormal] and one[leukocyte] > 10 * two[leukocyte]
