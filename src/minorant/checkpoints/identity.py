"""What tells one fit from another: data, model and options as a flat table of words.

A checkpoint is taken up only by the fit that wrote it. Arrays are told apart by a digest of their
bytes, functions and classes of the user's by a digest of their code.
"""

from __future__ import annotations

import enum
import hashlib
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from minorant import _trees as trees
from minorant.checking import POINTS, looked_at
from minorant.data import ArraySource

_OURS = ("minorant", "equinox", "jax", "numpy", "paramax", "flowjax", "numpyro", "builtins")
_PIECE = 1 << 26  # bytes digested at a time, so that no copy of a large table is made


def identity_of(prepared: Any, asked: dict[str, Any]) -> dict[str, str]:
    """Data, model and options of a fit, name by name.

    Args:
        prepared: a ``preparation.Prepared``.
        asked: the arguments that the answer depends on.

    Raises:
        TypeError: for rows that cannot be told from others.
    """
    import minorant

    found = {
        "minorant": minorant.__version__,
        "the float type": str(prepared.dtype),
        "the columns": ", ".join(map(str, prepared.names)),
        "the number of rows": str(prepared.n_rows()),
    }
    for name, value in asked.items():
        found.update(_told(value, name))
    leaves = jax.tree.leaves(prepared.fixed)
    held = [np.ravel(leaf).astype(bool) for leaf in leaves]
    found["fixed"] = _digest(np.concatenate(held)) if held else "nothing"
    return {**found, **_told_of_rows(prepared)}


def identity_of_target(target: Any, asked: dict[str, Any]) -> dict[str, str]:
    """A target and the options of its fit, name by name.

    A target is told apart by its log density and slope at points that are the same every time:
    functions and the data they hold cannot be compared themselves.
    """
    import minorant

    points = np.random.default_rng(0).normal(size=(POINTS, target.size))
    found = {
        "minorant": minorant.__version__,
        "the target": _class_name(type(target)),
        "the number of free coordinates": str(target.size),
    }
    for part, values in zip(("log density", "slope"), looked_at(target, points), strict=True):
        found[f"the target's {part}"] = _digest(np.asarray(values))
    for name, value in asked.items():
        found.update(_told(value, name))
    return found


def difference(one: dict[str, str], other: dict[str, str]) -> tuple[str, str, str] | None:
    """The first name that two fits differ in, and what each has there."""
    for name in [*other, *one]:
        if one.get(name) != other.get(name):
            return name, one.get(name, "nothing"), other.get(name, "nothing")
    return None


def _told_of_rows(prepared: Any) -> dict[str, str]:
    if prepared.stream is None:
        return {f"the data's {name}": _digest(cells) for name, cells in _filled(prepared.table)}
    if isinstance(prepared.source, ArraySource):  # few rows that stand for all
        told = " ".join(_digest(np.atleast_1d(leaf)) for leaf in jax.tree.leaves(prepared.source))
        return {"the data's moments": _short(told)}
    rows = getattr(prepared.source, "chunks", prepared.source)
    if not hasattr(rows, "identity"):
        raise TypeError(
            f"checkpoint= needs rows that can be told from others; {type(rows).__name__} cannot: "
            "fit from files or from memory."
        )
    return {"the data's cells": rows.identity()}


def _filled(table: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name, cells in table._asdict().items():
        if cells is not None:
            yield "cells" if name == "values" else name, cells


def _told(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every leaf of a tree of objects, in words."""
    names = trees.field_names(type(node))
    if names is not None:
        yield place, _class_name(type(node))
        for name in names:
            yield from _told(getattr(node, name), f"{place}.{name}")
    elif isinstance(node, tuple | list):
        yield place, f"{type(node).__name__} of {len(node)}"
        for index, item in enumerate(node):
            yield from _told(item, f"{place}[{index}]")
    elif isinstance(node, dict):
        yield place, f"dict of {len(node)}"
        for key, item in node.items():
            yield from _told(item, f"{place}[{key!r}]")
    else:
        yield place, _word(node)


def _word(node: Any) -> str:
    if isinstance(node, np.ndarray | jax.Array) and np.ndim(node):
        return _digest(np.asarray(node))
    if isinstance(node, np.generic | jax.Array | np.ndarray):
        return repr(np.asarray(node).item())
    if isinstance(node, enum.Enum | str | bytes | int | float | complex | None):
        return str(node)
    if isinstance(node, type):
        return _class_name(node)
    if callable(node):
        return f"{getattr(node, '__qualname__', type(node).__name__)} {_code(node)}"
    return _class_name(type(node)) + _attributes(node)


def _attributes(node: Any) -> str:
    """The digest of what an object that is no tree holds, where it can be looked into."""
    held = getattr(node, "__dict__", None)
    if not held:
        return ""
    return f" {_short(repr([list(_told(value, name)) for name, value in sorted(held.items())]))}"


def _class_name(kind: type) -> str:
    """The name of a class; of a user's own with a digest of its methods."""
    if kind.__module__.partition(".")[0] in _OURS:
        return kind.__name__
    methods = [value for value in vars(kind).values() if isinstance(value, types.FunctionType)]
    return f"{kind.__name__} {_short(''.join(map(_code, methods)))}"


def _code(function: Any) -> str:
    """A digest of what a function does, and of the numbers it closes over."""
    inner = getattr(function, "__wrapped__", getattr(function, "func", function))
    code = getattr(inner, "__code__", None)
    if code is None:
        return ""
    held = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    defaults = getattr(inner, "__defaults__", None) or ()
    return _short(repr([_instructions(code), *map(_constant, (*held, *defaults))]))


def _instructions(code: types.CodeType) -> list[Any]:
    return [code.co_code.hex(), code.co_names, [_constant(held) for held in code.co_consts]]


def _constant(held: Any) -> Any:
    """In words that are the same in every process: no addresses, no order of a set."""
    if isinstance(held, types.CodeType):
        return _instructions(held)
    if isinstance(held, tuple | frozenset | set):
        return sorted(repr(_constant(item)) for item in held)
    simple = isinstance(held, np.ndarray | jax.Array | str | bytes | int | float | complex | None)
    return _word(held) if simple else type(held).__name__


def _digest(array: np.ndarray) -> str:
    """Type, shape and a digest of the bytes."""
    digest = hashlib.sha256()
    flat = np.asarray(array)
    rows = max(_PIECE // max(flat[:1].nbytes, 1), 1)
    for start in range(0, len(flat), rows):
        digest.update(flat[start : start + rows].tobytes())
    shape = " x ".join(map(str, flat.shape))
    return f"{flat.dtype} {shape} {digest.hexdigest()[:16]}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
