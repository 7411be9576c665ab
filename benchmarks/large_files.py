"""Parquet folders of a simulated mixture, made once and kept in the system's folder for the while.

``MINORANT_LARGE`` names another folder: 10^8 rows of 8 columns take 6.4 GB there, and while they
are climbed on as much again in the folder for temporary files.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

_PIECE = 1 << 20
_ROW_GROUP = 1 << 18


def folder() -> Path:
    """Where the files are."""
    named = os.environ.get("MINORANT_LARGE")
    return Path(named) if named else Path(tempfile.gettempdir()) / "minorant-large"


def centres(d: int, k: int) -> np.ndarray:
    """The components' means; their covariances are all the identity."""
    return 1.5 * np.random.default_rng(1).normal(size=(k, d))


def piece(index: int, rows: int, d: int, k: int) -> np.ndarray:
    """Some of the rows; the same at every call."""
    rng = np.random.default_rng((2, index))
    return centres(d, k)[rng.integers(k, size=rows)] + rng.normal(size=(rows, d))


def rows(n: int, d: int, k: int) -> np.ndarray:
    """All rows in memory."""
    sizes = [min(_PIECE, n - first) for first in range(0, n, _PIECE)]
    out = np.empty((n, d))
    for index, size in enumerate(sizes):
        out[index * _PIECE : index * _PIECE + size] = piece(index, size, d, k)
    return out


def parquet(n: int, d: int, k: int) -> Path:
    """A folder with the rows, a million to a file; made if it is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder() / f"n{n}-d{d}-k{k}"
    done = path / "complete"
    if done.exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    for index, first in enumerate(range(0, n, _PIECE)):
        block = piece(index, min(_PIECE, n - first), d, k)
        table = pa.table({f"x{j}": np.ascontiguousarray(block[:, j]) for j in range(d)})
        pq.write_table(table, path / f"{index:05d}.parquet", row_group_size=_ROW_GROUP)
    done.touch()
    return path
