"""A NumPyro model as a target: its continuous sites are the unknowns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from minorant._config import precision
from minorant._types import Array
from minorant.targets._adapted import Adapted, Parts, missing_package


def from_numpyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Adapted:
    """A NumPyro model, given its arguments, as a target.

    Free coordinates are NumPyro's own unconstrained space; every constant of the log density is
    kept, so the evidence is that of the model. Discrete sites that NumPyro can enumerate are summed
    out (with the package funsor).

    Args:
        model: a function of NumPyro primitives, observations among its arguments or closed over.
        args: its arguments.
        kwargs: its keyword arguments.

    Returns:
        The target; its values go by the names of the sites, deterministic sites included.

    Raises:
        ImportError: without numpyro; with discrete sites, without funsor.
        ValueError: for a model without continuous unobserved sites.

    Example:
        >>> import minorant, numpy as np, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        ...     scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        ...     numpyro.sample("y", dist.Normal(mean, scale), obs=y)
        >>> minorant.targets.from_numpyro(model, np.array([1.0, 2.5, 2.0])).names
        ('mean', 'scale')

    Phan, Pradhan & Jankowiak (2019), "Composable effects for flexible and accelerated probabilistic
    programming in NumPyro". Not for: sub-sampled plates, whose log density is random.
    """
    with precision(np.dtype(np.float64)):
        return Adapted.of(_parts(model, args, kwargs))


def _parts(model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Parts:
    info = _initialized(model, args, kwargs)
    flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, float), info.param_info.z))
    names = tuple(info.param_info.z)
    if not names:
        raise ValueError("The model has no continuous site that is not observed: nothing to climb.")

    def log_density(free: Any) -> Array:
        return -info.potential_fn(unravel(free))

    def values(free: Any) -> dict[str, Array]:
        return {name: jnp.asarray(v) for name, v in info.postprocess_fn(unravel(free)).items()}

    def free(named: dict[str, Any]) -> tuple[np.ndarray, Any]:
        return _free(model, args, kwargs, named)

    return Parts(flat.size, log_density, values, free, names)


def _initialized(model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    try:
        from numpyro.infer.util import initialize_model
    except ImportError as error:
        raise missing_package("numpyro") from error
    try:
        return initialize_model(
            jax.random.key(0), model, model_args=args, model_kwargs=kwargs, validate_grad=False
        )
    except ImportError as error:
        raise ImportError(
            "The model has discrete sites, which NumPyro sums out with the package funsor: "
            "pip install funsor, or sum them out in the model."
        ) from error


def _free(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any], named: dict[str, Any]
) -> tuple[np.ndarray, Any]:
    """Free vector of values at the sites, and the sum of their transforms' log Jacobians."""
    from numpyro.infer.util import get_transforms

    given = {name: jnp.asarray(value, float) for name, value in named.items()}
    transforms = get_transforms(model, args, kwargs, given)
    free = {name: transforms[name].inv(value) for name, value in given.items()}
    log_jacobian = sum(
        jnp.sum(transforms[name].log_abs_det_jacobian(free[name], given[name])) for name in given
    )
    return np.asarray(ravel_pytree(free)[0]), log_jacobian
