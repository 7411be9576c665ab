"""Independent unknowns, each in the exponential family of its support."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.models.target import AbstractTarget
from minorant.posteriors.exponential import AbstractFactor, Independent
from minorant.posteriors.factors import DEFAULTS, FACTORS, support
from minorant.solvers.products import climb_product
from minorant.solvers.sample_average import paired_draws
from minorant.unknowns import AbstractUnknown, Real, Simplex

_WORK = 2**22


@dataclasses.dataclass(frozen=True)
class ExponentialFamily(AbstractFamily):
    r"""Mean-field by support: gamma, beta and Dirichlet where they fit, normal elsewhere.

    .. math:: q(\theta) = \prod_j q_j(\theta_j)

    Of a conjugate posterior of independent unknowns it is the posterior itself: the bound is the
    log evidence. One natural-gradient step lands there.

    ========== =====================================================
    unknown    factor of its entries, and others by name
    ========== =====================================================
    real       ``"normal"``
    positive   ``"gamma"``, ``"log-normal"``, ``"exponential"``
    interval   ``"beta"``, ``"logit-normal"``
    simplex    ``"dirichlet"``
    others     ``"normal"``, in free coordinates
    ========== =====================================================

    Args:
        factors: the factor of some unknowns by their names, each a name of the table or an
            :class:`minorant.posteriors.exponential.AbstractFactor` without parameters.

    Raises:
        ValueError: when climbed, for an unknown that the target does not have, a factor that there
            is not, or one that does not fit its support.

    Example:
        >>> import minorant, numpy as np
        >>> from jax.scipy import stats
        >>> from minorant import families, unknowns
        >>> counts = np.array([3.0, 5.0, 2.0, 7.0])
        >>> def log_density(rate):
        ...     return stats.gamma.logpdf(rate, 2.0) + stats.poisson.logpmf(counts, rate).sum()
        >>> target = minorant.Target(log_density, rate=unknowns.positive())
        >>> fit = minorant.fit(target, posterior="exponential-family")
        >>> fit.rung.member.factors[0].natural.round(6)  # the posterior is Gamma(19, 5)
        array([[19.,  5.]])

    Not for: unknowns that depend on each other, whose deviations it makes too small, as every
    product does (Turner & Sahani, 2011).

    Salimans & Knowles (2013); Figurnov, Mohamed & Mnih (2018) for the draws.
    """

    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: ClassVar[str] = "exponential-family"

    def rung(self, climb: Climb) -> Reached:
        """Natural-gradient steps on held draws, from narrow factors at the highest mode."""
        member = self._started(climb.target, climb.modes[0])
        width = member.noise(climb.key(7), 1).shape[1]
        s = int(np.clip(_WORK // max(width, climb.target.size), 64, 1024))
        noise = np.asarray(paired_draws(climb.key(7), s, width))
        found = climb_product(climb.target, member, noise, 1e-3 * climb.accuracy)
        how = "" if found.over else f", {found.left:.1g} nats from its best"
        return Reached(found.member, f"{found.steps} steps on {s} held draws{how}")

    def _started(self, target: AbstractTarget, mode: np.ndarray) -> Independent:
        unknowns, centre, scale = _layout(target)
        _check_names(self.factors, unknowns)
        free, begin, factors, widths = centre + scale * mode, 0, [], []
        for name, unknown in unknowns.items():
            width = unknown.shape[-1] - 1 if isinstance(unknown, Simplex) else 1
            chosen = _chosen(name, unknown, self.factors.get(name))
            width = 1 if chosen.n_noise == 1 else width
            part = free[begin : begin + unknown.size].reshape(-1, width)
            factors.append(chosen.around(part))
            widths.append(width)
            begin += unknown.size
        return Independent(tuple(factors), tuple(widths), centre, scale)


def _layout(target: Any) -> tuple[dict[str, AbstractUnknown], np.ndarray, np.ndarray]:
    """Unknowns in the order of their free coordinates, and the units of those."""
    named: Any
    if hasattr(target, "declared"):
        named = target.declared.unknowns.items()
    elif hasattr(target, "unknowns"):
        named = zip(target.names, target.unknowns, strict=True)
    else:  # of another package, whose own free coordinates are all there is
        named = [("free coordinates", Real((target.size,)))]
    unknowns: dict[str, AbstractUnknown] = {
        name: unknown for name, unknown in named if unknown.size
    }
    centre = np.asarray(getattr(target, "centre", np.zeros(target.size)), float)
    scale = np.asarray(getattr(target, "scale", np.ones(target.size)), float)
    return unknowns, centre, scale


def _check_names(factors: Mapping[str, Any], unknowns: Mapping[str, Any]) -> None:
    strange = sorted(set(factors) - set(unknowns))
    if strange:
        raise ValueError(
            f"factors names {', '.join(strange)}, which the target does not have: its unknowns "
            f"are {', '.join(unknowns)}."
        )


def _chosen(name: str, unknown: AbstractUnknown, given: Any) -> AbstractFactor:
    """The factor that was asked for, or the one of the support."""
    word = support(unknown)
    given = DEFAULTS[word] if given is None else given
    if isinstance(given, str):
        if given not in FACTORS:
            raise ValueError(f"factors[{name!r}] must be one of {tuple(FACTORS)}; got {given!r}.")
        given = FACTORS[given]()
    if not isinstance(given, AbstractFactor):
        raise TypeError(
            f"factors[{name!r}] must be a name or an AbstractFactor; got {type(given).__name__}."
        )
    if word not in given.supports:
        raise ValueError(
            f"factors[{name!r}]: {type(given).__name__} is for {' or '.join(given.supports)}, and "
            f"{name} is {word}."
        )
    return given
