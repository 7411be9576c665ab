r"""Kernels of annealing: preconditioned Hamiltonian moves that leave q^(1-b) p^b as it is.

.. math:: \pi_b(v) \propto q(v)^{1-b}\, p(v)^b, \quad 0 \le b \le 1

v are coordinates in which q has about unit width. Every move is accepted or refused by Metropolis,
so each kernel is exactly reversible: run along rising b and back along falling b, the weights of
both give unbiased estimates of Z and of 1/Z. One compiled program does it all: forwards, backwards
and at b = 1 for draws of the posterior; how many temperatures there are is an argument.

Neal (2001), "Annealed importance sampling"; Neal (2011), "MCMC using Hamiltonian dynamics".
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _config
from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, Key
from minorant.models.target import AbstractTarget, log_densities_and_gradients
from minorant.posteriors.members import AbstractMember

MOST_TEMPERATURES = 512
_JITTER = 0.3
_SHORT, _SHORTEST = 0.3, 0.03


class Ends(NamedTuple):
    """The log densities of p and q at many places, and their slopes there."""

    log_p: Float[Array, "*c"]
    slope_p: Float[Array, "*c p"]
    log_q: Float[Array, "*c"]
    slope_q: Float[Array, "*c p"]


def ratio(numpy: Any, ends: Ends) -> Any:
    """``log p - log q``, on the host or in a program; -inf where p is 0."""
    return numpy.where(ends.log_p > -np.inf, ends.log_p - ends.log_q, -np.inf)


class Schedule(NamedTuple):
    """What a pass does at each of ``count`` temperatures; the arrays are padded to one length.

    Attributes:
        weight: (t,), the power of p/q that is added to the weight before a move.
        inverse: (t,), the inverse temperature b of the move.
        length: (t,) or (t, n), step length of the move, in units of the density's width.
        leaps: (t,), leapfrog steps of the move.
        count: how many of them are done.
    """

    weight: Float[np.ndarray, " t"]
    inverse: Float[np.ndarray, " t"]
    length: Float[np.ndarray, "t *n"]
    leaps: Int[np.ndarray, " t"]
    count: Any


class Passed(NamedTuple):
    """Chains after a pass: where they are, what they weigh, and how often moves were accepted.

    Arrays of JAX inside a program, of NumPy on the host: places (*c, p), log weights (*c), what the
    densities are there, accepted (t,) or (t, n).
    """

    places: Any
    log_weight: Any
    ends: Ends
    accepted: Any

    @property
    def log_p(self) -> Any:
        """Log p where the chains are."""
        return self.ends.log_p

    @property
    def log_ratio(self) -> Any:
        """``log p - log q`` where the chains are."""
        return ratio(np, self.ends)

    def picked(self, index: Any) -> Passed:
        """Those chains, nothing weighed."""
        ends = Ends(*(part[index] for part in self.ends))
        return self._replace(places=self.places[index], ends=ends)


class AbstractPath(eqx.Module):
    """From q to p, in coordinates v in which q has about unit width."""

    @abstractmethod
    def ends(self, places: Float[Array, "*c p"]) -> Ends:
        """Log densities of v and their slopes."""

    @abstractmethod
    def width(self, inverse: Array) -> Array:
        """About how wide the density of that temperature is, for each chain."""


class TargetPath(AbstractPath):
    """From a member, or from a Gaussian ``scale`` times as wide as the coordinates, to a target.

    Attributes:
        target: p.
        member: q; None for the Gaussian.
        mean: (p,), where v = 0 lies.
        factor: (p, p) or (p,), how long v's units are.
        scale: (c,), the Gaussian's standard deviations in v, one for each chain.
    """

    target: AbstractTarget
    member: AbstractMember | None
    mean: Float[Array, " p"]
    factor: Float[Array, "p *p"]
    scale: Float[Array, " c"]

    def ends(self, places: Float[Array, "c p"]) -> Ends:
        """Of the target and of q or the Gaussian."""
        points = self.mean + _product(self.factor, places)
        log_p, slope = log_densities_and_gradients(self.target, points)
        log_volume = _log_volume(self.factor)
        slope_p = _product(self.factor, slope, transposed=True)
        log_q, slope_q = self._start(places, points, log_volume)
        return sound(Ends(log_p + log_volume, slope_p, log_q, slope_q))

    def _start(self, places: Array, points: Array, log_volume: Array) -> tuple[Array, Array]:
        if self.member is None:
            return gaussian(places, self.scale)
        log_q, back = jax.vjp(self.member.log_density, points)
        (slope,) = back(jnp.ones_like(log_q))
        return log_q + log_volume, _product(self.factor, slope, transposed=True)

    def width(self, inverse: Array) -> Array:
        """Between the Gaussian's and one, by precisions."""
        return 1.0 / jnp.sqrt(inverse + (1.0 - inverse) / self.scale**2)


def sound(ends: Ends) -> Ends:
    """With p = 0 where its logarithm is no number, and no slope where there is none."""
    log_p = jnp.where(ends.log_p < jnp.inf, ends.log_p, -jnp.inf)
    slopes = (jnp.where(jnp.isfinite(s), s, 0.0) for s in (ends.slope_p, ends.slope_q))
    slope_p, slope_q = slopes
    return Ends(log_p, slope_p, ends.log_q, slope_q)


def annealed(inverse: Array, ends: Ends) -> tuple[Float[Array, "*c"], Float[Array, "*c p"]]:
    """The log density at an inverse temperature, and its slope."""
    # 0 log 0 = 0: where p is 0, q may still be walked through.
    part = jnp.where(inverse > 0, inverse * ends.log_p, 0.0)
    log_density = part + (1.0 - inverse) * ends.log_q
    return log_density, inverse * ends.slope_p + (1.0 - inverse) * ends.slope_q


def passes(  # noqa: PLR0913
    path: AbstractPath, chains: Passed, schedule: Schedule, seeds: Array, first: Any, fresh: Any
) -> Passed:
    """Weigh and move all chains, temperature after temperature.

    A pass may be cut into pieces, ``first`` being where one begins: what is drawn depends on the
    number of the temperature alone. What p and q are where chains begin is worked out if ``fresh``.
    """
    key = jax.random.fold_in(jax.random.key(seeds[0]), seeds[1])
    ends = jax.lax.cond(fresh, lambda v: path.ends(v), lambda _: chains.ends, chains.places)

    def at(i: Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
        places, ends, log_weight, accepted = state
        power = jnp.asarray(schedule.weight)[i]
        log_weight += jnp.where(power > 0, power * ratio(jnp, ends), 0.0)
        inverse, length, leaps = (jnp.asarray(part)[i] for part in schedule[1:4])
        own = jax.random.fold_in(key, i)
        places, ends, share = moved(path, places, ends, inverse, length, leaps, own)
        return places, ends, log_weight, accepted.at[i].set(share)

    begin = (chains.places, ends, chains.log_weight, chains.accepted)
    begin = jax.tree.map(jnp.asarray, begin)
    places, ends, log_weight, accepted = jax.lax.fori_loop(first, schedule.count, at, begin)
    return Passed(places, log_weight, ends, accepted)


def begun(start: Any, schedule: Schedule) -> tuple[Passed, np.bool_]:
    """Chains at the beginning of a pass, and whether p and q are not known there yet."""
    places = start.places if isinstance(start, Passed) else np.asarray(start)
    nothing, accepted = np.zeros(places.shape[:-1]), np.zeros(np.shape(schedule.length))
    if isinstance(start, Passed):
        return Passed(places, nothing, start.ends, accepted), np.bool_(False)
    unknown = Ends(nothing, np.zeros(places.shape), nothing, np.zeros(places.shape))
    return Passed(places, nothing, unknown, accepted), np.bool_(True)


def moved(  # noqa: PLR0913
    path: AbstractPath,
    places: Float[Array, "*c p"],
    ends: Ends,
    inverse: Array,
    length: Array,
    leaps: Array,
    key: Key,
) -> tuple[Float[Array, "*c p"], Ends, Array]:
    """One Hamiltonian move of every chain, and the mean probability that it is accepted.

    Step lengths are drawn, whatever the chain's place, so that no period is hit by all moves.
    """
    keys = jax.random.split(key, 3)
    momentum = jax.random.normal(keys[0], places.shape, places.dtype)
    shape, dtype = ends.log_p.shape, places.dtype
    step = (_jitter(keys[1], shape, dtype) * length * path.width(inverse))[..., None]
    before, slope = annealed(inverse, ends)
    half = momentum + 0.5 * step * slope

    def leap(_: Array, state: tuple[Array, Array, Ends]) -> tuple[Array, Array, Ends]:
        places, momentum = state[:2]
        places = places + step * momentum
        ends = path.ends(places)
        return places, momentum + step * annealed(inverse, ends)[1], ends

    there, pushed, found = jax.lax.fori_loop(0, leaps, leap, (places, half, ends))
    after, slope = annealed(inverse, found)
    left = pushed - 0.5 * step * slope
    gain = after - before + 0.5 * ((momentum**2).sum(-1) - (left**2).sum(-1))
    gain = jnp.where(jnp.isnan(gain), -jnp.inf, gain)
    taken = jnp.log(jax.random.uniform(keys[2], shape, dtype)) < gain
    chosen = jax.tree.map(lambda a, b: _where(taken, a, b), (there, found), (places, ends))
    share = jnp.exp(jnp.minimum(gain, 0.0)).mean(0)
    return *chosen, share


def _jitter(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """Around one, and for some moves much shorter, for narrow places (the neck of a funnel)."""
    keys = jax.random.split(key, 3)
    usual = jax.random.uniform(keys[0], shape, dtype, 1.0 - _JITTER, 1.0 + _JITTER)
    short = jnp.exp(jax.random.uniform(keys[1], shape, dtype, np.log(_SHORTEST), 0.0))
    return jnp.where(jax.random.uniform(keys[2], shape) < _SHORT, short, usual)


def _where(taken: Array, yes: Array, no: Array) -> Array:
    wide = taken.reshape(taken.shape + (1,) * (yes.ndim - taken.ndim))
    return jnp.where(wide, yes, no)


def _product(factor: Array, places: Array, transposed: bool = False) -> Array:
    """``F v`` of every place, or ``F' v``; F may be a diagonal."""
    if factor.ndim == 1:
        return factor * places
    return places @ (factor if transposed else factor.T)


def _log_volume(factor: Array) -> Array:
    diagonal = factor if factor.ndim == 1 else jnp.diagonal(factor)
    return jnp.log(jnp.abs(diagonal)).sum()


def gaussian(places: Array, scale: Array) -> tuple[Array, Array]:
    """``log N(v | 0, scale^2)`` and its slope."""
    p, precision = places.shape[-1], 1.0 / scale**2
    square = (places**2).sum(-1) * precision
    constant = p * (jnp.log(scale) + 0.5 * LOG_TWO_PI)
    return -0.5 * square - constant, -places * precision[..., None]


piece = _config.small_jit(passes)


def anneal(path: AbstractPath, start: Any, schedule: Schedule, seeds: Any) -> Passed:
    """A whole pass at once, from places or from where another pass has ended."""
    chains, fresh = begun(start, schedule)
    return piece(path, chains, schedule, seeds, np.int32(0), fresh)
