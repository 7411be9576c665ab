"""Where the climb of a state space model starts (host side, no random draws).

Two candidates for the path of the states. ``past predicts future``: the directions of the coming
rows that the past rows predict best, a subspace identification (Van Overschee & De Moor, 1996,
"Subspace identification for linear systems", chapter 3; Larimore, 1990, "Canonical variate analysis
in identification"). ``principal components`` of the rows, or of windows of them when there are more
states than columns. Each path gives A, C, Q and R by least squares, so noises are positive; the
candidate of higher likelihood on the first rows is taken. Where A or C is given, the rest begins at
plain values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from minorant._parameters import given
from minorant._types import Rows
from minorant.models._state_space_look import known_inputs
from minorant.models._state_space_shapes import replaced

if TYPE_CHECKING:
    from minorant.models.state_space import StateSpace

Model = TypeVar("Model", bound="StateSpace")

_JUDGED_ROWS = 600
_LEAST_NOISE = 0.05  # of a column's variance: a start must leave the states room to move
_RIDGE = 1e-3
_STABLE, _WIDE = 0.999, 1e6  # states that wander begin anywhere, others as wide as the columns


class Series(NamedTuple):
    """Rows with gaps interpolated, standardised, inputs regressed out; where groups begin."""

    values: Float[np.ndarray, "n d"]
    start: Bool[np.ndarray, " n"]
    inputs: Float[np.ndarray, "n m"]
    slope: Float[np.ndarray, "d m"]
    offset: Float[np.ndarray, " d"]


class Start(NamedTuple):
    """A complete set of parameters, offsets apart."""

    transition: Float[np.ndarray, "l l"]
    transition_covariance: Float[np.ndarray, "l l"]
    observation: Float[np.ndarray, "d l"]
    observation_covariance: Float[np.ndarray, "d d"]
    initial_covariance: Float[np.ndarray, "l l"]


def started(model: Model, rows: Rows) -> Model:
    """The model with all parameters: those that are given, and a start for the others."""
    known_inputs(rows, model.n_inputs)
    series = _series(rows)
    if model.transition is None and model.observation is None:
        begun = _better(series, model.n_states)
        begun = _in_unit_noise(begun) if model.transition_covariance is not None else begun
    else:
        begun = _plain(model, series)
    return _filled(model, series, begun)


def _series(rows: Rows) -> Series:
    kept = np.asarray(rows.weight) > 0
    values = np.array(rows.values, dtype=float)[kept]
    start = np.zeros(len(kept), bool) if rows.groups is None else np.asarray(rows.groups.start)
    start = np.array(start)[kept]
    start[:1] = True
    if rows.observed is not None:
        observed = np.broadcast_to(np.asarray(rows.observed), (len(kept), values.shape[1]))[kept]
        for column, seen in zip(values.T, observed.T, strict=True):
            _interpolate(column, seen)
    inputs = np.zeros((len(kept), 0)) if rows.inputs is None else np.asarray(rows.inputs, float)
    return _without_inputs(values, start, inputs[kept])


def _interpolate(column: np.ndarray, seen: np.ndarray) -> None:
    """Fill what is missing, in place."""
    steps = np.arange(len(column))
    column[~seen] = np.interp(steps[~seen], steps[seen], column[seen]) if seen.any() else 0.0


def _without_inputs(values: np.ndarray, start: np.ndarray, inputs: np.ndarray) -> Series:
    if not inputs.shape[1]:
        offset = values.mean(0)
        return Series(values - offset, start, inputs, np.zeros((values.shape[1], 0)), offset)
    design = np.c_[inputs, np.ones(len(inputs))]
    found = np.linalg.lstsq(design, values, rcond=None)[0]
    return Series(values - design @ found, start, inputs, found[:-1].T, found[-1])


def _better(series: Series, l: int) -> Start:
    """The candidate under which the first rows are likelier."""
    candidates = [
        _from_path(series, path) for path in (_predicted(series, l), _components(series, l))
    ]
    judged = [_log_likelihood(series, candidate) for candidate in candidates]
    return candidates[int(np.argmax(judged))]


def _predicted(series: Series, l: int) -> np.ndarray:
    """The coming rows' l directions that past rows predict best, step by step."""
    d = series.values.shape[1]
    window = max(2, -(-l // d) + 1)
    past = _lagged(series, range(1, window + 1))
    future = _lagged(series, range(0, -window, -1))
    gram = past.T @ past
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram))
    predicted = past @ np.linalg.solve(gram, past.T @ future)
    return _scores(predicted, l)


def _components(series: Series, l: int) -> np.ndarray:
    """Principal components of each row and as many rows before it as l needs."""
    d = series.values.shape[1]
    return _scores(_lagged(series, range(-(-l // d))), l)


def _scores(windows: np.ndarray, l: int) -> np.ndarray:
    vectors = np.linalg.eigh(windows.T @ windows)[1][:, ::-1][:, :l]
    scores = windows @ vectors
    scale = scores.std(0)
    return scores / np.where(scale > 1e-8 * max(scale.max(), 1e-300), scale, 1.0)


def _lagged(series: Series, lags: range) -> np.ndarray:
    """Rows moved by each lag side by side, zeros where that would leave the group."""
    group, n = np.cumsum(series.start), len(series.values)
    pieces = []
    for lag in lags:
        index = np.clip(np.arange(n) - lag, 0, n - 1)
        inside = (group[index] == group) & (np.arange(n) - lag == index)
        pieces.append(np.where(inside[:, None], series.values[index], 0.0))
    return np.concatenate(pieces, 1)


def _from_path(series: Series, path: np.ndarray) -> Start:
    """The parameters that least squares gives along a path."""
    l = path.shape[1]
    C, R = _least_squares(path, series.values)
    entered = np.flatnonzero(~series.start)
    A, Q = 0.5 * np.eye(l), 0.75 * np.eye(l)
    if len(entered) > 2 * l:
        A, noise = _least_squares(path[entered - 1], path[entered])
        radius = max(np.abs(np.linalg.eigvals(A)).max(), 1e-12)
        A = A * min(1.0, 0.995 / radius)
        Q = noise + _LEAST_NOISE * np.eye(l)
    floor = _LEAST_NOISE * np.maximum(series.values.var(0), 1e-3)
    R = R + np.diag(np.maximum(floor - np.diagonal(R), 0.0) + 1e-6)
    return Start(A, Q, C, R, np.cov(path.T, bias=True).reshape(l, l) + 0.1 * np.eye(l))


def _least_squares(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gram = inputs.T @ inputs
    gram = gram + (_RIDGE * np.trace(gram) / len(gram) + 1e-9) * np.eye(len(gram))
    found = np.linalg.solve(gram, inputs.T @ outputs).T
    left = outputs - inputs @ found.T
    return found, left.T @ left / len(left)


def _in_unit_noise(begun: Start) -> Start:
    """The law in the coordinates where Q is the identity; P round, so that none is preferred."""
    root = np.linalg.cholesky(begun.transition_covariance)
    inverse = np.linalg.inv(root)
    P = inverse @ begun.initial_covariance @ inverse.T
    return begun._replace(
        transition=inverse @ begun.transition @ root,
        transition_covariance=np.eye(len(root)),
        observation=begun.observation @ root,
        initial_covariance=np.trace(P) / len(P) * np.eye(len(P)),
    )


def _plain(model: StateSpace, series: Series) -> Start:
    """Plain values where some matrix is given: noises from the columns' steps."""
    l, d = model.n_states, series.values.shape[1]
    A = 0.9 * np.eye(l) if model.transition is None else np.asarray(model.transition, float)
    if model.observation is None:
        vectors = np.linalg.eigh(series.values.T @ series.values)[1][:, ::-1]
        C = vectors[:, np.arange(l) % d]
    else:
        C = np.asarray(model.observation, float)
    steps = np.diff(series.values, axis=0)[~series.start[1:]]
    variance = np.maximum(series.values.var(0), 1e-3)
    rough = steps.var(0) if len(steps) else variance
    R = 0.25 * np.clip(np.minimum(rough, variance), 1e-3 * variance, None)
    unit = 1.0 / max(float((C**2).max(1).mean()), 1e-300)
    wanders = model.transition is not None and np.abs(np.linalg.eigvals(A)).max() > _STABLE
    P = (_WIDE if wanders else 1.0) * unit * np.eye(l)
    return Start(A, R.mean() * unit * np.eye(l), C, np.diag(R), P)


def _filled(model: Model, series: Series, begun: Start) -> Model:
    """The start's values where the model has none, in the shapes that its structures want."""
    l, m = model.n_states, model.n_inputs
    shape = {
        "transition_covariance": model.transition_structure,
        "observation_covariance": model.observation_structure,
    }
    values = begun._asdict()
    for name, structure in shape.items():
        values[name] = np.array(structure.stored(values[name][None])[0])
    values |= {
        "transition_inputs": np.zeros((l, m)),
        "transition_offset": np.zeros(l),
        "observation_inputs": series.slope,
        "observation_offset": series.offset,
        "initial_mean": np.zeros(l),
    }
    dtype = given(model.floor).dtype
    return replaced(
        model,
        **{
            name: np.asarray(value, dtype=dtype)
            for name, value in values.items()
            if getattr(model, name) is None
        },
    )


def _log_likelihood(series: Series, begun: Start) -> float:
    """Of the first rows, by a plain Kalman filter."""
    A, Q, C, R, P = begun
    state, spread, total = np.zeros(len(A)), P, 0.0
    rows = max(_JUDGED_ROWS // max(1, series.values.shape[1] // 8), 50)
    for value, first in zip(series.values[:rows], series.start[:rows], strict=True):
        state, spread = (np.zeros(len(A)), P) if first else (A @ state, A @ spread @ A.T + Q)
        S = C @ spread @ C.T + R
        gain = np.linalg.solve(S, C @ spread).T
        away = value - C @ state
        total -= 0.5 * (np.linalg.slogdet(S)[1] + away @ np.linalg.solve(S, away))
        state, spread = state + gain @ away, spread - gain @ C @ spread
    return total if np.isfinite(total) else -np.inf
