"""Data of published bounds: R dumps and pickled arrays in checkouts of two public repositories.

The folder that `MINORANT_PUBLISHED` names holds them; `README.md` states the layout.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

Data = dict[str, Any]

FOLDER = Path(os.environ.get("MINORANT_PUBLISHED", "../published"))
STAN = "Advances_in_BBVI/ezstan"
ARRAYS = "LDVI/src/models/datasets"

_NAME = re.compile(r"^\s*[\"`]?([A-Za-z_]\w*)[\"`]?\s*<-", re.MULTILINE)
_SHAPE = re.compile(r"\.Dim\s*=\s*(c\([^)]*\)|\d+L?:\d+L?)")
_NUMBER = re.compile(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?")


def r_dump(path: Path) -> Data:
    """Numbers and arrays by name, from a file that R's ``dump`` wrote."""
    pieces = _NAME.split(path.read_text())[1:]
    return {name: _value(text) for name, text in zip(pieces[::2], pieces[1::2], strict=True)}


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels from a pickle that holds NumPy arrays and nothing else."""
    found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    return np.asarray(found[0], float), np.asarray(found[1], float)


class _ArraysOnly(pickle.Unpickler):
    """Refuses whatever is not NumPy's: an unknown pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] not in ("numpy", "_codecs"):
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array.")
        return super().find_class(module, name)


def _value(text: str) -> Any:
    shape = _SHAPE.search(text)
    body = text[: shape.start()] if shape else text
    ends = re.fullmatch(r"\s*(\d+)L?:(\d+)L?\s*", body)
    if ends:
        return np.arange(int(ends[1]), int(ends[2]) + 1)
    numbers = np.array([float(found) for found in _NUMBER.findall(body)])
    if shape:
        return numbers.reshape(_lengths(shape[1]), order="F")
    return numbers if "(" in body else numbers[0]


def _lengths(text: str) -> list[int]:
    found = [int(number) for number in re.findall(r"\d+", text)]
    return found if "(" in text else list(range(found[0], found[1] + 1))
