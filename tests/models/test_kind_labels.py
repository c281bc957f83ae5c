"""Laws of the labels from which the network of kinds learns."""

from __future__ import annotations

import pytest
from wsiseg_models.kinds.labels import KINDS_OF_LABEL, LABELS, LEUKOCYTE, NOT_A_CELL, kinds_of
from wsiseg_models.kinds.network import KINDS


def test_every_label_of_the_review_page_is_a_kind():
    assert set(KINDS_OF_LABEL) == {*LABELS, LEUKOCYTE}
    assert len(LABELS) == 9
    assert {kind for kinds in KINDS_OF_LABEL.values() for kind in kinds} == set(KINDS)
    bethesda = [name for name in LABELS if name != NOT_A_CELL]
    assert [name for name in bethesda if kinds_of(name) == ("normal",)] == ["NILM"]
    assert all(kinds_of(name) == ("abnormal",) for name in bethesda if name != "NILM")
    assert not {"normal", "abnormal"} & {*kinds_of(NOT_A_CELL), *kinds_of(LEUKOCYTE)}
    assert kinds_of(" hsil ") == kinds_of("HSIL")


def test_an_unknown_label_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"'CIN 3'; known: NILM, .*not a cell, leukocyte"):
        kinds_of("CIN 3")
