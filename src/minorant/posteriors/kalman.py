r"""The smoother of Gaussian chains seen through Gaussian noise, and the posterior over paths.

.. math:: z_1 \sim N(m, P), \quad z_t = A z_{t-1} + o_t + N(0, Q), \qquad
          y_t = W_t z_t + N(0, I)

The smoother runs an information filter backward, ``p(y_t, y_t+1, ... | z_t)`` up to a factor being
``exp(-z' L z / 2 + h' z)``, and then the posterior chain forward:

.. math:: z_t \mid z_{t-1}, y \sim N(B_t z_{t-1} + f_t, \Sigma_t), \quad
          B = (I + Q L)^{-1} A, \quad \Sigma = (I + Q L)^{-1} Q

It inverts neither Q nor a predicted covariance, so both may be singular, and every covariance is a
sum of squares. The first row of a group has A = 0 and Q = P, which resets both passes; nothing else
knows of groups. In low precision ``L`` and ``h`` are carried as a root M and a vector r, the future
saying ``|M z - r|^2``, and stepped by orthogonal rotations alone: nothing is squared, so no digits
are lost where the noise is small. ``_kalman_steady.py`` has the long sequences whose gains settle.

Kailath, Sayed & Hassibi (2000), "Linear estimation", chapters 10 (two-filter formulas) and 12
(array algorithms); Fraser & Potter (1969), "The optimum linear smoother as a combination of two
optimum linear filters".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant import _factors
from minorant._factors import solve_triangular
from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, Key, PyTree
from minorant.posteriors._kalman_filter import (
    Chain,
    Observed,
    Roots,
    entered_by,
    entering,
    nowhere,
)
from minorant.posteriors.base import AbstractPosterior
from minorant.posteriors.gaussian import Gaussian


class Gains(NamedTuple):
    """What the backward pass leaves of each row for the forward one.

    With G the root of the noise that enters the row, its unit noise given the row before is
    ``u | z_t-1, y ~ N(e - E z_t-1, (I + G' L G)^-1)``. ``root`` is a root of S.
    """

    push: Float[Array, "*n l"]
    pull: Float[Array, "*n l l"]
    root: Float[Array, "*n l l"]
    half_log_det: Float[Array, "*n"]


class Sums(NamedTuple):
    """Weighted sums over rows of posterior covariances.

    ``all`` of every row, ``first`` of the first rows of groups; over the others, with the
    disturbance ``w_t = z_t - A z_t-1``, ``before`` of ``Var(z_t-1)``, ``cross`` of
    ``Cov(w_t, z_t-1)``, ``moved`` of ``Var(w_t)``. ``extra`` is what ``collect`` returns;
    ``settled`` and ``mass`` are the covariance and total weight of the (complete) rows that
    ``extra`` leaves out.
    """

    all: Float[Array, "l l"]
    first: Float[Array, "l l"]
    before: Float[Array, "l l"]
    cross: Float[Array, "l l"]
    moved: Float[Array, "l l"]
    extra: PyTree
    settled: Float[Array, "l l"]
    mass: Float[Array, ""]


class Smoothed(NamedTuple):
    """The posterior's means, its share of the evidence, and its covariances.

    ``log p(y)`` over a group is the sum over its rows of ``log_term - |y - W mean|^2 / 2``, less
    ``log(2 pi) / 2`` for each cell. Where covariances are asked for there are no sums.
    """

    mean: Float[Array, "n l"]
    log_term: Float[Array, " n"]
    sums: Sums | None
    covariances: Covariances | None


class Covariances(NamedTuple):
    """Of every row: the posterior's covariance, ``B``, ``B - A`` and a root of ``S``."""

    covariance: Float[Array, "n l l"]
    transition: Float[Array, "n l l"]
    change: Float[Array, "n l l"]
    root: Float[Array, "n l l"]


Collect = Callable[[PyTree, Float[Array, " c"], Float[Array, "c l l"]], PyTree]


def nothing(pattern: PyTree, weight: Array, covariance: Array) -> PyTree:
    """Collect nothing more than :class:`Sums` names."""
    del pattern, weight, covariance
    return ()


def smoothed(
    chain: Chain, observed: Observed, collect: Collect = nothing, record: bool = False
) -> Smoothed:
    """The smoother with every recursion run in full.

    Args:
        chain: the prior of the states.
        observed: the rows.
        collect: (pattern, weight, covariances) of some rows to sums that add.
        record: keep covariances and gains of every row, and make no sums.
    """
    roots = Roots.of(chain)
    mean, matrix = nowhere(chain)
    gains = backward(roots, observed, (matrix, mean))[1]
    _, (means, kept, log_term) = forward(roots, observed, gains, (mean, matrix))
    if record:
        return Smoothed(means, log_term, None, kept)
    before = jnp.concatenate([matrix[None], kept.covariance[:-1]])
    return Smoothed(means, log_term, added(observed, kept, before, collect), None)


def backward(
    roots: Roots, observed: Observed, carry: tuple[Array, Array]
) -> tuple[tuple[Array, Array], Gains]:
    """The information filter from the last row to the first.

    Args:
        roots: the chain.
        observed: rows.
        carry: what the future says of the last row: ``(L, h)``, or in low precision ``(M, r)``.

    Returns:
        What the rows say of the row before them, and the gains of every row.
    """
    step = information_step(roots)

    def turn(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Gains]:
        first, shift, pattern, value = row
        columns = (carry[1][:, None], value[:, None], shift[:, None])
        matrix, vector, gains = step(carry[0], observed.factor(pattern), first, columns)
        return (matrix, vector[:, 0]), gains._replace(push=gains.push[:, 0])

    shift = entering(roots.chain, observed)
    rows = (observed.start, shift, observed.pattern, observed.value)
    return jax.lax.scan(turn, carry, rows, reverse=True)


Columns = tuple[Float[Array, "l k"], Float[Array, "c k"], Float[Array, "l k"]]
InformationStep = Callable[[Array, Array, Array, Columns], tuple[Array, Array, Gains]]


def information_step(roots: Roots) -> InformationStep:
    """The step of the backward pass: (matrix, W, is first row, columns) to (matrix, vector, gains).

    ``columns`` are the vector that the future says, y, and what enters: k of each, side by side.
    """
    return _rotated_step(roots) if roots.is_array else _plain_step(roots)


def _plain_step(roots: Roots) -> InformationStep:
    """In information matrices: a Cholesky factor and a triangular solve."""
    l = len(roots.noise)
    eye = jnp.eye(l, dtype=roots.noise.dtype)

    def step(matrix: Array, W: Array, first: Array, columns: Columns) -> Any:
        A, G = entered_by(roots, first)
        vector, value, shift = columns
        total = matrix + W.T @ W
        away = vector + W.T @ value - total @ shift
        seen = total @ jnp.concatenate([G, A], 1)
        inner = G.T @ seen
        lower, inverse = _factors.factored(eye + inner[:, :l])
        half = inverse @ jnp.concatenate([inner[:, l:], G.T], 1)
        right = jnp.concatenate([half[:, :l], half[:, l:] @ away], 1)
        both = inverse.T @ right
        transition = A - G @ both[:, :l]
        before = seen[:, l:].T @ transition
        log_det = jnp.log(jnp.diagonal(lower)).sum()
        gains = Gains(both[:, l:], both[:, :l], half[:, l:].T, log_det)
        return 0.5 * (before + before.T), transition.T @ away, gains

    return step


def _rotated_step(roots: Roots) -> InformationStep:
    """In roots of information matrices: one orthogonal rotation to triangular form."""
    l = len(roots.noise)
    eye = jnp.eye(l, dtype=roots.noise.dtype)

    def step(matrix: Array, W: Array, first: Array, columns: Columns) -> Any:
        A, G = entered_by(roots, first)
        vector, value, shift = columns
        total = jnp.concatenate([matrix, W])
        away = jnp.concatenate([vector, value]) - total @ shift
        right = jnp.zeros((l, l + away.shape[1]), away.dtype)
        array = jnp.concatenate([
            jnp.concatenate([eye, right], 1),
            jnp.concatenate([total @ jnp.concatenate([G, A], 1), away], 1),
        ])  # fmt: skip
        upper = _factors.upper_triangle(array)
        upper = upper * jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0)[: len(upper), None]
        corner = upper[:l, :l]
        both = solve_triangular(corner, upper[:l, l:], lower=False)
        root = solve_triangular(corner.T, G.T, lower=True).T
        log_det = jnp.log(jnp.diagonal(corner)).sum()
        gains = Gains(both[:, l:], both[:, :l], root, log_det)
        return upper[l : 2 * l, l : 2 * l], upper[l : 2 * l, 2 * l :], gains

    return step


def forward(
    roots: Roots, observed: Observed, gains: Gains, carry: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Covariances, Array]]:
    """The posterior chain's means, covariances and terms of the evidence, first row to last.

    Args:
        roots: the chain.
        observed: rows.
        gains: of the backward pass.
        carry: mean and covariance of the row before.
    """

    def step(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Any]:
        first, shift, gain = row
        A, G = entered_by(roots, first)
        noise = gain.push - gain.pull @ carry[0]
        mean = A @ carry[0] + shift + G @ noise
        change = -G @ gain.pull
        B = A + change
        spread = B @ carry[1] @ B.T + gain.root @ gain.root.T
        term = -gain.half_log_det - 0.5 * (noise @ noise)
        return (mean, spread), (mean, Covariances(spread, B, change, gain.root), term)

    return jax.lax.scan(step, carry, (observed.start, entering(roots.chain, observed), gains))


def added(
    observed: Observed, gains: Covariances, before: Float[Array, "n l l"], collect: Collect
) -> Sums:
    """The sums of rows whose covariance and predecessor's covariance are known."""
    w = observed.weight
    entered = jnp.where(observed.start, 0.0, w)
    covariance, _, change, root = gains
    cross = entered[:, None, None] * (change @ before)
    noise = jnp.einsum("n,nij,nkj->ik", entered, root, root)
    return Sums(
        all=jnp.einsum("n,nij->ij", w, covariance),
        first=jnp.einsum("n,nij->ij", w - entered, covariance),
        before=jnp.einsum("n,nij->ij", entered, before),
        cross=cross.sum(0),
        moved=jnp.einsum("nij,nkj->ik", cross, change) + noise,
        extra=collect(observed.pattern, w, covariance),
        settled=jnp.zeros_like(covariance[0]),
        mass=jnp.zeros((), w.dtype),
    )


def no_sums(roots: Roots, patterns: PyTree, collect: Collect, rows: int) -> Sums:
    """Zeros, as many as ``collect`` adds of that many rows; ``patterns`` have a leading axis."""
    zero = jnp.zeros_like(roots.noise)

    def one() -> PyTree:
        pattern = jax.tree.map(
            lambda leaf: jnp.zeros((rows, *leaf.shape[2:]), leaf.dtype), patterns
        )
        weight = jnp.zeros(rows, zero.dtype)
        return collect(pattern, weight, jnp.zeros((rows, *zero.shape), zero.dtype))

    extra = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one))
    return Sums(zero, zero, zero, zero, zero, extra, zero, jnp.zeros((), zero.dtype))


def close_information(roots: Roots, one: Array, other: Array, relative: Any) -> Array:
    """Whether two information matrices, or their triangular roots, agree entry by entry."""
    if roots.is_array:
        size = jnp.sqrt((other * other).sum(0))
        return (jnp.abs(one - other) <= relative * size).all()
    return near(one, other, relative)


def near_information(
    roots: Roots, used: tuple[Array, Array], ended: tuple[Array, Array], relative: Any
) -> Array:
    """Whether what many rows are told by the future agrees: matrices and vectors."""

    def one(matrix: Array, vector: Array, other: Array, wanted: Array) -> Array:
        same = close_information(roots, matrix, other, relative)
        if roots.is_array:
            scale = jnp.sqrt((other * other).sum(0)).max() + jnp.abs(wanted).max()
        else:
            scale = jnp.sqrt(jnp.abs(jnp.diagonal(other))) + jnp.abs(wanted)
        return same & (jnp.abs(vector - wanted) <= relative * scale).all()

    return jnp.all(jax.vmap(one)(*used, *ended))


def near(one: Array, other: Array, relative: Any) -> Array:
    """Whether two matrices agree in units of the second's diagonal."""
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(other)))
    return jnp.all(jnp.abs(one - other) <= relative * scale[:, None] * scale)


# The posterior object


class GaussianChain(AbstractPosterior):
    """The exact posterior over the paths of the states of a block of rows.

    ``z_t | z_t-1, x ~ N(mean_t + B_t (z_t-1 - mean_t-1), S_t)``, with ``B = 0`` at the first row
    of a group: a Gaussian chain once more.

    Attributes:
        mean: ``(n, l)`` smoothed means.
        covariance: ``(n, l, l)`` smoothed covariances.
        transition: ``(n, l, l)``, B.
        root: ``(n, l, l)``, a root of S.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from minorant.posteriors import GaussianChain
        >>> one, zero = jnp.ones((2, 1, 1)), jnp.zeros((2, 1, 1))
        >>> q = GaussianChain(jnp.zeros((2, 1)), one, zero, one)
        >>> q.sample(jax.random.key(0)).shape
        (2, 1)
    """

    mean: Float[Array, "n l"]
    covariance: Float[Array, "n l l"]
    transition: Float[Array, "n l l"]
    root: Float[Array, "n l l"]

    @property
    def lag_one(self) -> Float[Array, "n l l"]:
        """``Cov(z_t, z_t-1 | x)``; zeros at the first row of a group."""
        before = jnp.concatenate([jnp.zeros_like(self.covariance[:1]), self.covariance[:-1]])
        return self.transition @ before

    def sample(self, key: Key) -> Float[Array, "n l"]:
        """One path, drawn from its first state on: what the backward pass filtered is exact.

        Frühwirth-Schnatter (1994), "Data augmentation and dynamic linear models", with the
        directions of time exchanged.
        """
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        pushed = jnp.einsum("nij,nj->ni", self.root, noise)

        def step(away: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            away = row[0] @ away + row[1]
            return away, away

        start = jnp.zeros_like(self.mean[0])
        return self.mean + jax.lax.scan(step, start, (self.transition, pushed))[1]

    def by_row(self) -> tuple[Float[Array, "n l"], Float[Array, "n l l"]]:
        """Smoothed means and covariances."""
        return self.mean, self.covariance

    @staticmethod
    def from_rows(by_row: tuple[Float[Array, "n l"], Float[Array, "n l l"]]) -> Gaussian:
        """Every row's marginal."""
        return Gaussian(*by_row)

    def log_density(self, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log q(z_t | z_t-1)`` per row; they add up to the path's. Needs a regular S."""
        away = latents - self.mean
        before = jnp.concatenate([jnp.zeros_like(away[:1]), away[:-1]])
        rest = away - jnp.einsum("nij,nj->ni", self.transition, before)
        upper = jax.vmap(_factors.upper_triangle)(jnp.swapaxes(self.root, -1, -2))
        white = solve_triangular(jnp.swapaxes(upper, -1, -2), rest)
        log_det = jnp.log(jnp.abs(jnp.diagonal(upper, axis1=-2, axis2=-1))).sum(-1)
        return -0.5 * (white * white).sum(-1) - log_det - 0.5 * away.shape[1] * LOG_TWO_PI
