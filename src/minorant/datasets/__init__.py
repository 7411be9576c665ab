"""Small public tables for examples, tests and the demo.

Each table is a CSV file beside this module; `PROVENANCE.md`, also beside it, says where each comes
from. An empty cell is a missing entry. This package imports NumPy and the standard library only.
"""

import csv
from importlib import resources

import numpy as np


def names() -> tuple[str, ...]:
    """Names that `load` knows, in alphabetical order.

    Returns:
        The names.

    Example:
        >>> from minorant import datasets
        >>> datasets.names()
        ('airquality', 'carcinoma', 'earthquakes', 'lsat6', 'nile', 'old_faithful', 'penguins')
    """
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".csv") for name in files if name.endswith(".csv")))


def load(name: str) -> dict[str, np.ndarray]:
    """Read one table into columns.

    A column whose present entries are all numbers comes as float64, missing entries as NaN. Any
    other column comes as an object array of `str`, missing entries as `None`.

    Args:
        name: one of `names()`.

    Returns:
        Column name to column, each of shape `(n,)`, in the order of the file.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.

    Example:
        >>> from minorant import datasets
        >>> faithful = datasets.load("old_faithful")
        >>> list(faithful)
        ['eruptions', 'waiting']
        >>> float(faithful["waiting"].mean().round(3))
        70.897
    """
    if name not in names():
        raise ValueError(f"Unknown data set {name!r}. Known names: {', '.join(names())}.")
    text = (resources.files(__name__) / f"{name}.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    columns = zip(*rows, strict=True)
    return {label: _column(cells) for label, cells in zip(header, columns, strict=True)}


def _column(cells: tuple[str, ...]) -> np.ndarray:
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return np.array([cell or None for cell in cells], dtype=object)
