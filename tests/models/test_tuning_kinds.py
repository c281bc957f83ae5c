"""Laws of training the head of a finished network of kinds further."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from wsiseg_models.checkpoint import weights_path
from wsiseg_models.kinds.network import KINDS, load_kinds
from wsiseg_models.kinds.train import kind_probabilities
from wsiseg_models.kinds.tune import Examples, tune_head

PRIOR = (0.6, 0.15, 0.2, 0.05)
NORMAL, ABNORMAL, NO_CELL = (
    (True, False, False, False),
    (False, True, False, False),
    (False, False, True, True),
)


@pytest.fixture(scope="module")
def shipped():
    return load_kinds(weights_path("nucleus_kinds"))[0]


def drawn(network, n, seed, *, views=2):
    """Features that could be of nuclei: as far apart as those of the training."""
    rng = np.random.default_rng(seed)
    count = len(network.shift)
    ways = np.random.default_rng(0).normal(size=(12, count)) / 12**0.5
    each = rng.normal(size=(n, 12)) @ ways + 0.2 * rng.normal(size=(views, n, count))
    return (each / network.scale.numpy() + network.shift.numpy()).astype(np.float32)


def examples(features, allowed):
    rows = np.array(allowed, bool)
    return Examples(features, rows, np.ones(len(rows), np.float32))


def replayed(network, n, seed):
    """Nuclei whose labels are what the network answers."""
    features = drawn(network, n, seed)
    kind = kind_probabilities(network, features[0]).argmax(1)
    return examples(features, np.eye(len(KINDS), dtype=bool)[kind])


def tuned(network, labelled, replay, **settings):
    network = copy.deepcopy(network)
    tune_head(network, labelled, replay, prior=PRIOR, **{"steps": 40, **settings})
    return network


def test_the_encoder_stays_and_twice_is_the_same(shipped):
    labelled = examples(drawn(shipped, 8, 1), [NORMAL, ABNORMAL] * 4)
    replay = replayed(shipped, 60, 2)
    found = []
    for seed in range(2):
        torch.manual_seed(seed)  # training has a seed of its own
        found.append(tuned(shipped, labelled, replay, steps=5).state_dict())
    for name, first in shipped.state_dict().items():
        assert torch.equal(found[0][name], found[1][name])
        assert torch.equal(found[0][name], first) == (not name.startswith("head"))


@pytest.mark.slow
def test_labels_are_learned_and_other_nuclei_keep_their_answers(shipped):
    """Of 24 labels 8 are against the answers; those on other nuclei change by 0.05 on average."""
    features = drawn(shipped, 24, 1)
    before = kind_probabilities(shipped, features[0])
    told = before[:, :2].argmax(1)
    told[::3] = 1 - told[::3]
    labelled = examples(features, np.eye(len(KINDS))[told])
    held, replay = replayed(shipped, 200, 3), replayed(shipped, 200, 2)
    network = tuned(shipped, labelled, replay, steps=200)
    rows = np.arange(len(told))
    gain = kind_probabilities(network, features[0])[rows, told] - before[rows, told]
    assert gain[::3].mean() > 0.1
    now, then = (kind_probabilities(n, held.features[0]) for n in (network, shipped))
    assert np.abs(now - then).mean() < 0.05


def test_no_cell_leaves_open_whether_it_is_a_leukocyte(shipped):
    """The answer between leukocyte and other stays; that it is no cell is learned."""
    features = drawn(shipped, 300, 4)
    p = kind_probabilities(shipped, features[0])
    rows = np.argsort(-p[:, 2])[:10]  # most like leukocytes
    labelled = examples(features[:, rows], [NO_CELL] * 10)
    before = p[rows]
    after = kind_probabilities(tuned(shipped, labelled, None, steps=20), features[0, rows])
    assert after[:, 2:].sum(1).mean() >= before[:, 2:].sum(1).mean()
    assert ((after[:, 2] > after[:, 3]) == (before[:, 2] > before[:, 3])).mean() >= 0.9


def test_kinds_count_as_often_as_they_are_common(shipped):
    rows = [NORMAL] * 30 + [ABNORMAL] * 3 + [NO_CELL] * 2
    one = Examples(drawn(shipped, 35, 5), np.array(rows, bool), np.ones(35, np.float32))
    chances = one.chances(PRIOR)
    parts = [chances[:30].sum(), chances[30:33].sum(), chances[33:].sum()]
    assert np.allclose(parts, [0.6, 0.15, 0.25]) and np.isclose(chances.sum(), 1)
