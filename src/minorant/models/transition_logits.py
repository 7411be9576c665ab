r"""Transitions that depend on covariates: a multinomial logit of each step's inputs.

.. math:: p(z_t = j \mid z_{t-1} = i, u_t) =
          \frac{\exp(c_{ij}^\top (1, u_t))}{\sum_{j'} \exp(c_{ij'}^\top (1, u_t))}

over the moves that are allowed; staying (or, where that is not allowed, the first move that is) has
coefficients zero. M-step: one Newton step on the expected log likelihood of the moves, whose slope
and curvature are sums over rows. Near the optimum that climbs as fast as a full maximisation
(Lange, 1995, "A gradient algorithm locally equivalent to the EM algorithm"). Far from it the step
is shortened to a length at which a lower bound says that nothing is lost, the longer of two:

- a log-sum-exp bends at most ``exp(t R)`` times more along a step that moves no row's logits apart
  by more than R, which allows ``t = log(1 + R) / R`` (Bach, 2010, "Self-concordant analysis for
  logistic regression", proposition 1);
- its curvature is nowhere above ``(I - 1 1^T / k) / 2`` (Böhning, 1992, "Multinomial logistic
  regression algorithm", theorem 1).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant import _factors
from minorant._parameters import constant, given, parameter
from minorant._types import Array, Rows
from minorant.components.base import of
from minorant.models.transitions import AbstractTransition, AnyTransition
from minorant.posteriors._moves import Moves

_POWER = 8  # of a sum of powers that bounds a largest value from above
_JITTER = 1e2  # in units of the type's epsilon, relative to the diagonal
_CHUNK_CELLS = 1 << 18


class MoveSums(NamedTuple):
    """Weighted sums over moves: what a Newton step on the logits needs.

    Attributes:
        pairs: (k, k) expected moves.
        slope: (k, k, q) of their log likelihood, by coefficients.
        curvature: (k, k, k, q, q) minus its second derivative, by state moved from.
        spread: (k, q, q) squares of the design, by state moved from.
        reach: (q,) sums of powers of the design, which bound its largest entries.
    """

    pairs: Float[Array, "k k"]
    slope: Float[Array, "k k q"]
    curvature: Float[Array, "k k k q q"]
    spread: Float[Array, "k q q"]
    reach: Float[Array, " q"]


@dataclasses.dataclass(frozen=True)
class FreeMoves:
    """Coefficients that are zero for moves not allowed and for each row's reference move.

    Rows that are tied are one row, by the mean of their coordinates.
    """

    learned: tuple[tuple[bool, ...], ...]
    tied: tuple[int, ...]

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return value * np.array(self.learned)[..., None]

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        return _shared(free, self.tied, True) * np.array(self.learned)[..., None]

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        return shape[-1] * sum(sum(self.learned[row]) for row in set(self.tied))


def _constraint(logits: TransitionLogits) -> FreeMoves:
    k = given(logits.coefficients).shape[0]
    learned = tuple(tuple(map(bool, row)) for row in logits.learned(k))
    return FreeMoves(learned, tuple(map(int, logits.structure.tied(k))))


def _array(value: Any) -> Any:
    return np.asarray(value, dtype=float) if isinstance(value, list | tuple) else value


class TransitionLogits(eqx.Module):
    r"""Transition probabilities by a multinomial logit of the inputs of the step moved into.

    .. math:: \log \frac{p(z_t = j \mid z_{t-1} = i, u_t)}{p(z_t = i \mid z_{t-1} = i, u_t)}
              = c_{ij0} + \sum_a c_{ija} u_{ta}

    Args:
        n_inputs: m, the columns of ``inputs``.
        coefficients: (k, k, m + 1), intercepts first, in 1 / units of the inputs; zero where i = j;
            None to be learned.
        ridge: precision of a normal prior, mean 0, on all but the intercepts, in squared units of
            the inputs; 0: none. A little of it (0.01 for inputs of spread 1) keeps coefficients
            finite where an input separates moves that are made from those that are not.
        structure: set by the model.

    Raises:
        ValueError: for n_inputs below 1, coefficients of another shape, or a negative ridge.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> from minorant.models import HiddenMarkov, TransitionLogits
        >>> rng = np.random.default_rng(0)
        >>> u, state, states = rng.normal(size=400), 0, []
        >>> for step in u:
        ...     state = state ^ (rng.random() < 1 / (1 + np.exp(2.0 - 2.0 * step)))
        ...     states.append(state)
        >>> rows = 5.0 * np.array(states)[:, None] + rng.normal(size=(400, 1))
        >>> model = HiddenMarkov(Gaussian(), transition=TransitionLogits(1), n_components=2)
        >>> fit = minorant.fit(model, rows, inputs=u)
        >>> bool((fit.model.transition.coefficients[[0, 1], [1, 0], 1] > 1.0).all())
        True

    Not for: an input that acts on the rows within a state, or a state's first step (its
    probabilities are ``initial``).

    Zucchini, MacDonald & Langrock (2016), "Hidden Markov models for time series", 2nd ed., section
    10.1; Visser & Speekenbrink (2010), "depmixS4: an R package for hidden Markov models".
    """

    coefficients: Float[Array, "k k q"] | None = parameter(
        _constraint, default=None, converter=_array
    )
    ridge: float = eqx.field(static=True, default=0.0)
    structure: AbstractTransition = constant(default=AnyTransition())  # noqa: RUF009
    n_inputs: int = eqx.field(static=True, default=1)

    def __init__(
        self,
        n_inputs: int = 1,
        coefficients: Any = None,
        ridge: float = 0.0,
        structure: AbstractTransition = AnyTransition(),  # noqa: B008
    ) -> None:
        self.n_inputs, self.coefficients = n_inputs, coefficients
        self.ridge, self.structure = float(ridge), structure

    def __check_init__(self) -> None:
        """Raise ValueError for numbers that cannot be."""
        if not isinstance(self.n_inputs, int) or self.n_inputs < 1:
            raise ValueError(f"n_inputs must be an integer of at least 1; got {self.n_inputs!r}.")
        if not self.ridge >= 0.0:
            raise ValueError(f"ridge must be at least 0; got {self.ridge}.")
        value = self.coefficients
        if isinstance(value, np.ndarray):
            self._check_coefficients(value)

    def _check_coefficients(self, value: np.ndarray) -> None:
        q = self.n_inputs + 1
        if value.ndim != 3 or value.shape[0] != value.shape[1] or value.shape[2] != q:
            raise ValueError(
                f"coefficients must have shape (k, k, {q}) for {q - 1} inputs, intercepts first; "
                f"got {value.shape}."
            )

    def learned(self, k: int) -> Bool[np.ndarray, "k k"]:
        """Which moves have coefficients of their own; the others are the reference or forbidden."""
        allowed = self.structure.allowed(k).copy()
        for row, first in enumerate(self.structure.tied(k)):
            stays = first if allowed[row, first] else int(np.argmax(allowed[row]))
            allowed[row, stays] = False
        return allowed

    def known(self, k: int, dtype: Any) -> Float[Array, "k k q"]:
        """The coefficients; zeros before they are learned."""
        if self.coefficients is None:
            return jnp.zeros((k, k, self.n_inputs + 1), dtype)
        return jnp.asarray(self.coefficients)

    def moves(self, side: Float[Array, "q n"], k: int) -> Moves:
        """The moves into rows with this design."""
        barrier = jnp.where(self.structure.allowed(k), 0.0, -jnp.inf).astype(side.dtype)
        return Moves(self.known(k, side.dtype), barrier, side)

    def side(self, inputs: Float[Array, "n m"] | None, n: int) -> Float[Array, "q n"]:
        """The design of n rows with these inputs; None: zeros."""
        dtype = given(self.coefficients).dtype
        inputs = jnp.zeros((n, self.n_inputs), dtype) if inputs is None else inputs
        return jnp.concatenate([jnp.ones((1, n), dtype), jnp.asarray(inputs, dtype).T])

    def probabilities(self, inputs: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n k k"]:
        """``p(z_t = j | z_t-1 = i, u_t)`` of every row of inputs; on the host.

        Args:
            inputs: (n, m), in the units of the fit.
        """
        coefficients = np.asarray(given(self.coefficients), dtype=float)
        side = np.column_stack([np.ones(len(inputs)), np.asarray(inputs, dtype=float)])
        logits = np.einsum("ijq,nq->nij", coefficients, side)
        logits = np.where(self.structure.allowed(len(coefficients)), logits, -np.inf)
        relative = np.exp(logits - logits.max(2, keepdims=True))
        return relative / relative.sum(2, keepdims=True)

    def log_prior(self) -> Float[Array, ""]:
        """The ridge; tied rows once."""
        coefficients = jnp.asarray(given(self.coefficients))
        own = np.unique(self.structure.tied(len(coefficients)))
        return -0.5 * self.ridge * (coefficients[own, :, 1:] ** 2).sum()

    def maximised(self, sums: MoveSums, fixed: Any) -> Self:
        """One Newton step, as long as nothing is lost."""
        k = len(sums.pairs)
        old = self.known(k, sums.slope.dtype)
        free = np.broadcast_to(self.learned(k)[..., None], old.shape)
        held = None if self.coefficients is None else of(fixed, "coefficients")
        mask = free if held is None else free & ~jnp.broadcast_to(jnp.asarray(held), old.shape)
        tied = tuple(map(int, self.structure.tied(k)))
        moved = _step(_tied_sums(sums, tied), old, mask, self.ridge)
        return eqx.tree_at(lambda m: m.coefficients, self, old + moved, is_leaf=_is_none)


def design(rows: Rows, n_inputs: int) -> Float[Array, "q n"]:
    """A one and the inputs of every row.

    Raises:
        ValueError: when there are more or fewer inputs.
    """
    found = 0 if rows.inputs is None else rows.inputs.shape[1]
    if found != n_inputs:
        raise ValueError(
            f"inputs must have one column for each of the model's n_inputs={n_inputs}; got {found}."
        )
    one = jnp.ones((1, len(rows.weight)), rows.values.dtype)
    return one if rows.inputs is None else jnp.concatenate([one, jnp.asarray(rows.inputs).T])


def move_sums(
    moves: Moves,
    before: Float[Array, "k *rows"],
    probability: Float[Array, "k *rows"],
    entered: Float[Array, "*rows"],
    independent: bool,
) -> MoveSums:
    r"""The sums over all rows, chunk by chunk.

    .. math:: p(z_{t-1} = i, z_t = j \mid x) = p(z_t = j \mid x) \,
              p(z_{t-1} = i \mid z_t = j, x_1 \ldots x_{t-1})

    Args:
        moves: into every row.
        before: log probabilities of the state of the row before: filtered, or q itself.
        probability: of each row's own state.
        entered: weights, 0 where a row starts a group.
        independent: whether q takes rows as independent.

    Kim (1994), "Dynamic linear models with Markov-switching", equation 2.20.
    """
    k, n = len(probability), entered.size
    size = min(n, max(_CHUNK_CELLS // k**3, 64))
    flat = (leaf.reshape(-1, n) for leaf in (before, probability, moves.design, entered))
    leaves = [jnp.pad(leaf, ((0, 0), (0, -n % size))) for leaf in flat]

    def one(turn: Array) -> MoveSums:
        parts = [jax.lax.dynamic_slice_in_dim(leaf, turn * size, size, 1) for leaf in leaves]
        return _chunk_sums(moves, independent, *parts)

    def add(turn: Array, total: MoveSums) -> MoveSums:
        return jax.tree.map(jnp.add, total, one(turn))

    turns = leaves[0].shape[1] // size
    first = one(jnp.asarray(0))
    return first if turns == 1 else jax.lax.fori_loop(1, turns, add, first)


def _chunk_sums(
    moves: Moves, independent: bool, before: Array, probability: Array, here: Array, entered: Array
) -> MoveSums:
    k, q = len(before), len(here)
    logs = moves.logs(here)
    if independent:
        pairs = jnp.exp(before)[:, None] * probability * entered
        pairs = jnp.where(logs > -jnp.inf, pairs, 0.0)
    else:
        ways = before[:, None] + logs
        top = ways.max(0)
        ways = jnp.exp(ways - jnp.where(top > -jnp.inf, top, 0.0))
        total = ways.sum(0)
        pairs = ways * (probability * entered / jnp.where(total > 0, total, 1.0))
    chances, left = jnp.exp(logs), pairs.sum(1)
    expected = left[:, None] * chances
    square = (here[:, None] * here[None]).reshape(q * q, -1).T
    bend = -expected[:, :, None] * chances[:, None]
    bend = bend + expected[:, :, None] * jnp.eye(k, dtype=left.dtype)[None, :, :, None]
    return MoveSums(
        pairs.sum(2),
        (pairs - expected) @ here.T,
        (bend.reshape(k * k * k, -1) @ square).reshape(k, k, k, q, q),
        (left @ square).reshape(k, q, q),
        (jnp.where(entered > 0, jnp.abs(here), 0.0) ** _POWER).sum(1),
    )


def _tied_sums(sums: MoveSums, tied: tuple[int, ...]) -> MoveSums:
    """The sums of rows of coefficients that are one, in each of their places."""
    if len(set(tied)) == len(tied):
        return sums
    pairs, slope, curvature, spread = (_shared(leaf, tied, False) for leaf in sums[:-1])
    return MoveSums(pairs, slope, curvature, spread, sums.reach)


def _step(sums: MoveSums, old: Array, free: Array, ridge: float) -> Float[Array, "k k q"]:
    """The Newton step of every row of coefficients, shortened."""
    k, _, q = old.shape
    precision = ridge * (np.arange(q) > 0)
    slope = jnp.where(free, sums.slope - precision * old, 0.0).reshape(k, k * q)
    system = jnp.swapaxes(sums.curvature, 2, 3).reshape(k, k * q, k * q)
    system = system + jnp.eye(k * q, dtype=old.dtype) * np.tile(precision, k)
    marks = jnp.reshape(jnp.asarray(free), (k, k * q))
    inside = jnp.where(marks[:, :, None] & marks[:, None], system, 0.0)
    diagonal = jnp.diagonal(inside, axis1=1, axis2=2)
    eps, tiny = jnp.finfo(old.dtype).eps, jnp.finfo(old.dtype).tiny
    least = _JITTER * eps * (diagonal + diagonal.max(1, keepdims=True)) + 1e6 * tiny
    more = jnp.where(marks, least, 1.0)
    solved = _factors.cho_solve(
        _factors.cholesky(inside + more[..., None] * jnp.eye(k * q, dtype=old.dtype)), slope
    )
    newton = jnp.where(free, solved.reshape(k, k, q), 0.0)
    gain = (slope * solved).sum(1)
    length = jnp.maximum(_by_range(sums, newton), _by_bound(sums, newton, gain, precision))
    step = length[:, None, None] * newton
    return jnp.where(jnp.isfinite(step), step, 0.0)


def _by_range(sums: MoveSums, newton: Array) -> Float[Array, " k"]:
    """The length that the largest change of a row's logits allows."""
    largest = sums.reach ** (1.0 / _POWER)
    apart = ((newton.max(1) - newton.min(1)) * largest).sum(1)
    some = (apart > 0) & jnp.isfinite(apart)
    safe = jnp.where(some, apart, 1.0)
    return jnp.where(some, jnp.log1p(safe) / safe, jnp.where(apart > 0, 0.0, 1.0))


def _by_bound(sums: MoveSums, newton: Array, gain: Array, precision: Array) -> Float[Array, " k"]:
    """The length at which the bound on the curvature is highest."""
    together = newton.sum(1)
    apart = jnp.einsum("ija,iab,ijb->i", newton, sums.spread, newton)
    apart = apart - jnp.einsum("ia,iab,ib->i", together, sums.spread, together) / newton.shape[1]
    bend = 0.5 * apart + (precision * newton**2).sum((1, 2))
    return jnp.where(bend > 0, jnp.clip(gain / jnp.where(bend > 0, bend, 1.0), 0.0, 1.0), 0.0)


def _shared(rows: Array, tied: tuple[int, ...], mean: bool) -> Array:
    """Every entry of the first axis replaced by the sum (or mean) of those it is tied to."""
    classes = np.asarray(tied)
    same = (classes[:, None] == classes).astype(rows.dtype)
    same = same / same.sum(1, keepdims=True) if mean else same
    flat = same @ rows.reshape(len(tied), -1)
    return flat.reshape(rows.shape)


def _is_none(node: object) -> bool:
    return node is None


__all__ = ["FreeMoves", "MoveSums", "TransitionLogits", "design", "move_sums"]
