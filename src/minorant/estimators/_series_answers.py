"""Questions about sequences that a fitted state space model answers row by row, compiled once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array, PyTree, Rows
from minorant.data import ArraySource
from minorant.evidence.in_chunks import joined
from minorant.evidence.scoring import each_scored, mapped
from minorant.result import Fit


class States(NamedTuple):
    """Means (n, l) and covariances (n, l, l) of the states, in the rows' order."""

    mean: Float[np.ndarray, "n l"]
    covariance: Float[np.ndarray, "n l l"]

    @property
    def standard_deviation(self) -> Float[np.ndarray, "n l"]:
        """Of each state by itself."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))


class Filtered(NamedTuple):
    """States given the rows before each row, and given it too."""

    predicted: States
    updated: States


def filtered(fit: Fit, X: Any, groups: Any = None, inputs: Any = None) -> Filtered:  # noqa: N803
    """The filter's states of every row."""
    scored = each_scored(fit, X, None, groups, inputs)
    found = joined([mapped(fit, one, _filtered) for one in scored])
    return Filtered(States(*found[:2]), States(*found[2:]))


def simulated(fit: Fit, seed: int, n: int, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """A sequence of n steps and its states, in the data's units."""
    dtype = np.dtype(fit.dtype)
    shape: tuple[int, int] = (n, len(fit.names))
    zeros: Any = np.zeros(shape, dtype)
    unseen: Any = np.zeros(shape, bool)
    weight: Any = np.ones(n, dtype)
    known: Any = None if inputs is None else np.asarray(inputs, dtype)
    rows = Rows(zeros, weight, unseen, inputs=known)
    _config.enable_compilation_cache()
    with _config.precision(dtype):
        states, values = jax.device_get(_simulated(fit.standardised, np.uint32(seed), rows))
    return values.astype(float) * fit.units.scale + fit.units.shift, states.astype(float)


def expected_rows(model: Any, states: States, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means (n, d) and covariances (n, d, d) of rows whose states are so, in the data's units."""
    C, R = np.asarray(model.observation, float), np.asarray(model.observation_covariance, float)
    mean = states.mean @ C.T + model.observation_offset
    if inputs is not None and model.n_inputs:
        mean = mean + np.asarray(inputs, float) @ np.asarray(model.observation_inputs, float).T
    noise = np.diag(R) if R.ndim == 1 else R
    return mean, C @ states.covariance @ C.T + noise


@jax.jit
def _filtered(model: Any, source: ArraySource) -> tuple[PyTree, ...]:
    def told(parameters: PyTree, rows: Rows) -> tuple[Array, ...]:
        model, prepared = parameters
        return tuple(model.filtered(rows, prepared))[:4]

    return source.map(told, (model, model.prepare()))


@jax.jit
def _simulated(model: Any, seed: Array, rows: Rows) -> tuple[Array, Array]:
    return model.simulated(jax.random.key(seed), rows)
