"""A Stan program as a target, through BridgeStan."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._config import precision
from minorant._types import Array
from minorant.targets._adapted import Adapted, Parts, missing_package


class Program:
    """A compiled Stan program with its data, callable from compiled code, point by point."""

    def __init__(self, model: Any) -> None:
        """Wrap a ``bridgestan.StanModel``, or what has its methods."""
        self._model = model
        self.size = int(model.param_unc_num())
        names = model.param_names(include_tp=True, include_gq=False)
        self.layout = _layout(names)
        self.names = tuple(_layout(model.param_names()))
        self.log_density = self._differentiable()

    def values(self, free: Float[Array, " p"]) -> dict[str, Array]:
        """Parameters and transformed parameters by name."""
        total = sum(len(places) for places, _ in self.layout.values())
        flat = _called(self._constrained, total, free)
        return {
            name: jnp.reshape(flat[np.array(places)], lengths)
            for name, (places, lengths) in self.layout.items()
        }

    def free(self, named: dict[str, Any]) -> tuple[np.ndarray, Any]:
        """Free vector and log Jacobian of named parameters."""
        flat = [np.ravel(np.asarray(named[name], float), order="F") for name in self.names]
        free = np.asarray(self._model.param_unconstrain(np.concatenate(flat)))
        both = [
            self._model.log_density(free, propto=False, jacobian=flag) for flag in (True, False)
        ]
        return free, np.asarray(both[0] - both[1])

    def _constrained(self, point: np.ndarray) -> np.ndarray:
        return self._model.param_constrain(point, include_tp=True, include_gq=False)

    def _evaluated(self, point: np.ndarray) -> np.ndarray:
        """Log density, then its gradient; minus infinity where the program rejects the point."""
        try:
            value, slope = self._model.log_density_gradient(point, propto=False, jacobian=True)
        except RuntimeError:
            return np.concatenate([[-np.inf], np.zeros(self.size)])
        return np.concatenate([[value], slope])

    def _differentiable(self) -> Any:
        """The log density as a function that JAX can differentiate once."""

        def evaluated(free: Array) -> tuple[Array, Array]:
            found = _called(self._evaluated, self.size + 1, free)
            return found[0], found[1:]

        @jax.custom_vjp
        def log_density(free: Array) -> Array:
            return evaluated(free)[0]

        log_density.defvjp(evaluated, lambda slope, cotangent: (cotangent * slope,))
        return log_density


def _called(function: Callable[[np.ndarray], Any], size: int, point: Array) -> Array:
    """``size`` numbers in float64 from a function on the host.

    Numbers cross as pairs of 32-bit words: JAX calls back from threads of its own, in which the
    scope that turns on float64 does not hold and numbers would be rounded to float32.
    """

    def call(words: Any) -> np.ndarray:
        numbers = np.ascontiguousarray(words).view(np.float64)[:, 0]
        return np.ascontiguousarray(function(numbers), np.float64)[:, None].view(np.uint32)

    shape = jax.ShapeDtypeStruct((size, 2), np.uint32)
    words = jax.lax.bitcast_convert_type(jnp.asarray(point, float), jnp.uint32)
    answer = jax.pure_callback(call, shape, words, vmap_method="sequential")
    return jax.lax.bitcast_convert_type(answer, jnp.float64)


def from_stan(program: Any, data: Any = None) -> Adapted:
    """A Stan program and its data as a target.

    Free coordinates are Stan's own unconstrained space; constants that ``~`` statements drop are
    kept (``propto=False``). BridgeStan compiles the program at first use, for which it needs a C++
    compiler and Stan's sources. Evaluations go to the program one after the other.

    Args:
        program: path of a ``.stan`` file or of a library that BridgeStan compiled, or a
            ``bridgestan.StanModel`` made with its data.
        data: path of a JSON file, JSON text, or a dict of numbers and arrays.

    Returns:
        The target; its values are parameters and transformed parameters by their names.

    Raises:
        ImportError: without bridgestan.
        ValueError: for a program without parameters, or data beside a finished model.

    Example:
        >>> import minorant
        >>> minorant.targets.from_stan.__name__  # from_stan("model.stan", {"N": 3, "y": [1, 2, 3]})
        'from_stan'

    Roualdes et al. (2023), "BridgeStan: efficient in-memory access to the methods of a Stan model".
    Not for: second derivatives, which do not pass through the program.
    """
    compiled = Program(_model(program, data))
    if not compiled.size:
        raise ValueError("The program has no parameters: nothing to climb.")
    with precision(np.dtype(np.float64)):
        return Adapted.of(
            Parts(
                compiled.size,
                compiled.log_density,
                compiled.values,
                compiled.free,
                compiled.names,
            )
        )


def _model(program: Any, data: Any) -> Any:
    if hasattr(program, "log_density_gradient"):
        if data is not None:
            raise ValueError("data are in the StanModel already: leave data= out.")
        return program
    try:
        bridgestan = import_module("bridgestan")
    except ImportError as error:
        raise missing_package("stan") from error
    return bridgestan.StanModel(os.fspath(program), data=_json(data), warn=False)


def _json(data: Any) -> str | None:
    """What BridgeStan takes: a path, or JSON."""
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    return json.dumps({name: np.asarray(value).tolist() for name, value in data.items()})


def _layout(names: list[str]) -> dict[str, tuple[list[int], tuple[int, ...]]]:
    """Places in the flat vector and shape of every variable, from names such as ``theta.2.1``.

    Stan runs through arrays with the first index fastest; here the last one does.
    """
    found: dict[str, list[tuple[tuple[int, ...], int]]] = {}
    for place, name in enumerate(names):
        base, *indices = name.split(".")
        found.setdefault(base, []).append((tuple(int(i) for i in indices), place))
    layout = {}
    for base, entries in found.items():
        entries.sort()
        layout[base] = ([place for _, place in entries], entries[-1][0])
    return layout
