r"""Both ends of log p(x) where latents are integrated by a rule: importance weights from its nodes.

Draws come from the rule's own Gaussian mixture (each node a normal kernel, see
:class:`minorant.posteriors.Quadrature`), a tenth of them from the prior:

.. math:: w(z) = \frac{p(x, z)}{q(z)}, \qquad
          q = \tfrac{9}{10} q_{\mathrm{rule}} + \tfrac{1}{10} p(z), \qquad
          E_q[w] = p(x) = \frac{1}{E_{z \sim p(z \mid x)}[1 / w(z)]}

so that weights never exceed ten times the likelihood and their variance is finite. The lower end is
a theorem, however coarse the rule. Draws of the posterior are ends of independent Metropolis
chains from q: m moves shrink their total variation from the posterior to at most
(1 - p(x) / sup w)^m of what q's was, which is small and not zero, so that the upper end is called
an estimate.

Hesterberg (1995), "Weighted average importance sampling and defensive mixture distributions",
section 2; Mengersen & Tweedie (1996), "Rates of convergence of the Hastings and Metropolis
algorithms", theorem 2.1.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._linalg import LOG_TWO_PI
from minorant._pareto import averaged, smoothed
from minorant._types import Array, Key, Rows
from minorant.evidence.bracket import bridged_rows, hard_limit
from minorant.evidence.row_annealing import RowsFound, limits, listed_rows, totals, widened
from minorant.evidence.scoring import Scored
from minorant.posteriors._small_matrices import backward, cholesky, diagonal, forward
from minorant.posteriors.quadrature import Adaptive, Integrated
from minorant.result import Evidence, Fit

_POINTS = {1: 15, 2: 7, 3: 5}
_PRIOR_SHARE = 0.1
_MOVES = 6
_DRAWS = 400
_AT_ONCE = 50
_GROUPS = 10
_MOST_BATCHES = 64
_MOST_NUMBERS = 2**26
_ASTRAY = 0.01


class _Weighed(NamedTuple):
    """Log weights of a block, (s, n).

    Attributes:
        ahead: of fresh draws.
        behind: of draws of the posterior.
        plain: of the same, by the rule's mixture without the prior: that far from the posterior
            the prior may be much above it makes forward weights bounded and backward ones wild.
    """

    ahead: np.ndarray
    behind: np.ndarray
    plain: np.ndarray


class _Told(NamedTuple):
    """A block's rows, their evidence by a few groups of draws, and how far chains may still be."""

    rows: RowsFound
    groups: Float[np.ndarray, "b n"]
    left: Float[np.ndarray, " n"]


def weighed_evidence(
    fit: Fit, scored: Scored, accuracy: float, seed: int, seconds: float
) -> Evidence:
    """Both limits of log p(x) of every row (or group, in its first row) and in total.

    Args:
        fit: of a model that integrates its latents by an adaptive rule around their modes.
        scored: the table.
        accuracy: mean width of a row's bracket at which to stop, in nats.
        seed: of all random numbers.
        seconds: wall time that limits the number of draws.

    Returns:
        ``lower`` and ``upper`` of totals are 95% limits; ``rows_lower`` and ``rows_upper`` as well,
        row by row.
    """
    began, number, found = time.perf_counter(), 0, []
    blocks = sum(segment.capacity() for segment in scored.source.segments)
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(np.float64)):
        model = widened(fit.standardised)
        for segment in scored.source.segments:
            parts = []
            for block in range(segment.capacity()):
                rows = widened(jax.tree.map(lambda leaf, b=block: leaf[b], segment.rows))
                left = (seconds - (time.perf_counter() - began)) / (blocks - number)
                parts.append(_block(model, rows, accuracy, (seed, number), left))
                number += 1
            found.append(jax.tree.map(lambda *leaves: np.concatenate(leaves), *map(_by_row, parts)))
    whole = jax.tree.map(lambda *leaves: scored.layout.restore(leaves), *found)
    return _told(_by_row(whole), scored, accuracy)


def _by_row(told: _Told) -> _Told:
    """Rows first instead of groups of draws first, and back."""
    return told._replace(groups=told.groups.T)


def _block(model: Any, rows: Rows, accuracy: float, seed: tuple[int, int], seconds: float) -> _Told:
    """All rows of a block: a first try says how many draws are needed, and these are fresh."""
    began, rng = time.perf_counter(), np.random.default_rng(seed)
    proposal = _proposed(model, rows)

    def drawn(batches: int) -> _Told:
        keys = [jax.random.key(rng.integers(2**31)) for _ in range(batches)]
        parts = [jax.device_get(_log_weights(model, rows, proposal, key)) for key in keys]
        return _ends(_Weighed(*map(np.concatenate, zip(*parts, strict=True))))

    low, high = limits(drawn(1).rows)
    counted = (np.asarray(rows.weight) > 0) & (high > low)
    width = (high - low)[counted].mean() if counted.any() else 0.0
    spent = time.perf_counter() - began
    most = min(_MOST_NUMBERS // (_DRAWS * len(low)), (seconds - spent) / spent, _MOST_BATCHES)
    # Limits close as one over the root of the number of draws; a little more makes sure.
    return drawn(int(np.clip(np.ceil(1.2 * (width / accuracy) ** 2), 1, max(most, 1))))


def _ends(weighed: _Weighed) -> _Told:
    """Both ends of every row, with errors, and groups of draws for the hard limit."""
    ahead, behind, plain = weighed
    low, low_spread = averaged(ahead.T)
    high, high_spread = averaged(-plain.T)
    bridge, error = bridged_rows(ahead, behind)
    shape = np.array([smoothed(row)[1] for row in ahead.T])
    scale = np.sqrt(len(ahead))
    none, alike = np.zeros(len(low)), low_spread == 0.0
    bridge = np.where(alike, low, bridge)
    rows = RowsFound(
        ahead.mean(0), low, low_spread / scale, -high, high_spread / scale, bridge, error,
        none, none > 0, shape, none,
    )  # fmt: skip
    groups = averaged(ahead.reshape(_GROUPS, -1, ahead.shape[1]).swapaxes(1, 2))[0]
    return _Told(rows, groups, _left(ahead - low, np.maximum(ahead.max(0), behind.max(0)) - low))


def _left(ahead: Float[np.ndarray, "s n"], worst: Float[np.ndarray, " n"]) -> np.ndarray:
    """The total variation between chains' ends and the posterior, at most."""
    distance = np.maximum(1.0 - np.exp(ahead), 0.0).mean(0)
    return distance * (1.0 - np.exp(-np.maximum(worst, 0.0))) ** _MOVES


def _told(told: _Told, scored: Scored, accuracy: float) -> Evidence:
    """Totals and rows, in the units of the data."""
    weights = scored.table.weights
    weight = np.ones(len(scored.log_scale)) if weights is None else weights
    names = ("bound", "forward", "reverse", "bridge")
    found = told.rows._replace(
        **{name: getattr(told.rows, name) - scored.log_scale for name in names}
    )
    low, high = limits(found)
    lower, bridge, upper = totals(found, weight)
    gap = found.bridge - found.bound
    # Only for a product of whole rows is the mean known.
    limit = hard_limit((told.groups - scored.log_scale).sum(1)) if weights is None else None
    verdict = _verdict(found, told.left, weight, accuracy, limit)
    return Evidence(
        lower, bridge.value, upper, float(weight @ gap), bridge.standard_error,
        low, found.bridge, high, gap, found.k_hat, verdict,
    )  # fmt: skip


def _verdict(
    found: RowsFound, left: np.ndarray, weight: np.ndarray, accuracy: float, limit: float | None
) -> str:
    """How well log p(x) is known, what either end is, and rows whose chains may not arrive."""
    low, high = limits(found)
    units = (weight > 0) & (high > low)
    width = float(np.average((high - low)[units], weights=weight[units])) if units.any() else 0.0
    size = "Tight" if width <= accuracy else "Loose"
    hard = "" if limit is None else f" With probability 0.95 log p(x) is above {limit:.4f}."
    said = (
        f"{size}: log p(x) is known to {width:.2g} nats a row (asked for: {accuracy:g}), from "
        "importance weights of the rule's Gaussian mixture. The lower end is a stochastic bound, "
        f"the upper one an estimate from chains at the posterior.{hard}"
    )
    astray = np.flatnonzero(units & (left > _ASTRAY))
    if len(astray):
        said += (
            f" In {len(astray)} row(s) ({listed_rows(astray)}) the posterior is so far from the "
            "rule's mixture that chains may not have arrived: rely on the lower end alone there."
        )
    return said


class _Proposal(NamedTuple):
    """Of every unit, the rule's mixture of normal kernels, and the prior.

    Attributes:
        log_mass: of the kernels.
        centres: of the kernels, in units of their root.
        root: of the kernels' covariance.
        mean: of the prior.
        precision: the root of its precision.
    """

    log_mass: Float[Array, "u s"]
    centres: Float[Array, "u s l"]
    root: Float[Array, "u l l"]
    mean: Float[Array, "u l"]
    precision: Float[Array, "u l l"]

    def sample(self, key: Key) -> Float[Array, "u l"]:
        """One draw of each unit."""
        key, noise_key = jax.random.split(key)
        kind, node = jax.random.uniform(key, (2, len(self.mean)), self.mean.dtype)
        noise = jax.random.normal(noise_key, self.mean.shape, self.mean.dtype)
        below = jnp.cumsum(jnp.exp(self.log_mass), axis=1) < node[:, None]
        index = jnp.minimum(below.sum(1), self.log_mass.shape[1] - 1)
        centre = jnp.take_along_axis(self.centres, index[:, None, None], axis=1)[:, 0]
        kernel = jnp.einsum("uij,uj->ui", self.root, centre + noise)
        prior = self.mean + backward(self.precision, noise)
        return jnp.where((kind < _PRIOR_SHARE)[:, None], prior, kernel)

    def log_densities(self, latents: Float[Array, "u l"]) -> tuple[Array, Array]:
        """Of the mixture of both, and of the rule's alone."""
        constant = -0.5 * LOG_TWO_PI * latents.shape[1]
        scaled = jnp.einsum("uij,ui->uj", self.precision, latents - self.mean)
        volume = jnp.log(diagonal(self.precision)).sum(-1)
        log_prior = constant + volume - 0.5 * (scaled**2).sum(-1)
        away = forward(self.root, latents)[:, None] - self.centres
        log_kernels = jax.nn.logsumexp(self.log_mass - 0.5 * (away**2).sum(-1), axis=1)
        log_rule = constant - jnp.log(diagonal(self.root)).sum(-1) + log_kernels
        parts = (np.log1p(-_PRIOR_SHARE) + log_rule, np.log(_PRIOR_SHARE) + log_prior)
        return jnp.logaddexp(*parts), log_rule


@_config.small_jit
def _proposed(model: Any, rows: Rows) -> _Proposal:
    """The rule around every unit's mode; the prior is what it finds where nothing was seen."""
    seen = jnp.zeros(rows.values.shape, bool)
    prior: Integrated = model.integrated(dataclasses.replace(rows, observed=seen), Adaptive(1))
    rule = Adaptive(_POINTS[prior.mode.shape[-1]])
    posterior = model.integrated(rows, rule).posterior
    centres, root = posterior.kernels()
    return _Proposal(
        posterior.log_probability,
        forward(root[:, None], centres),
        root,
        prior.mode,
        cholesky(prior.precision, 0.0),
    )


@_config.small_jit
def _log_weights(model: Any, rows: Rows, proposal: _Proposal, key: Key) -> _Weighed:
    """Log weights of fresh draws, and of the ends of chains that move among others."""

    def one(key: Key) -> Float[Array, "2 u"]:
        latents = proposal.sample(key)
        log_joint = model.unit_log_joint(rows, latents)
        log = log_joint - jnp.stack(proposal.log_densities(latents))
        return jnp.where(jnp.isnan(log), -jnp.inf, log)

    def moved(now: Array, key: Key) -> tuple[Array, None]:
        draw_key, accept_key = jax.random.split(key)
        there = one(draw_key)
        chance = jax.random.uniform(accept_key, now.shape[1:], now.dtype)
        return jnp.where(jnp.log(chance) < there[0] - now[0], there, now), None

    def chain(key: Key) -> Float[Array, "3 n"]:
        keys = jax.random.split(key, _MOVES + 2)
        end = jax.lax.scan(moved, one(keys[1]), keys[2:])[0]
        logs = jnp.concatenate([one(keys[0])[:1], end])
        return jax.vmap(lambda log: model.in_rows_of_units(rows, log))(logs)

    found = jax.lax.map(chain, jax.random.split(key, _DRAWS), batch_size=_AT_ONCE)
    return _Weighed(*jnp.swapaxes(found, 0, 1))
