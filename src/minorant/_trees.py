"""Trees of data objects as JSON and named arrays, and back; no pickle, no code run.

What is not a string, a whole number, True, False or None becomes a JSON object with one key that
says what it is: ``array``, ``float`` and ``scalar`` point into the arrays; ``tuple``, ``list`` and
``dict`` hold their entries; ``object`` and ``member`` name a class of the allow-list. Objects are
dataclasses (equinox modules) and named tuples: they are rebuilt from their fields alone.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_HOMES = (
    "_types", "_parameters", "result", "bounds", "components", "models", "posteriors",
    "rungs", "solvers",
)  # fmt: skip


class UnknownClassError(ValueError):
    """A stored class that is not on the list, or that has changed since."""


class Store:
    """Collects the arrays of a tree while its structure is written as JSON."""

    def __init__(self) -> None:
        """No arrays yet."""
        self.arrays: dict[str, np.ndarray] = {}
        self._stored: dict[int, tuple[str, Any]] = {}

    def encode(self, node: Any, where: str) -> Any:
        """The JSON of a node; ``where`` is its path, for messages.

        Raises:
            TypeError: for what cannot be stored.
        """
        if node is None or isinstance(node, str | bool) or type(node) is int:
            return node
        if isinstance(node, enum.Enum):
            return {"member": [self._class_name(type(node), where), node.name]}
        if isinstance(node, float) and not isinstance(node, np.generic):
            return {"float": self._array(np.asarray(node), node)}
        if isinstance(node, np.generic):
            return {"scalar": self._array(np.asarray(node), node)}
        if isinstance(node, np.ndarray | jax.Array):
            return {"array": self._array(_storable(np.asarray(node), where), node)}
        return self._encode_container(node, where)

    def _encode_container(self, node: Any, where: str) -> Any:
        fields = field_names(type(node))
        if fields is not None:
            values = {name: self.encode(getattr(node, name), f"{where}.{name}") for name in fields}
            return {"object": [self._class_name(type(node), where), values]}
        if isinstance(node, tuple | list):
            items = [self.encode(item, f"{where}[{i}]") for i, item in enumerate(node)]
            return {"tuple" if isinstance(node, tuple) else "list": items}
        if isinstance(node, dict) and all(isinstance(key, str) for key in node):
            items = {key: self.encode(item, f"{where}[{key!r}]") for key, item in node.items()}
            return {"dict": items}
        raise TypeError(_cannot_store(node, where))

    def _array(self, array: np.ndarray, node: Any) -> str:
        """The name of an array; an array that occurs twice is stored once."""
        if id(node) not in self._stored:
            name = f"a{len(self.arrays)}"
            self._stored[id(node)] = name, node  # kept, so that no other object takes its id
            self.arrays[name] = np.array(array, order="C")
        return self._stored[id(node)][0]

    def _class_name(self, kind: type, where: str) -> str:
        name = stored_name(kind)
        if _own_by_name().get(name, kind) is not kind or _is_taken(kind):
            raise TypeError(
                f"{where} is of your class {kind.__name__}, the name of one of minorant's own: "
                "rename it, so that it can be told apart when it is loaded."
            )
        return name


def stored_name(kind: type) -> str:
    """``components.Gaussian`` for a class of minorant's own, the bare name for any other."""
    package, *inside = kind.__module__.split(".")
    own = package == "minorant" and inside and inside[0] in _HOMES
    return f"{inside[0]}.{kind.__name__}" if own else kind.__name__


def _is_taken(kind: type) -> bool:
    """Whether a class of the caller's has the name of one of ours."""
    foreign = stored_name(kind) == kind.__name__
    return foreign and any(own.__name__ == kind.__name__ for own in _own_classes())


def decode(spec: Any, arrays: dict[str, np.ndarray], known: dict[str, type]) -> Any:
    """The node that ``spec`` stands for.

    Args:
        spec: JSON written by :class:`Store`.
        arrays: the arrays by name.
        known: the classes that may be built, by name.

    Raises:
        UnknownClassError: for a class that is not among them, or has other fields.
    """
    if not isinstance(spec, dict):
        return spec
    ((kind, content),) = spec.items()
    if kind == "array":
        return arrays[content]
    if kind == "float":
        return float(arrays[content])
    if kind == "scalar":
        return arrays[content][()]
    if kind == "member":
        return known_class(content[0], known)[content[1]]
    if kind == "object":
        values = {name: decode(item, arrays, known) for name, item in content[1].items()}
        return _build(known_class(content[0], known), values)
    if kind == "dict":
        return {key: decode(item, arrays, known) for key, item in content.items()}
    return {"tuple": tuple, "list": list}[kind](decode(item, arrays, known) for item in content)


def known_class(name: str, known: dict[str, type]) -> Any:
    """The class of that name.

    Raises:
        UnknownClassError: when there is none.
    """
    if name not in known:
        raise UnknownClassError(
            f"is made of the class {name!r}, which this minorant does not know: pass your own "
            f"class as load(..., classes=({name},)), or upgrade minorant."
        )
    return known[name]


def known_classes(classes: tuple[type, ...]) -> dict[str, type]:
    """Minorant's own data classes and the given ones, by name.

    Raises:
        TypeError: when one that is given is not a data class, or has the name of another.
    """
    known = dict(_own_by_name())
    for kind in classes:
        if not isinstance(kind, type) or field_names(kind) is None:
            raise TypeError(f"classes must be component or model classes; got {kind!r}.")
        if known.setdefault(stored_name(kind), kind) is not kind or _is_taken(kind):
            raise TypeError(
                f"classes holds {kind.__name__}, the name of another known class: rename yours."
            )
    return known


@functools.cache
def _own_by_name() -> dict[str, type]:
    return {stored_name(kind): kind for kind in _own_classes()}


@functools.cache
def _own_classes() -> tuple[type, ...]:
    return tuple(
        kind
        for module in _modules()
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
        if field_names(kind) is not None or issubclass(kind, enum.Enum)
    )


def _modules() -> Iterator[Any]:
    for home in _HOMES:
        module = importlib.import_module(f"minorant.{home}")
        yield module
        for entry in pkgutil.iter_modules(getattr(module, "__path__", ())):
            yield importlib.import_module(f"{module.__name__}.{entry.name}")


def field_names(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass or named tuple; None for any other class."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    fields = getattr(kind, "_fields", None)
    return tuple(fields) if issubclass(kind, tuple) and fields is not None else None


def _build(kind: type, values: dict[str, Any]) -> Any:
    """An object from its fields; a field that came later takes its default."""
    names, defaults = field_names(kind), _defaults(kind)
    unknown = values.keys() - set(names or ())
    missing = set(names or ()) - values.keys() - defaults.keys()
    if unknown or missing:
        raise UnknownClassError(
            f"holds a {kind.__name__} whose fields differ from this version's "
            f"({', '.join(sorted(unknown | missing))}): use the version that saved it."
        )
    values = {**defaults, **values}
    if issubclass(kind, tuple):
        return kind(**values)
    built = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(built, name, value)
    return built


def _defaults(kind: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(kind):
        return dict(kind._field_defaults)
    given = (field for field in dataclasses.fields(kind))
    return {f.name: f.default for f in given if f.default is not dataclasses.MISSING}


def _storable(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{where} is an array of {array.dtype}, which cannot be stored: give numbers, or "
            "a list of strings."
        )
    return array


def _cannot_store(node: Any, where: str) -> str:
    if callable(node):
        return (
            f"{where} is a Python function, which cannot be stored without pickle: use a prior "
            "made of numbers (InverseWishart, Dirichlet, ...), or fit without it before saving."
        )
    return (
        f"{where} is a {type(node).__name__}, which cannot be stored: use numbers, strings, "
        "arrays, tuples, lists, or dicts with strings for keys."
    )
