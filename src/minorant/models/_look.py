"""A look at a user's model before the climb: what Python says of it, in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from minorant._types import Array
from minorant.models._latents import INSTALL, first_latent, prior_of

_TRACED = (
    "is computed for all rows at once by a compiled program, in which {what}: {remedy} ({where})."
)


def seen_likelihood(model: Any) -> Any:
    """The likelihood at one latent, with the model's own numbers.

    Raises:
        TypeError: for a parameter that is no array of numbers, or a likelihood that is none.
        ValueError: where it cannot be computed; says for which shape of latent, and what failed.
    """
    _check_parameters(model)
    latent = first_latent(model)
    found = _called(lambda: model.likelihood(latent), latent)
    if not (hasattr(found, "log_prob") and hasattr(found, "event_shape")):
        kind = type(found).__name__
        raise TypeError(f"likelihood(z) must return a distribution; got {kind}. {INSTALL}")
    return found


def check_traced(model: Any, n_columns: int) -> None:
    """Raise ValueError where prior or likelihood cannot be part of a compiled program."""
    latent, row = first_latent(model), np.zeros(n_columns)

    def of_prior(model: Any, z: Array) -> Any:
        return prior_of(model).log_prob(z)

    def of_likelihood(model: Any, z: Array, x: Array) -> Any:
        return model.likelihood(z).log_prob(x)

    _called(lambda: jax.eval_shape(of_prior, model, latent), latent, "prior()")
    _called(lambda: jax.eval_shape(of_likelihood, model, latent, row), latent)


def _check_parameters(model: Any) -> None:
    for field in dataclasses.fields(model):
        if field.metadata.get("static") or field.metadata.get("constraint", "") is None:
            continue
        value = getattr(model, field.name)
        for leaf in [None] if value is None else jax.tree.leaves(value):
            if leaf is None or np.asarray(leaf).dtype.kind not in "fiub":
                raise TypeError(
                    f"{type(model).__name__}.{field.name} must be numbers to start from; got "
                    f"{leaf!r}. Give an array, or declare the field with eqx.field(static=True)."
                )


def _called(function: Callable[[], Any], latent: Any, name: str = "likelihood(z)") -> Any:
    """What a function of the user's gives; what it raises, as a sentence."""
    try:
        return function()
    except jax.errors.TracerBoolConversionError as error:
        what = "no array has a value yet that a Python if, while, and, or or could ask for"
        raise ValueError(
            f"{name} {_traced(what, 'use jnp.where or jax.lax.cond', error)}"
        ) from error
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        what = "no array has a value yet that NumPy, float() or int() could take"
        raise ValueError(
            f"{name} {_traced(what, 'use jax.numpy in place of NumPy', error)}"
        ) from error
    except (TypeError, ValueError) as error:
        shape = tuple(np.shape(latent))
        raise ValueError(
            f"{name} cannot be computed at the parameters given, for the z of shape {shape} that "
            f"prior() draws: {_first(error)} Make the prior's event shape the one that the "
            "likelihood takes, and start from parameters that its distribution allows."
        ) from error


def _traced(what: str, remedy: str, error: Exception) -> str:
    return _TRACED.format(what=what, remedy=remedy, where=type(error).__name__)


def _first(error: Exception) -> str:
    line = str(error).strip().split("\n")[0].rstrip(".")
    return f"{line}."
