r"""Which transitions between states a hidden Markov model allows, and their M-step.

A structure says where a sequence may begin, which moves have a probability at all, and which
states share one row. Moves that are not allowed stay exactly zero: in the M-step because nothing is
counted there, in a solver's free coordinates because :class:`AllowedSimplex` leaves them out.

M-step: each row is its share of the expected counts, ``(c_ij + a_ij - 1) / sum_j``, with a
Dirichlet(a) prior (a = 1: none). Baum, Petrie, Soules & Weiss (1970), "A maximization technique
occurring in the statistical analysis of probabilistic functions of Markov chains".
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._parameters import keep
from minorant._types import Array
from minorant.components import autodiff, base


class AbstractTransition(eqx.Module):
    """Which moves are allowed, where sequences may begin, and which rows are one."""

    @abstractmethod
    def allowed(self, k: int) -> Bool[np.ndarray, "k k"]:
        """Whether a move from state i to state j has a probability at all."""

    def begins(self, k: int) -> Bool[np.ndarray, " k"]:
        """Whether a sequence may begin in a state."""
        return np.ones(k, dtype=bool)

    def tied(self, k: int) -> Int[np.ndarray, " k"]:
        """For each state, the lowest state with the same row of probabilities."""
        return np.arange(k)

    def ordered(self) -> bool:
        """Whether states are passed through in their order."""
        return False


class AnyTransition(AbstractTransition):
    """Every state may follow every other.

    Example:
        >>> from minorant.models import AnyTransition
        >>> AnyTransition().allowed(2)
        array([[ True,  True],
               [ True,  True]])
    """

    def allowed(self, k: int) -> Bool[np.ndarray, "k k"]:
        """All."""
        return np.ones((k, k), dtype=bool)


class LeftRight(AbstractTransition):
    """Sequences begin in state 0, and stay or go on by at most ``jump`` states (Bakis).

    Args:
        jump: how many states further one step may lead, at least 1.

    Example:
        >>> from minorant.models import LeftRight
        >>> LeftRight().allowed(3).astype(int)
        array([[1, 1, 0],
               [0, 1, 1],
               [0, 0, 1]])
    """

    jump: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        """Raise ValueError where no step leads on."""
        if self.jump < 1:
            raise ValueError(f"LeftRight jump must be at least 1; got {self.jump}.")

    def allowed(self, k: int) -> Bool[np.ndarray, "k k"]:
        """A band on and above the diagonal."""
        step = np.arange(k) - np.arange(k)[:, None]
        return (step >= 0) & (step <= self.jump)

    def begins(self, k: int) -> Bool[np.ndarray, " k"]:
        """Only in state 0."""
        return np.arange(k) == 0

    def ordered(self) -> bool:
        """They are."""
        return True


class Allowed(AbstractTransition):
    """The moves marked in a matrix; all others have probability zero, for good.

    Args:
        moves: (k, k), nonzero where a move from i (row) to j (column) is allowed.
        start: (k,), nonzero where a sequence may begin; None: anywhere.

    Raises:
        ValueError: when the matrix is not square or a state has no move out, not even to itself.

    Example:
        >>> from minorant.models import Allowed
        >>> Allowed([[1, 1], [0, 1]]).allowed(2).sum()
        np.int64(3)
    """

    moves: tuple[tuple[bool, ...], ...] = eqx.field(static=True)
    start: tuple[bool, ...] | None = eqx.field(static=True)

    def __init__(self, moves: Any, start: Any = None) -> None:
        marked = np.asarray(moves).astype(bool)
        if marked.ndim != 2 or marked.shape[0] != marked.shape[1]:
            raise ValueError(f"moves must be a square matrix; got shape {marked.shape}.")
        if not marked.any(1).all():
            state = int(np.flatnonzero(~marked.any(1))[0])
            raise ValueError(f"moves allows nothing out of state {state}: allow it to stay there.")
        self.moves = tuple(tuple(map(bool, row)) for row in marked)
        self.start = None if start is None else tuple(map(bool, np.asarray(start)))

    def allowed(self, k: int) -> Bool[np.ndarray, "k k"]:
        """The marks."""
        if len(self.moves) != k:
            raise ValueError(f"moves is for {len(self.moves)} states, but the model has {k}.")
        return np.array(self.moves)

    def begins(self, k: int) -> Bool[np.ndarray, " k"]:
        """The marks of ``start``."""
        return np.ones(k, dtype=bool) if self.start is None else np.array(self.start)


class TiedRows(AbstractTransition):
    """States of one class share one row of transition probabilities.

    Args:
        classes: (k,) the class of each state, from 0; None: all states in one class, which makes
            the rows independent of each other, a mixture.

    Example:
        >>> from minorant.models import TiedRows
        >>> TiedRows((0, 1, 1)).tied(3)
        array([0, 1, 1])
    """

    classes: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def allowed(self, k: int) -> Bool[np.ndarray, "k k"]:
        """All."""
        return np.ones((k, k), dtype=bool)

    def tied(self, k: int) -> Int[np.ndarray, " k"]:
        """The first state of each class."""
        classes = np.zeros(k, dtype=int) if self.classes is None else np.asarray(self.classes)
        if len(classes) != k:
            raise ValueError(f"classes is for {len(classes)} states, but the model has {k}.")
        return np.array([int(np.flatnonzero(classes == own)[0]) for own in classes])


@dataclasses.dataclass(frozen=True)
class AllowedSimplex:
    """Rows of probabilities, exactly zero where not allowed; the free coordinates are logarithms.

    Rows that are tied are one row, by the mean of their coordinates.
    """

    allowed: tuple[Any, ...]
    tied: tuple[int, ...] | None = None

    def free(self, value: Array) -> Array:
        """Value to free coordinates; 0 where not allowed."""
        positive = jnp.maximum(value, jnp.finfo(value.dtype).tiny)
        return jnp.where(np.array(self.allowed), jnp.log(positive), 0.0)

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        xp = np if isinstance(free, np.ndarray | np.generic) else jnp
        mask = np.array(self.allowed)
        if self.tied is not None:
            free = shared_rows(free, self.tied, mean=True)
        free = xp.where(mask, free, -np.inf)
        highest = xp.max(free, axis=-1, keepdims=True)  # its gradient cancels
        relative = xp.exp(free - (highest if xp is np else jax.lax.stop_gradient(highest)))
        return relative / xp.sum(relative, axis=-1, keepdims=True)

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        del shape
        mask = np.atleast_2d(np.array(self.allowed))
        rows = range(len(mask)) if self.tied is None else sorted(set(self.tied))
        return int(sum(mask[row].sum() - 1 for row in rows))


def check_probabilities(name: str, value: Any, shape: tuple[int, ...], allowed: np.ndarray) -> None:
    """Raise ValueError unless an array holds probabilities that the structure allows."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        return
    if value.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape} for {shape[0]} states; got {value.shape}."
        )
    rows, marks = np.atleast_2d(value), np.atleast_2d(allowed)
    for i, (row, mark) in enumerate(zip(rows, marks, strict=True)):
        where = f"{name} row {i}" if value.ndim == 2 else name
        if not row.any():
            raise ValueError(
                f"{where} is all zero: the chain could not go on from there. Give the state a "
                "probability to stay, or leave it out."
            )
        if not (row >= 0).all() or abs(row.sum() - 1.0) > 1e-6:
            raise ValueError(
                f"{where} must be probabilities that sum to 1; got {row.tolist()}, which sum to "
                f"{row.sum():g}. Divide by the sum."
            )
        if (row[~mark] > 0).any():
            raise ValueError(f"{where} gives a probability to what the structure does not allow.")


def shared_rows(rows: Array, tied: tuple[int, ...], mean: bool) -> Float[Array, "k k"]:
    """Every row replaced by the sum (or mean) of the rows it is tied to."""
    classes = np.asarray(tied)
    same = (classes[:, None] == classes).astype(rows.dtype)
    return (same / same.sum(1, keepdims=True) if mean else same) @ rows


def shares(
    counts: Float[Array, "*rows k"], old: Array | None, allowed: np.ndarray, fixed: Any
) -> Float[Array, "*rows k"]:
    """Each row's share of its counts; a row without counts keeps its probabilities.

    Entries that are fixed keep theirs too, and the others share what is left.
    """
    counts = jnp.where(allowed, jnp.maximum(counts, 0.0), 0.0)
    total = counts.sum(-1, keepdims=True)
    even = allowed / allowed.sum(-1, keepdims=True)
    before = jnp.asarray(even, counts.dtype) if old is None else old
    new = jnp.where(total > 0, counts / base.safe_count(total), before)
    return new if fixed is None or old is None else _held(new, old, fixed)


def _held(new: Array, old: Array, fixed: Any) -> Array:
    mask = jnp.asarray(fixed)
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new.shape)
    free = jnp.where(mask, 0.0, new)
    room = 1.0 - jnp.where(mask, old, 0.0).sum(-1, keepdims=True)
    scaled = free * (room / base.safe_count(free.sum(-1, keepdims=True)))
    return jnp.where(mask, old, scaled)


def stationary_distribution(transition: Float[Array, "k k"]) -> Float[Array, " k"]:
    """The distribution that the transition leaves as it is: ``p (I - A + 1 1^T) = 1``.

    Zucchini, MacDonald & Langrock (2016), "Hidden Markov models for time series", 2nd ed., section
    1.3.2.
    """
    xp = np if isinstance(transition, np.ndarray) else jnp
    k = len(transition)
    system = xp.eye(k, dtype=transition.dtype) - transition + 1.0
    return xp.linalg.solve(system.T, xp.ones(k, transition.dtype))


def stationary_shares(
    counts: Float[Array, "k k"],
    first: Float[Array, " k"],
    closed: Float[Array, "k k"],
    constraint: AllowedSimplex,
    fixed: Any,
) -> Float[Array, "k k"]:
    """The transition that maximises ``sum c log A + sum f log p(A)``, p its own distribution.

    No closed form: a guarded Newton climb from the one that ignores the second term.
    """
    allowed = np.array(constraint.allowed)

    def at(point: Array) -> Array:
        return keep(fixed, closed, constraint.value(point.reshape(closed.shape)))

    def objective(point: Array) -> Array:
        transition = at(point)
        positive = allowed & (transition > 0)
        logs = jnp.where(positive, jnp.log(jnp.where(positive, transition, 1.0)), 0.0)
        share = jnp.maximum(stationary_distribution(transition), jnp.finfo(point.dtype).tiny)
        total = (counts * logs).sum() + (first * jnp.log(share)).sum()
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    return at(autodiff.maximum(objective, constraint.free(closed).ravel()))
