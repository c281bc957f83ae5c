"""Laws of the labels from which the network of kinds learns."""

from __future__ import annotations

import pytest
from wsiseg_models.kinds.labels import (
    GENERATED,
    KINDS_OF_LABEL,
    LABELS,
    LEUKOCYTE,
    NOT_A_CELL,
    label_named,
)
from wsiseg_models.kinds.network import KINDS

from wsi_pipeline.synthetic.looks import LOOKS, POSITIVE_KINDS
from wsi_pipeline.synthetic.real_kinds import LEUKOCYTES


def test_every_label_of_the_review_page_is_a_kind():
    assert set(KINDS_OF_LABEL) == {*LABELS, LEUKOCYTE}
    assert len(LABELS) == 9
    assert {kind for kinds in KINDS_OF_LABEL.values() for kind in kinds} == set(KINDS)
    bethesda = [name for name in LABELS if name != NOT_A_CELL]
    assert [name for name in bethesda if KINDS_OF_LABEL[name] == ("normal",)] == ["NILM"]
    assert all(KINDS_OF_LABEL[name] == ("abnormal",) for name in bethesda if name != "NILM")
    assert not {"normal", "abnormal"} & {*KINDS_OF_LABEL[NOT_A_CELL], *KINDS_OF_LABEL[LEUKOCYTE]}
    assert label_named(" hsil ") == "HSIL"


def test_an_unknown_label_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"'CIN 3'; known: NILM, .*not a cell, leukocyte"):
        label_named("CIN 3")


def test_every_generated_cell_is_of_a_kind_but_crowded_ones():
    cells = {name for look in LOOKS.values() for name in look.cells}
    assert set(GENERATED) == (cells | set(LEUKOCYTES)) - {"crowded"}
    assert {name for name, kind in GENERATED.items() if kind == "abnormal"} == set(POSITIVE_KINDS)
    assert {name for name, kind in GENERATED.items() if kind == "leukocyte"} == set(LEUKOCYTES)
