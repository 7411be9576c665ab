r"""Integrals over latents of one to three dimensions, by Gauss-Hermite rules and by equal steps.

Two rules. A :class:`Grid` of equally spaced nodes serves all units at once: the trapezoidal rule,
whose error falls faster than any power of the step while the step stays below the posterior's
standard deviation; its E-step is two matrix products. An :class:`Adaptive` Gauss-Hermite rule is
centred at every unit's own mode and scaled by the curvature there, so that it finds posteriors of
any sharpness; with one node it is Laplace's approximation:

.. math:: \int e^{h(z)} dz \approx (2\pi)^{l/2} |P|^{-1/2} \sum_s w_s\,
          e^{h(\hat z + L^{-T} u_s) + u_s^T u_s / 2}, \qquad P = -h''(\hat z) = L L^T

Neither gives a bound: the error is estimated by doubling the rule. Naylor & Smith (1982),
"Applications of a method for the efficient computation of posterior distributions", section 3;
Pinheiro & Bates (1995), "Approximations to the log-likelihood function in the nonlinear
mixed-effects model", section 2.4; Trefethen & Weideman (2014), "The exponentially convergent
trapezoidal rule", theorem 5.1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, Key, PyTree
from minorant.posteriors._small_matrices import backward, cholesky, diagonal, forward, solved
from minorant.posteriors.base import AbstractPosterior

LARGEST = 3
_NEWTON_STEPS = 100
_SPREAD = 0.5
_AT_ONCE = 64

# (parameters, latents (n, l)) -> log joint density (n,): unit i sees row i of the latents alone.
LogJoint = Callable[[PyTree, Array], Array]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Equally spaced nodes between ``-width`` and ``width`` in every dimension.

    Args:
        points: nodes in each dimension.
        width: half the range, in standard deviations of the prior.

    Example:
        >>> from minorant.posteriors import Grid
        >>> Grid(57).refined()
        Grid(points=129, width=8.0)
    """

    points: int
    width: float = 7.0

    def __post_init__(self) -> None:
        """Raise ValueError for a rule without nodes."""
        _check_points(self.points, 2)

    def nodes(self, l: int) -> tuple[Float[np.ndarray, "s l"], float]:
        """Nodes, and the logarithm of the volume that each stands for."""
        line = np.linspace(-self.width, self.width, self.points)
        return _product(line, l), l * float(np.log(line[1] - line[0]))

    def refined(self) -> Grid:
        """Half the step over a wider range, so that what lay outside is told as well."""
        step = self.width / (self.points - 1)
        return Grid(int(np.ceil(2.0 * (self.width + 1.0) / step)) + 1, self.width + 1.0)


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """A Gauss-Hermite rule around each unit's mode, in the units of the curvature there.

    Args:
        points: nodes in each dimension; 1 is Laplace's approximation.

    Example:
        >>> from minorant.posteriors import Adaptive
        >>> Adaptive(7).refined()
        Adaptive(points=14)
    """

    points: int

    def __post_init__(self) -> None:
        """Raise ValueError for a rule without nodes."""
        _check_points(self.points, 1)

    def refined(self) -> Adaptive:
        """Twice the nodes in each dimension."""
        return Adaptive(2 * self.points)


def _check_points(points: int, least: int) -> None:
    if not isinstance(points, int) or points < least:
        raise ValueError(f"points must be an integer of at least {least}; got {points!r}.")


def check_dimensions(l: int, what: str) -> None:
    """Raise ValueError unless a rule of ``l`` dimensions is worth its nodes."""
    if not isinstance(l, int) or not 1 <= l <= LARGEST:
        raise ValueError(
            f"{what} must be 1, 2 or 3, for integrals by quadrature; got {l!r}. More dimensions "
            "need a variational posterior."
        )


def hermite(points: int, l: int) -> tuple[Float[np.ndarray, "s l"], Float[np.ndarray, " s"]]:
    r"""Gauss-Hermite nodes and log weights for the standard normal density.

    .. math:: \int f(u)\, N(u; 0, I)\, du \approx \sum_s w_s f(u_s)

    Exact for polynomials of degree ``2 points - 1`` in every coordinate.

    Args:
        points: nodes in each dimension.
        l: dimensions.

    Returns:
        Nodes (points^l, l) and the logarithms of their weights.

    Example:
        >>> import numpy as np
        >>> from minorant.posteriors.quadrature import hermite
        >>> nodes, log_weights = hermite(5, 2)
        >>> round(float(np.exp(log_weights) @ nodes[:, 0] ** 4), 12)
        3.0
    """
    line, weight = np.polynomial.hermite_e.hermegauss(points)
    log_weight = np.log(weight) - 0.5 * LOG_TWO_PI
    return _product(line, l), _product(log_weight, l).sum(1)


def _product(line: np.ndarray, l: int) -> Float[np.ndarray, "s l"]:
    return np.array(list(itertools.product(line, repeat=l)))


class Quadrature(AbstractPosterior):
    """A posterior as masses on nodes; draws and densities smooth them without moving moments.

    Each node carries a normal kernel of half the posterior's standard deviation, and nodes are
    drawn towards the mean so that mean and covariance stay what the masses say (West, 1993,
    "Approximating posterior distributions by mixtures", section 2.2).

    Attributes:
        nodes: ``(n, s, l)``.
        log_probability: ``(n, s)``, normalised over the nodes.

    Example:
        >>> import numpy as np
        >>> from minorant.posteriors import Quadrature
        >>> q = Quadrature(np.array([[[-1.0], [1.0]]]), np.log([[0.5, 0.5]]))
        >>> float(q.mean[0, 0]), round(float(q.covariance[0, 0, 0]), 12)
        (0.0, 1.0)
    """

    nodes: Float[Array, "n s l"]
    log_probability: Float[Array, "n s"]

    @property
    def probability(self) -> Float[Array, "n s"]:
        """The mass of every node."""
        return _namespace(self.log_probability).exp(self.log_probability)

    @property
    def mean(self) -> Float[Array, "n l"]:
        """``E[z | x]``."""
        return (self.probability[..., None] * self.nodes).sum(1)

    @property
    def covariance(self) -> Float[Array, "n l l"]:
        """``Cov[z | x]``."""
        xp = _namespace(self.nodes)
        away = self.nodes - self.mean[:, None, :]
        return xp.einsum("ns,nsi,nsj->nij", self.probability, away, away)

    def sample(self, key: Key) -> Float[Array, "n l"]:
        """One draw per unit."""
        node_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(node_key, self.log_probability, axis=1)
        centre = jnp.take_along_axis(self._centres(), chosen[:, None, None], axis=1)[:, 0]
        noise = jax.random.normal(noise_key, centre.shape, centre.dtype)
        return centre + _SPREAD * jnp.einsum("nij,nj->ni", self._root(), noise)

    def log_density(self, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log q(z)`` of the smoothed masses."""
        root = _SPREAD * self._root()
        away = latents[:, None, :] - self._centres()
        scaled = forward(root[:, None], away)
        log_kernel = -0.5 * (scaled**2).sum(-1) - 0.5 * LOG_TWO_PI * latents.shape[1]
        log_kernel = log_kernel - jnp.log(diagonal(root)).sum(-1)[:, None]
        return jax.nn.logsumexp(self.log_probability + log_kernel, axis=1)

    def kernels(self) -> tuple[Float[Array, "n s l"], Float[Array, "n l l"]]:
        """Centres of the normal kernels, and the root of their common covariance."""
        return self._centres(), _SPREAD * self._root()

    def by_row(self) -> tuple[Float[Array, "n s l"], Float[Array, "n s"]]:
        """Nodes and log masses."""
        return self.nodes, self.log_probability

    @staticmethod
    def from_rows(by_row: tuple[Array, Array]) -> Quadrature:
        """From nodes and log masses."""
        return Quadrature(*by_row)

    def _centres(self) -> Float[Array, "n s l"]:
        mean = self.mean[:, None, :]
        return mean + np.sqrt(1.0 - _SPREAD**2) * (self.nodes - mean)

    def _root(self) -> Float[Array, "n l l"]:
        covariance = jnp.asarray(self.covariance)
        return cholesky(covariance, jnp.finfo(covariance.dtype).tiny)


class Integrated(NamedTuple):
    """What an adaptive rule found: the posterior, the evidence, modes and their precision."""

    posterior: Quadrature
    log_evidence: Float[Array, " n"]
    mode: Float[Array, "n l"]
    precision: Float[Array, "n l l"]


class Local(NamedTuple):
    """A function's value, gradient and negative Hessian at one point of every unit."""

    value: Float[Array, " n"]
    gradient: Float[Array, "n l"]
    precision: Float[Array, "n l l"]


def integrate(
    function: LogJoint, parameters: PyTree, start: Float[Array, "n l"], rule: Adaptive
) -> Integrated:
    """Posterior and log evidence of n units by adaptive Gauss-Hermite quadrature.

    Twice differentiable in the parameters, modes and curvatures included, so that the gradient is
    that of the number returned, however few the nodes.

    Args:
        function: ``(parameters, latents (n, l)) -> (n,)``, log joint densities; row i of the
            latents may enter entry i alone.
        parameters: pytree, in which the result may be differentiated.
        start: (n, l), where the search for the modes begins.
        rule: nodes in each dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from minorant.posteriors.quadrature import Adaptive, integrate
        >>> bell = lambda sd, z: -0.5 * (z[:, 0] / sd) ** 2
        >>> found = integrate(bell, 3.0, jnp.ones((1, 1)), Adaptive(1))
        >>> round(float(found.log_evidence[0]), 3)  # log(3 sqrt(2 pi))
        2.018
    """
    mode, here = modes(function, parameters, start)
    root = cholesky(here.precision, _least(here.precision))
    l = start.shape[1]
    unit, log_weight = (np.asarray(part, mode.dtype) for part in hermite(rule.points, l))
    nodes = mode[:, None, :] + backward(root[:, None], unit[None])
    values = _at_nodes(function, parameters, nodes)
    scores = values + log_weight + 0.5 * (unit**2).sum(1)
    total = jax.nn.logsumexp(scores, axis=1)
    volume = 0.5 * l * LOG_TWO_PI - jnp.log(diagonal(root)).sum(-1)
    posterior = Quadrature(nodes, scores - total[:, None])
    return Integrated(posterior, total + volume, mode, here.precision)


def modes(
    function: LogJoint, parameters: PyTree, start: Float[Array, "n l"]
) -> tuple[Float[Array, "n l"], Local]:
    """Each unit's mode and the curvature there, by guarded Newton steps.

    A step that does not climb is damped as Levenberg and Marquardt do. The search itself is not
    differentiated. Two Newton steps at its end, with the curvature held as it was found, carry the
    mode's first and second derivatives exactly: the first step is right to first order, and as the
    step's own derivative by its start is zero there, the second is right to second order.
    """
    frozen = jax.lax.stop_gradient(parameters)
    mode, precision = jax.lax.stop_gradient(_search(function, frozen, start))
    factor = cholesky(precision, _least(precision))

    def polished(mode: Array, _: None) -> tuple[Array, None]:
        slope = jax.grad(lambda z: function(parameters, z).sum())(mode)
        step = solved(factor, slope)
        return mode + jnp.where(jnp.isfinite(step), step, 0.0), None

    mode = jax.lax.scan(polished, mode, None, length=2)[0]
    return mode, _local(function, parameters, mode)


class _Search(NamedTuple):
    """Where every unit is, what its function looks like there, and how careful it has become."""

    at: Float[Array, "n l"]
    here: Local
    damping: Float[Array, " n"]
    left: Float[Array, " n"]
    count: Array


def _search(function: LogJoint, parameters: PyTree, start: Array) -> tuple[Array, Array]:
    """Modes (n, l) and their precision (n, l, l)."""
    eps = jnp.finfo(start.dtype).eps
    tolerance = float(eps) ** 0.75

    def running(now: _Search) -> Array:
        return (now.count < _NEWTON_STEPS) & jnp.any(now.left > tolerance)

    def advance(now: _Search) -> _Search:
        eye = jnp.eye(start.shape[1], dtype=start.dtype)
        scale = 1.0 + jnp.abs(diagonal(now.here.precision)).max(-1)
        damped = now.here.precision + (now.damping * scale)[:, None, None] * eye
        step = solved(cholesky(damped, _least(damped)), now.here.gradient)
        there = _local(function, parameters, now.at + step)
        slack = 8 * eps * (1.0 + jnp.abs(now.here.value))
        sound = jnp.isfinite(there.precision).all((-1, -2)) & jnp.isfinite(there.gradient).all(-1)
        took = (there.value >= now.here.value - slack) & sound
        # What a step promised is the measure of how far the mode still is, in nats.
        told = took & (now.damping < 1e-3) & jnp.isfinite(now.here.value)
        left = jnp.where(told, 0.5 * (step * now.here.gradient).sum(-1), 1.0)
        damping = jnp.where(took, 0.2 * now.damping, jnp.maximum(5.0 * now.damping, 1e-2))
        damping = jnp.where(damping < 1e-6, 0.0, damping)
        chosen = jax.tree.map(lambda new, old: _select(took, new, old), there, now.here)
        at = _select(took, now.at + step, now.at)
        return _Search(at, chosen, damping, left, now.count + 1)

    # Nothing is known of the start, so that the first step is none: the function is compiled once.
    ones, none = jnp.ones(start.shape[0], start.dtype), jnp.zeros_like(start)
    eye = jnp.broadcast_to(
        jnp.eye(start.shape[1], dtype=start.dtype), (*start.shape, start.shape[1])
    )
    unknown = Local(-jnp.inf * ones, none, eye)
    first = _Search(start, unknown, 0.0 * ones, ones, jnp.asarray(0, jnp.int32))
    found = jax.lax.while_loop(running, advance, first)
    return found.at, found.here.precision


def _local(function: LogJoint, parameters: PyTree, at: Float[Array, "n l"]) -> Local:
    """Value, gradient and negative Hessian: units do not mix, so sums may be differentiated."""

    def total(z: Array) -> tuple[Array, Array]:
        values = function(parameters, z)
        return values.sum(), values

    def gradient(z: Array) -> tuple[Array, Array]:
        return jax.grad(total, has_aux=True)(z)

    columns = []
    for k in range(at.shape[1]):
        along = jnp.zeros_like(at).at[:, k].set(1.0)
        slope, column, value = jax.jvp(gradient, (at,), (along,), has_aux=True)
        columns.append(-column)
    return Local(value, slope, jnp.stack(columns, axis=-1))


def _at_nodes(function: LogJoint, parameters: PyTree, nodes: Float[Array, "n s l"]) -> Array:
    """The function at every node; of many nodes a few at once, recomputed for the gradient."""

    def one(z: Array) -> Array:
        return function(parameters, z)

    nodes = jnp.swapaxes(nodes, 0, 1)
    if nodes.shape[0] <= _AT_ONCE:
        return jax.vmap(one)(nodes).T
    return jax.lax.map(jax.checkpoint(one), nodes, batch_size=_AT_ONCE // 2).T


def _least(precision: Float[Array, "n l l"]) -> Array:
    """The smallest pivot allowed: where curvature is missing the step stays bounded."""
    eps = float(jnp.finfo(precision.dtype).eps)
    return eps**0.5 * (eps**0.5 + jnp.abs(diagonal(precision)).max(-1))


def _select(took: Array, new: Array, old: Array) -> Array:
    return jnp.where(took.reshape(took.shape + (1,) * (new.ndim - 1)), new, old)


def _namespace(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp
