"""Parts of the hidden Markov estimators' answers: monitor, priors, fits of assigned parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from minorant.models import HiddenMarkov
    from minorant.result import Fit


class Monitor(NamedTuple):
    """How the climb went, by hmmlearn's names.

    Attributes:
        tol: nats per row that may be left to gain.
        n_iter: the limit on steps.
        iter: steps taken.
        history: ``log p(X)`` after each step, in nats.
        converged: whether the climb reached an optimum.
    """

    tol: float
    n_iter: int
    iter: int
    history: list[float]
    converged: bool


def dirichlet(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return the prior that a concentration means; None for 1, which is none.

    Raises:
        ValueError: a concentration below 1, or of another shape.
    """
    from minorant.components import Dirichlet

    if value is None or np.all(np.asarray(value) == 1.0):
        return None
    array = np.asarray(value, dtype=float)
    if array.shape not in {(), shape, shape[-1:]}:
        raise ValueError(f"{name} must be a number or have shape {shape}; got {array.shape}.")
    if (array < 1.0).any():
        raise ValueError(
            f"{name} must be at least 1, where 1 means no prior, for a maximum to exist; got "
            f"{array.min():g}."
        )
    concentration: Any = np.broadcast_to(array, shape).copy()
    return Dirichlet(concentration)


def fit_of(model: HiddenMarkov, d: int, answer: Fit | None) -> Fit:
    """Return what a fit would be whose parameters were assigned; in the data's own units."""
    from minorant._parameters import count_parameters
    from minorant._types import Affine
    from minorant.result import Acceleration, Fit, Outcome, Trace

    units = Affine.identity(d)
    nothing = np.zeros(0)
    return Fit(
        model=model,
        outcome=Outcome.RUNNING,
        bound=np.nan,
        objective=np.nan,
        trace=Trace(nothing, nothing),
        explanation="The parameters were assigned by hand.",
        standardised=model,
        units=units,
        n_rows=np.nan,
        n_parameters=count_parameters(model),
        names=tuple(f"column {j}" for j in range(d)) if answer is None else answer.names,
        acceleration=Acceleration(0, 0, 0, 0),
    )


def simulated(
    fit: Fit, n: int, seed: int | None, state: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and states of one sequence."""
    import jax

    from minorant import _config

    number = np.random.default_rng(seed).integers(2**31 - 1)
    with _config.precision(np.dtype(fit.dtype)):
        model: Any = fit.model
        first = model.initial if state is None else np.eye(model.n_components)[state]
        key = jax.random.key(np.uint32(number))
        draw = jax.jit(type(model).continued, static_argnums=2)
        states, rows = draw(model, key, n, first.astype(fit.dtype))
    return np.asarray(rows), np.asarray(states)
