"""Sizes, units and coordinates of a state space model's parameters (host side)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import numpy as np
from jaxtyping import Float

from minorant._parameters import given
from minorant._types import Affine, Array, Summary
from minorant.components.gaussian import reference_variance, relative_floor
from minorant.components.scalar_covariance import Diagonal

if TYPE_CHECKING:
    from minorant.models.state_space import StateSpace

Model = TypeVar("Model", bound="StateSpace")

PARAMETERS = (
    "transition", "transition_inputs", "transition_offset", "transition_covariance", "observation",
    "observation_inputs", "observation_offset", "observation_covariance", "initial_mean",
    "initial_covariance",
)  # fmt: skip
_DEFAULTS_TO_ZERO = (
    "transition_inputs", "transition_offset", "observation_inputs", "observation_offset",
    "initial_mean",
)  # fmt: skip
_SEVERAL = 2  # sequences per state from which the first state's covariance can be learned
_STATE_FLOOR = 1e-4  # the states' floor in units of the columns' floor
_EXPLOSIVE = 1.0 + 1e-3
_STABLE = 0.995  # the spectral radius up to which starts may wander


def axes(model: StateSpace) -> dict[str, tuple[str, ...]]:
    """The axes of every parameter, by name: l states, d columns, m inputs."""
    Q = ("l",) if _is_diagonal(model.transition_structure) else ("l", "l")
    R = ("d",) if _is_diagonal(model.observation_structure) else ("d", "d")
    shapes = (
        ("l", "l"), ("l", "m"), ("l",), Q, ("d", "l"), ("d", "m"), ("d",), R, ("l",), ("l", "l"),
    )  # fmt: skip
    return dict(zip(PARAMETERS, shapes, strict=True))


def check(model: StateSpace) -> None:
    """Raise ValueError where shapes disagree or a name is unknown."""
    unknown = [name for name in model.held or () if name not in PARAMETERS]
    if unknown:
        raise ValueError(f"held takes the names {', '.join(PARAMETERS)}; got {unknown[0]!r}.")
    sizes = {"l": (model.n_states, "n_states")} if model.n_states else {}
    if model.n_inputs >= 0:
        sizes["m"] = (model.n_inputs, "n_inputs")
    for name, wanted in axes(model).items():
        value = getattr(model, name)
        if value is None or not hasattr(value, "ndim"):
            continue
        if value.ndim != len(wanted):
            raise ValueError(f"{name} must have {len(wanted)} axes; got shape {value.shape}.")
        for axis, size in zip(wanted, value.shape, strict=True):
            known, source = sizes.setdefault(axis, (size, name))
            if known != size:
                raise ValueError(
                    f"{name} has shape {value.shape}, but {source} says {_WORDS[axis]} are {known}."
                )
    if not sizes.get("l", (0, ""))[0] >= 1:
        raise ValueError(
            f"n_states must be an integer of at least 1, or follow from a matrix that is given; "
            f"got {model.n_states!r}."
        )


_WORDS = {"l": "the states", "d": "the columns", "m": "the inputs"}


def size(model: StateSpace, axis: str, otherwise: int) -> int:
    """The length of an axis, read off what is given."""
    for name, wanted in axes(model).items():
        value = getattr(model, name)
        if value is not None and axis in wanted and hasattr(value, "shape"):
            return value.shape[wanted.index(axis)]
    return otherwise


def held_by_default(model: StateSpace) -> tuple[str, ...]:
    """What is held where the user does not say: see the model."""
    held = ["initial_covariance"]
    if model.transition_offset is None:
        held.append("transition_offset")
    free = (model.transition, model.observation, model.transition_covariance)
    if all(value is None for value in free):
        held.append("transition_covariance")
    return tuple(held)


def without_first(held: tuple[str, ...], n_sequences: int, n_states: int) -> tuple[str, ...]:
    """What is held where there are this many sequences: P is not, where they are enough for it."""
    enough = n_sequences >= _SEVERAL * n_states
    return tuple(name for name in held if not (enough and name == "initial_covariance"))


def is_free(model: StateSpace) -> bool:
    """Whether states are known up to a rotation only: their noise is held, nothing else of them."""
    held = set(given(model.held))
    turned = {"transition", "transition_inputs", "observation", "initial_mean"}
    return "transition_covariance" in held and not held & turned


def configured(model: Model, summary: Summary) -> Model:
    """With floors, absent inputs and what is held at its default filled in."""
    variance, d, l = reference_variance(summary), summary.n_columns, model.n_states
    floor = model.floor
    if floor is None:
        floor = relative_floor(summary) * variance
    floor = np.broadcast_to(np.asarray(floor, dtype=float), (d,)).copy()
    lengths = {"l": l, "d": d, "m": model.n_inputs}
    values: dict[str, Any] = {"floor": floor}
    if model.state_floor is None:
        unit = _state_variance(model, floor)
        values["state_floor"] = np.full(l, _STATE_FLOOR * unit)
    for name in (name for name in PARAMETERS if getattr(model, name) is None):
        shape = tuple(lengths[axis] for axis in axes(model)[name])
        if name in _DEFAULTS_TO_ZERO and (name in given(model.held) or 0 in shape):
            values[name] = np.zeros(shape)
        elif name == "transition_covariance" and name in given(model.held):
            values[name] = np.ones(l) if len(shape) == 1 else np.eye(l)
    return replaced(model, **values)


def _state_variance(model: StateSpace, variance: Float[np.ndarray, " d"]) -> float:
    """The variance of a state that gives the columns this variance."""
    if model.observation is None:
        return 1e-6
    square = np.asarray(model.observation, dtype=float) ** 2
    reached = square.max(1) > 0
    if not reached.any():
        return float(variance.mean())
    return float((variance[reached] / square[reached].max(1)).mean())


def replaced(model: Model, **values: Any) -> Model:
    """With some fields put in."""
    names = tuple(values)
    return eqx.tree_at(
        lambda m: tuple(getattr(m, name) for name in names),
        model,
        tuple(values.values()),
        is_leaf=lambda node: node is None,
    )


def rescaled(model: Model, units: Affine) -> Model:
    """Observation parameters and floor for rows in other units."""
    scale, R = units.scale, model.observation_covariance
    changed: dict[str, Any] = {
        "observation": (model.observation, scale[:, None], 0.0),
        "observation_inputs": (model.observation_inputs, scale[:, None], 0.0),
        "observation_offset": (model.observation_offset, scale, units.shift),
        "floor": (model.floor, scale**2, 0.0),
        "observation_covariance": (
            R,
            scale**2 if R is None or R.ndim == 1 else np.outer(scale, scale),
            0.0,
        ),
    }
    present = {name: parts for name, parts in changed.items() if parts[0] is not None}
    return replaced(
        model, **{name: (value - shift) / by for name, (value, by, shift) in present.items()}
    )


def check_columns(model: StateSpace, d: int) -> None:
    """Raise ValueError where a given matrix is for another number of columns."""
    found = size(model, "d", d)
    if found != d:
        raise ValueError(
            f"The observation parameters are for {found} columns, but the table has {d}: give "
            "matrices with a row for every column."
        )
    for name in given(model.held):
        needed = name in ("transition", "observation", "observation_covariance")
        if needed and getattr(model, name) is None:
            raise ValueError(f"held names {name}, so its value must be given.")


def irregular(model: StateSpace, names: tuple[str, ...]) -> tuple[str, ...]:
    """Noises on their floor, and dynamics that explode."""
    held, said = given(model.held), []
    R = _variances(model.observation_covariance)
    if "observation_covariance" not in held:
        at_floor = np.flatnonzero(1.01 * np.asarray(model.floor) >= R)
        said += [_noiseless(names[j]) for j in at_floor]
    Q = _variances(model.transition_covariance)
    if "transition_covariance" not in held:
        still = np.flatnonzero(1.01 * np.asarray(model.state_floor) >= Q)
        said += [
            f"State {j} has no noise of its own (its variance is at the floor): it moves as A says."
            for j in still
        ]
    radius = np.abs(np.linalg.eigvals(np.asarray(model.transition, dtype=float))).max()
    if "transition" not in held and radius > _EXPLOSIVE:
        said.append(
            f"The states explode: A has an eigenvalue of modulus {radius:.4g}. Take differences or "
            "logarithms of trending columns, or hold A."
        )
    return tuple(said)


def _noiseless(name: str) -> str:
    return (
        f"Column {name!r} has its observation noise at the floor (a Heywood case): the states "
        "reproduce it exactly. Use fewer states, or raise the floor."
    )


def as_stable(model: Model, before: Float[Array, "l l"]) -> Model:
    """With A shrunk to a spectral radius below 1, or to that of ``before`` where that was above."""
    A = np.asarray(model.transition)
    radius = np.abs(np.linalg.eigvals(A)).max()
    most = max(_STABLE, np.abs(np.linalg.eigvals(np.asarray(before))).max())
    return replaced(model, transition=(A * min(1.0, most / max(radius, most))).astype(A.dtype))


def canonical_rotation(model: StateSpace) -> Float[np.ndarray, "l l"]:
    """The rotation U, ``z = U z'``, that makes ``C' R^-1 C`` diagonal and decreasing."""
    C = np.asarray(model.observation, dtype=float)
    R = np.asarray(model.observation_covariance, dtype=float)
    root = np.diag(np.sqrt(R)) if R.ndim == 1 else np.linalg.cholesky(R)
    white = np.linalg.solve(root, C)
    vectors = np.linalg.eigh(white.T @ white)[1][:, ::-1]
    signs = np.where((white @ vectors).sum(0) < 0, -1.0, 1.0)
    return vectors * signs


def rotated(model: Model, rotation: Float[np.ndarray, "l l"]) -> Model:
    """The same law with the states in rotated coordinates, ``z = U z'``.

    Raises:
        ValueError: when the states' noise is diagonal, which a rotation does not keep.
    """
    U, Q = rotation, np.asarray(model.transition_covariance)
    if Q.ndim == 1:
        raise ValueError("A model with a diagonal transition covariance cannot be rotated.")
    values = {
        "transition": U.T @ model.transition @ U,
        "transition_inputs": U.T @ model.transition_inputs,
        "transition_offset": U.T @ model.transition_offset,
        "transition_covariance": U.T @ Q @ U,
        "observation": model.observation @ U,
        "initial_mean": U.T @ model.initial_mean,
        "initial_covariance": U.T @ model.initial_covariance @ U,
    }
    dtype = np.asarray(model.transition).dtype
    return replaced(model, **{name: np.asarray(v, dtype=dtype) for name, v in values.items()})


def _variances(covariance: Any) -> np.ndarray:
    value = np.asarray(covariance, dtype=float)
    return value if value.ndim == 1 else np.diagonal(value)


def _is_diagonal(structure: Any) -> bool:
    return isinstance(structure, Diagonal)
