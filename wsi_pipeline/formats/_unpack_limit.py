"""The largest size to which a compressed file may unpack.

GeoJSON shrinks to a tenth or a thirtieth, Parquet to less. A file of a hundredth of its content
was made to fill memory.
"""

__all__ = ["MAX_GROWTH", "most_plain_bytes"]

MAX_GROWTH = 100
_SMALL_BYTES = 2**26


def most_plain_bytes(packed_bytes: int) -> int:
    """Return the most bytes that a file of `packed_bytes` may unpack to; 64 MB are always fine."""
    return max(_SMALL_BYTES, MAX_GROWTH * packed_bytes)
