"""Class names as QuPath understands them."""

from __future__ import annotations

__all__ = ["normal_class"]


def normal_class(name: str) -> str:
    """Return a class name as QuPath writes it: parts of a derived class joined by ": ".

    Raises
    ------
    ValueError
        a part of the name is blank, or it has a line break: QuPath then loses the whole file

    Examples
    --------
    >>> normal_class(" Tumor:Positive "), normal_class("nucleus")
    ('Tumor: Positive', 'nucleus')
    >>> normal_class("Tumor:")
    Traceback (most recent call last):
    ValueError: class name 'Tumor:' has a blank part beside ":"; QuPath cannot read it, rename it
    """
    parts = [part.strip() for part in name.split(":")]
    if not all(parts):
        what = 'has a blank part beside ":"' if ":" in name else "is blank"
        raise ValueError(f"class name {name!r} {what}; QuPath cannot read it, rename it")
    if len(name.strip().splitlines()) > 1:
        raise ValueError(f"class name {name!r} has a line break; QuPath cannot read it, rename it")
    return ": ".join(parts)
