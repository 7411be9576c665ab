"""How many rows a chunk has, buffers that are used again, and sizes of memory."""

import pytest

from minorant.data.cutting import Bank, bytes_of, chunk_rows


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (2_000_000_000, 2e9), ("2GB", 2e9), ("500 MB", 5e8), ("1.5 GiB", 1.5 * 2**30),
        ("64k", 64e3), ("1 tb", 1e12), (None, None),
    ],
)  # fmt: skip
def test_sizes_of_memory(given, expected):
    assert bytes_of(given) == expected


@pytest.mark.parametrize("given", ["", "much", "2 XB", "-1GB", "0", ".", "1.2.3GB", 0, -5])
def test_sizes_that_are_none(given):
    with pytest.raises(ValueError, match="memory must be a size in bytes such as"):
        bytes_of(given)


def test_the_length_of_chunks():
    assert chunk_rows(8, "float64", None) == 2**19
    assert chunk_rows(8, "float32", None) == 2**20
    assert chunk_rows(1, "float64", None) == 2**20
    assert chunk_rows(8, "float64", 2 * 10**9) == 2**19
    assert chunk_rows(8, "float64", 10**8) == 2**17
    assert chunk_rows(1000, "float64", None) == 2**12
    assert chunk_rows(10**6, "float64", 10**6) == 2**10


def test_a_buffer_is_used_again_when_nothing_of_it_is_held():
    bank = Bank()
    first = bank.take(4, 2, "float64")
    part = first[1:2, 1]
    address = first.ctypes.data
    del first
    assert bank.take(4, 2, "float64").ctypes.data != address
    del part
    assert address in {bank.take(4, 2, "float64").ctypes.data for _ in range(2)}
