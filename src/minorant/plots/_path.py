r"""The climb of EM as arrays: log p(x; theta) along the path, and every lower bound it climbed.

The path joins plain EM's iterates ``theta_0, theta_1, ...`` by straight lines in the free
coordinates of ``minorant._parameters``. With ``q_t`` the exact posterior at ``theta_t``,

.. math:: L(\theta, q_t) = E_{q_t}[\log p(x, z; \theta)] + H(q_t)
          = \log p(x; \theta) - KL(q_t \| p(z | x; \theta)),

so every bound touches the curve at its own ``theta_t``, lies below it elsewhere, and is highest at
``theta_{t+1}``. Neal & Hinton (1998), "A view of the EM algorithm that justifies incremental,
sparse, and other variants", section 2. All figures are in nats per row, in the data's units.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _config
from minorant._parameters import from_vector, has_all_parameters, to_vector
from minorant._types import Array, Rows
from minorant.data.arrays import Table, arrange, bucket
from minorant.data.tables import as_table
from minorant.posteriors import Categorical
from minorant.posteriors.categorical import finite
from minorant.preparation import Prepared, completed_block, prepare

_SMOOTHING = 0.1


class EMPath(NamedTuple):
    """EM's iterates joined by straight lines, and what there is to see along them.

    ``t`` counts iterates, ``g`` points of the grid; the per-row figures are weighted means.

    Attributes:
        step: (g,) position on the path, in EM steps.
        distance: (g,) length of the path so far, in free coordinates of standardised units.
        iterates: (t,) where on the grid the iterates are.
        log_evidence: (g,) ``log p(x; theta)``, nats per row.
        expected_log_joint: (t, g) ``E_{q_t} log p(x, z; theta)``, nats per row.
        entropy: (t,) of ``q_t``, nats per row.
        responsibilities: (t, k, n), ``q_t``.
        row_weights: (n,) of the rows.
        means: (g, k, d) of Gaussian-like components, else None.
        covariances: (g, k, d, d) of Gaussian-like components, else None.
        values: (n, d) the rows, NaN where missing.
        names: the columns.
    """

    step: Float[np.ndarray, " g"]
    distance: Float[np.ndarray, " g"]
    iterates: Int[np.ndarray, " t"]
    log_evidence: Float[np.ndarray, " g"]
    expected_log_joint: Float[np.ndarray, "t g"]
    entropy: Float[np.ndarray, " t"]
    responsibilities: Float[np.ndarray, "t k n"]
    row_weights: Float[np.ndarray, " n"]
    means: Float[np.ndarray, "g k d"] | None
    covariances: Float[np.ndarray, "g k d d"] | None
    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]

    @property
    def bounds(self) -> Float[np.ndarray, "t g"]:
        """``L(theta, q_t)`` along the path, nats per row."""
        return self.expected_log_joint + self.entropy[:, None]

    @property
    def gaps(self) -> Float[np.ndarray, "t g"]:
        """``KL(q_t || p(z | x; theta))`` along the path, nats per row."""
        return self.log_evidence - self.bounds

    def between(self, t: int, share: float) -> tuple[np.ndarray, Float[np.ndarray, " g"]]:
        """A q on the way from ``q_{t-1}`` to ``q_t``, and its bound along the path.

        ``q = (1 - share) q_{t-1} + share q_t``: linear in the expectation, not in the entropy.

        Args:
            t: which E-step, from 1.
            share: 0 for ``q_{t-1}``, 1 for ``q_t``.

        Returns:
            (k, n) responsibilities, and (g,) the bound in nats per row.
        """
        q = (1 - share) * self.responsibilities[t - 1] + share * self.responsibilities[t]
        mean = self.expected_log_joint[t - 1 : t + 1]
        entropy = _entropy(q, self.row_weights)
        return q, (1 - share) * mean[0] + share * mean[1] + entropy


def em_path(
    model: Any,
    X: Any,  # noqa: N803
    *,
    weights: Any = None,
    n_steps: int = 20,
    points_per_step: int = 16,
    tolerance: float = 0.0,
    random_state: int = 0,
) -> EMPath:
    """Plain EM's path and every lower bound along it; no drawing.

    Args:
        model: a mixture; parameters that are all given are the start, otherwise EM starts from a
            random partition of the rows.
        X: (n, d) table; NaN where missing.
        weights: (n,) row weights.
        n_steps: most EM steps.
        points_per_step: grid points between two iterates.
        tolerance: leave out the steps after the first that gains less, in nats per row.
        random_state: seed of a random partition.

    Returns:
        The path, as NumPy arrays in float64.

    Raises:
        ValueError: for a table or options that cannot be used.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> rows = np.r_[np.arange(8.0), 20 + np.arange(8.0)][:, None]
        >>> model = minorant.Mixture(Gaussian(), n_components=2)
        >>> path = minorant.plots.em_path(model, rows, n_steps=3)
        >>> bool((path.gaps > -1e-9).all()), path.bounds.shape
        (True, (4, 49))

    Not for: large tables; it keeps every responsibility of every step.
    """
    if n_steps < 1 or points_per_step < 2:
        raise ValueError("n_steps must be at least 1 and points_per_step at least 2.")
    with _config.precision(np.dtype(np.float64)):
        _config.enable_compilation_cache()
        table, names = as_table(X, weights)
        table = table._replace(values=table.values.astype(np.float64))
        prepared = prepare(model, table, names)
        rows = _one_block(prepared)
        start = _start(prepared, random_state)
        vectors, bounds = _climb(start, rows, n_steps)
        kept = _n_kept(np.asarray(bounds) / float(prepared.source.n_rows()), tolerance)
        return _measured(prepared, start, rows, np.asarray(vectors)[:kept], points_per_step)


def _measured(
    prepared: Prepared, start: Any, rows: Rows, iterates: np.ndarray, points: int
) -> EMPath:
    """Curve, bounds and ellipses along the path through the iterates."""
    step, vectors = _grid(iterates, points)
    log_evidence, expected, log_q = map(np.asarray, _along(start, rows, vectors, iterates))
    n, total = prepared.layout.n_rows, float(prepared.source.n_rows())
    q, row_weights = np.exp(log_q[:, :, :n]), np.asarray(rows.weight, dtype=float)[:n]
    scale = _log_scale(prepared.table, prepared.units.scale)
    means, covariances = _ellipses(prepared, start, vectors)
    lengths = np.linalg.norm(np.diff(vectors, axis=0), axis=1)
    return EMPath(
        step=step,
        distance=np.r_[0.0, np.cumsum(lengths)],
        iterates=np.arange(len(iterates)) * points,
        log_evidence=(log_evidence - scale) / total,
        expected_log_joint=(expected.T - scale) / total,
        entropy=np.array([_entropy(each, row_weights) for each in q]),
        responsibilities=q,
        row_weights=row_weights,
        means=means,
        covariances=covariances,
        values=prepared.table.values,
        names=prepared.names,
    )


def _one_block(prepared: Prepared) -> Rows:
    """All rows as one block, in the table's order, with a mask where cells are missing."""
    n = prepared.layout.n_rows
    source, _ = arrange(prepared.table, prepared.units, prepared.dtype, False, bucket(n))
    return jax.tree.map(lambda leaf: leaf[0], source.segments[0].rows)


def _start(prepared: Prepared, random_state: int) -> Any:
    """The given parameters, or the M-step of a random partition."""
    template: Any = prepared.template
    if has_all_parameters(template):
        return template.stabilised(prepared.spread)
    rng = np.random.default_rng(random_state)
    k = template.n_components
    block = completed_block(prepared, prepared.table, rng)
    labels = rng.integers(k, size=len(block.weight))
    onehot = (labels == np.arange(k)[:, None]).astype(prepared.dtype)
    model = _begin(template, block, (1 - _SMOOTHING) * onehot + _SMOOTHING / k)
    return jax.tree.map(np.asarray, model).stabilised(prepared.spread)


@jax.jit
def _begin(template: Any, block: Rows, q: Float[Array, "k n"]) -> Any:
    return template.maximise(template.statistics(block, Categorical.from_probabilities(q), None))


@partial(jax.jit, static_argnums=2)
def _climb(model: Any, rows: Rows, n_steps: int) -> tuple[Float[Array, "t p"], Float[Array, " t"]]:
    """Plain EM: the iterates in free coordinates and log p at each."""

    def step(current: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
        found = current.expectation(rows, current.prepare())
        return current.maximise(found.statistics), (to_vector(current), found.bound)

    return jax.lax.scan(step, jax.tree.map(jnp.asarray, model), None, length=n_steps + 1)[1]


@jax.jit
def _along(
    model: Any, rows: Rows, vectors: Float[Array, "g p"], iterates: Float[Array, "t p"]
) -> tuple[Float[Array, " g"], Float[Array, "g t"], Float[Array, "t k n"]]:
    """Log p, ``E_{q_t} log p(x, z)`` and ``log q_t``, summed over rows with their weights."""

    def scores(vector: Array) -> Float[Array, "k n"]:
        current = from_vector(model, vector)
        return current.log_joint_all(rows, current.prepare())

    log_q = jax.lax.map(lambda v: jax.nn.log_softmax(scores(v), axis=0), iterates)
    weighted = jnp.exp(log_q) * rows.weight

    def at(vector: Array) -> tuple[Array, Array]:
        joint = scores(vector)
        log_evidence = rows.weight @ jax.nn.logsumexp(joint, axis=0)
        return log_evidence, jnp.einsum("tkn,kn->t", weighted, finite(joint))

    return (*jax.lax.map(at, vectors), log_q)


def _grid(iterates: Float[np.ndarray, "t p"], points: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in steps, and the vectors there; iterates are on the grid to the last bit."""
    n_steps = len(iterates) - 1
    step = np.arange(n_steps * points + 1) / points
    left = np.minimum(step.astype(int), n_steps - 1)
    share = (step - left)[:, None]
    return step, (1 - share) * iterates[left] + share * iterates[left + 1]


def _n_kept(bounds: Float[np.ndarray, " t"], tolerance: float) -> int:
    """How many iterates, up to and with the first whose gain is below the tolerance."""
    small = np.flatnonzero(np.diff(bounds) < tolerance)
    return int(small[0]) + 2 if len(small) else len(bounds)


def _entropy(q: Float[np.ndarray, "k n"], weights: Float[np.ndarray, " n"]) -> float:
    """``-sum q log q``, nats per row."""
    return float(-(weights * q * np.log(np.where(q > 0, q, 1.0))).sum() / weights.sum())


def _log_scale(table: Table, scale: Float[np.ndarray, " d"]) -> float:
    """The Jacobian of the change of units, summed over observed cells with weights."""
    seen = ~np.isnan(table.values)
    weights = np.ones(len(seen)) if table.weights is None else table.weights
    return float(weights @ seen @ np.log(scale))


def _ellipses(
    prepared: Prepared, start: Any, vectors: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Means and covariances along the path in the data's units, for Gaussian-like components."""
    if not is_gaussian_like(start.component):
        return None, None
    means, covariances = map(np.asarray, _moments(start, vectors))
    shift, scale = prepared.units.shift, prepared.units.scale
    return means * scale + shift, covariances * scale * scale[:, None]


@jax.jit
def _moments(model: Any, vectors: Float[Array, "g p"]) -> tuple[Array, Array]:
    def at(vector: Array) -> tuple[Array, Array]:
        component = from_vector(model, vector).component
        k, d = component.mean.shape
        matrices = component.structure.matrices(component.covariance, k, d)
        return component.mean, jnp.broadcast_to(matrices, (k, d, d))

    return jax.vmap(at)(vectors)


def is_gaussian_like(component: Any) -> bool:
    """Whether a component has means and a covariance structure, and so ellipses."""
    return all(hasattr(component, name) for name in ("mean", "covariance", "structure"))
