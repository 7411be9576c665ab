"""A PyMC model as a target, through PyMC's own translation to JAX."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import jax.numpy as jnp
import numpy as np

from minorant._config import precision
from minorant._types import Array
from minorant.targets._adapted import Adapted, Parts, missing_package


def from_pymc(model: Any) -> Adapted:
    """A PyMC model as a target.

    Free coordinates are PyMC's own unconstrained space, raveled in the order of
    ``model.value_vars``; every constant of the log density is kept.

    Args:
        model: a ``pymc.Model`` with its data.

    Returns:
        The target; its values go by the names of the variables, deterministics included.

    Raises:
        ImportError: without pymc.
        ValueError: for a model with discrete unknowns, or with none at all.

    Example:
        >>> import minorant
        >>> minorant.targets.from_pymc.__name__  # with pm.Model() as m: ...; from_pymc(m)
        'from_pymc'

    Abril-Pla et al. (2023), "PyMC: a modern, and comprehensive probabilistic programming framework
    in Python". Not for: operations that PyTensor cannot translate to JAX.
    """
    try:
        pymc, to_jax = import_module("pymc"), import_module("pymc.sampling.jax")
    except ImportError as error:
        raise missing_package("pymc") from error
    _check(model)
    with precision(np.dtype(np.float64)):
        return Adapted.of(_parts(pymc, to_jax.get_jaxified_graph, model))


def _check(model: Any) -> None:
    discrete = [variable.name for variable in model.discrete_value_vars]
    if discrete:
        raise ValueError(
            f"The model has discrete unknowns ({', '.join(discrete)}): sum them out first, for "
            "example with pymc_extras.marginalize."
        )
    if not model.value_vars:
        raise ValueError("The model has no unknowns: nothing to climb.")


def _parts(pymc: Any, jaxified: Any, model: Any) -> Parts:
    inputs = model.value_vars
    start = model.initial_point(random_seed=0)
    shapes = [np.shape(start[variable.name]) for variable in inputs]
    ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in shapes])
    names = tuple(variable.name for variable in model.free_RVs)
    hidden = {variable.name for variable in inputs} - set(names)
    seen = [variable for variable in model.unobserved_value_vars if variable.name not in hidden]
    log_p, view = jaxified(inputs, [model.logp()]), jaxified(inputs, seen)

    def split(free: Array) -> list[Array]:
        parts = jnp.split(free, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def values(free: Array) -> dict[str, Array]:
        return {v.name: value for v, value in zip(seen, view(*split(free)), strict=True)}

    def free(named: dict[str, Any]) -> tuple[np.ndarray, Any]:
        return _free(pymc, model, named)

    point = np.concatenate([np.ravel(start[variable.name]) for variable in inputs])
    return Parts(int(ends[-1]), lambda u: log_p(*split(u))[0], values, free, names, point)


def _free(pymc: Any, model: Any, named: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """Free vector of values, and the log Jacobian: what ``logp`` has more with it than without."""
    given = {variable: np.asarray(named[variable.name], float) for variable in model.free_RVs}
    begin = pymc.initial_point.make_initial_point_fn(model=model, overrides=given)
    point = {name: np.asarray(value, float) for name, value in begin(0).items()}
    with_it, without = (model.compile_logp(jacobian=jacobian)(point) for jacobian in (True, False))
    free = np.concatenate([np.ravel(point[variable.name]) for variable in model.value_vars])
    return free, np.asarray(with_it - without)
