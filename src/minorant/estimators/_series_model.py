"""From the options of the estimator of state space models to a model, and what of it is held.

A parameter that is given is held; its NaN entries are learned and begin at plain values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.estimators._series import AnySeries
from minorant.estimators.options import ARRAY, NONE, Choice, Interval, Option

if TYPE_CHECKING:
    from minorant.models import StateSpace as Model

GIVEN = (
    "transition", "transition_inputs", "transition_offset", "transition_covariance", "observation",
    "observation_inputs", "observation_offset", "observation_covariance", "initial_mean",
    "initial_covariance",
)  # fmt: skip
_NOISE = Choice(("full", "diag"))
OWN_OPTIONS = {
    "n_states": Option(
        "n_states", None, (Interval(int, 1), NONE), "The number of states; None: as given, or 1."
    ),
    "transition_type": Option(
        "transition_type", "full", (_NOISE,), "Whether the states' noises are correlated."
    ),
    "observation_type": Option(
        "observation_type", "diag", (_NOISE,), "Whether the columns' noises are correlated."
    ),
    "solver": Option(
        "solver",
        "em",
        (Choice(("em", "quasi-newton")),),
        "How the likelihood is climbed: EM, accelerated, or quasi-Newton steps on its gradient.",
    ),
    **{
        name: Option(
            name, None, (ARRAY, NONE), "Held at this value, but for NaN entries; None: learned."
        )
        for name in GIVEN
    },
}


def model_of(estimator: Any, series: AnySeries) -> Model:
    """Return the model that the options mean."""
    from minorant.components import Diagonal, Full
    from minorant.models import StateSpace as Model
    from minorant.models._state_space_shapes import without_first

    kinds = {"full": Full(), "diag": Diagonal()}
    given = _given(estimator)
    types = {name: getattr(estimator, f"{name}_type") for name in ("transition", "observation")}
    for name in types:
        types[name], value = _narrowed(types[name], given.get(f"{name}_covariance"), name)
        given |= {} if value is None else {f"{name}_covariance": value}
    parts: dict[str, Any] = {name: _begun(name, value, series) for name, value in given.items()}
    parts["transition_structure"] = kinds[types["transition"]]
    parts["observation_structure"] = kinds[types["observation"]]
    parts["n_inputs"] = series.n_inputs()
    if estimator.n_states is not None:
        parts["n_states"] = estimator.n_states
    elif not given.keys() - {"observation_covariance", "observation_offset", "observation_inputs"}:
        parts["n_states"] = 1
    model = Model(**parts)
    by_default = without_first(model.held or (), series.n_sequences(), model.n_states)
    held = {name: not np.isnan(value).any() for name, value in given.items()}
    held = dict.fromkeys(by_default, True) | held
    parts |= {"n_states": model.n_states, "held": tuple(n for n in GIVEN if held.get(n))}
    return Model(**parts)


def _narrowed(kind: str, value: np.ndarray | None, name: str) -> tuple[str, np.ndarray | None]:
    """Return the type of a noise and its value: a matrix with gaps on its diagonal is diagonal.

    Raises:
        ValueError: for gaps beside the diagonal.
    """
    if value is None or value.ndim != 2 or not np.isnan(value).any():
        return kind, value
    if np.isnan(value).all():
        return kind, None
    beside = value[~np.eye(len(value), dtype=bool)]
    if beside.size and not (beside == 0).all():
        raise ValueError(
            f"{name}_covariance has NaN entries beside numbers off its diagonal, which cannot be "
            "learned and stay positive definite: give all of it, none of it, or zeros there."
        )
    return "diag", np.diagonal(value).copy()


def held_entries(estimator: Any) -> Any:
    """Return what holds the entries that are given beside NaN entries, as `fit` takes it."""
    known = {name: ~np.isnan(value) for name, value in _given(estimator).items()}
    for name in ("transition_covariance", "observation_covariance"):
        if name in known and known[name].ndim == 2 and not known[name].all():
            known[name] = np.diagonal(known[name])
    partly = {name: mask for name, mask in known.items() if mask.any() and not mask.all()}
    if not partly:
        return None
    from minorant._parameters import Hold

    return lambda model: tuple(Hold(getattr(model, name), mask) for name, mask in partly.items())


def _given(estimator: Any) -> dict[str, np.ndarray]:
    values = {name: getattr(estimator, name) for name in GIVEN}
    return {name: np.array(v, dtype=float) for name, v in values.items() if v is not None}


def _begun(name: str, value: np.ndarray, series: AnySeries) -> np.ndarray:
    """Return what is given, with something to start from in place of NaN."""
    gaps = np.isnan(value)
    if not gaps.any():
        return value
    mean, variance = series.column_moments()
    plain = np.zeros_like(value)
    if name == "transition":
        plain = 0.5 * np.eye(len(value))
    elif name == "observation":
        plain = np.broadcast_to(np.sqrt(variance)[:, None], value.shape)
    elif name == "observation_offset":
        plain = mean
    elif name.endswith("covariance"):
        size = (
            0.1 * variance
            if name.startswith("observation")
            else np.full(len(value), 0.1 * variance.mean())
        )
        plain = size if value.ndim == 1 else np.diag(size)
    return np.where(gaps, plain, value)
