"""The labels that a reader gives to cells, and the kinds of nuclei that each of them allows.

This sorts nuclei by appearance; it is no diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["GENERATED", "KINDS_OF_LABEL", "LABELS", "LEUKOCYTE", "NOT_A_CELL", "label_named"]

NOT_A_CELL = "not a cell"
LEUKOCYTE = "leukocyte"
"""Class of an object that is a leukocyte; no label of the review page, but learned like one."""
LABELS: Mapping[str, str] = {
    "NILM": "negative for intraepithelial lesion or malignancy",
    "ASC-US": "atypical squamous cells of undetermined significance",
    "LSIL": "low-grade squamous intraepithelial lesion",
    "ASC-H": "atypical squamous cells, HSIL cannot be excluded",
    "HSIL": "high-grade squamous intraepithelial lesion",
    "SCC": "squamous cell carcinoma",
    "AGC": "atypical glandular cells",
    "AIS": "adenocarcinoma in situ",
    NOT_A_CELL: "debris, a leukocyte, or an outline of no cell",
}
"""Label → what it means, in the order of the keys 1 to 9; classes of the Bethesda System 2014."""
KINDS_OF_LABEL: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(LABELS, ("abnormal",)),
    "NILM": ("normal",),
    NOT_A_CELL: ("leukocyte", "other"),
    LEUKOCYTE: ("leukocyte",),
}
"""Label → the kinds that the nucleus may be: "not a cell" leaves open which of two it is."""
GENERATED: Mapping[str, str] = {
    **dict.fromkeys(("lsil", "hsil", "pale_lsil", "koilocyte"), "abnormal"),
    **dict.fromkeys(("neutrophil", "lymphocyte"), "leukocyte"),
    **dict.fromkeys(
        ("superficial", "intermediate", "parabasal", "dark_parabasal", "metaplastic", "columnar",
         "bare", "crumpled"),
        "normal",
    ),
}  # fmt: skip
"""Kind of cell of a generated field → kind of its nucleus; "crowded" ones may be either."""


def label_named(text: str) -> str:
    """Return the label that a text is, whatever its capitals.

    Raises
    ------
    ValueError
        there is no such label

    Examples
    --------
    >>> label_named(" hsil "), KINDS_OF_LABEL[label_named("not a cell")]
    ('HSIL', ('leukocyte', 'other'))
    """
    for known in KINDS_OF_LABEL:
        if known.lower() == " ".join(text.split()).lower():
            return known
    raise ValueError(f"unknown label {text!r}; known: {', '.join(KINDS_OF_LABEL)}")
