r"""Item structures: how the answer to an item depends on the traits.

All are in slope-intercept form, reach ``a'z``, categories ``c = 0 .. m - 1``:

- cumulative (graded response; two-parameter when m = 2):
  ``logit p(x >= c | z) = a'z + d_c``, intercepts decreasing in c;
- adjacent (generalised partial credit; partial credit and Rasch with a = 1):
  ``log p(x = c | z) / p(x = c - 1 | z) = a'z + d_c - d_{c-1}``, ``d_0 = 0``;
- three-parameter: ``p(x = 1 | z) = g + (1 - g) logit^-1(a'z + d)``.

d items of one structure and one number of categories are stacked on the first axis. Answers of a
person are independent given the traits.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import Real, constant, given, parameter, unit_interval
from minorant._types import Array
from minorant.models import _curves as curves
from minorant.models._curves import Decreasing, Masked


@dataclasses.dataclass(frozen=True)
class ItemPrior:
    """Priors on item parameters, independent; the fit is then the MAP.

    Args:
        slope: mean and standard deviation of a normal prior on every free slope, or None.
        intercept: mean and standard deviation of a normal prior on every intercept, or None.
        guessing: a and b, at least 1, of a Beta prior on every guessing probability, or None.

    Example:
        >>> from minorant.models import ItemPrior
        >>> ItemPrior(guessing=(5.0, 17.0)).slope is None
        True
    """

    slope: tuple[float, float] | None = None
    intercept: tuple[float, float] | None = None
    guessing: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where no MAP exists."""
        for name in ("slope", "intercept"):
            pair = getattr(self, name)
            if pair is not None and not pair[1] > 0:
                raise ValueError(f"{name} must have a standard deviation above 0; got {pair}.")
        if self.guessing is not None and min(self.guessing) < 1:
            raise ValueError(f"guessing must be at least (1, 1) for a MAP; got {self.guessing}.")


class AbstractItems(eqx.Module):
    """d items of one structure, over the same traits and with equally many categories.

    Every structure has ``slopes`` (d, l), ``intercepts`` (d, m - 1), ``pattern`` (d, l) or None,
    and ``n_categories`` m.
    """

    @abstractmethod
    def log_probability(self, latents: Float[Array, "*b l"]) -> Float[Array, "*b d m"]:
        """``log p(x = c | z)`` of every item and category."""

    @abstractmethod
    def log_prior(self) -> Float[Array, ""]:
        """Log prior density of the parameters; 0 without a prior."""

    @abstractmethod
    def moved(self, shift: Float[Array, " l"], root: Float[Array, "l l"]) -> Self:
        """The same items for traits u, where ``z = shift + root u``."""

    @abstractmethod
    def begun(self, slopes: np.ndarray, shares: np.ndarray) -> Self:
        """A start from rough slopes (d, l) and shares of the categories (d, m); host side."""

    @abstractmethod
    def locations(self) -> Float[Array, "d c"]:
        """Difficulties: where on the trait each step stands; see each structure."""

    def has_prior(self) -> bool:
        """Whether ``log_prior`` depends on the parameters."""
        return getattr(self, "prior", None) is not None

    def information(self, latents: Float[Array, "s l"]) -> Float[Array, "s d l l"]:
        """Fisher information of every item about the traits, ``sum_c p_c (log p_c)' (log p_c)'^T``.

        Samejima (1969), "Estimation of latent ability using a response pattern of graded scores".
        """
        columns = []
        for k in range(latents.shape[1]):
            along = jnp.zeros_like(latents).at[:, k].set(1.0)
            logs, slope = jax.jvp(self.log_probability, (latents,), (along,))
            columns.append(slope)
        slopes = jnp.stack(columns, axis=-1)
        return jnp.einsum("sdm,sdmi,sdmj->sdij", jnp.exp(logs), slopes, slopes)


def _pattern_of(items: Any) -> Any:
    return Real() if items.pattern is None else Masked(items.pattern)


class TwoParameter(AbstractItems):
    r"""The two-parameter logistic model of 0/1 items.

    .. math:: p(x = 1 \mid z) = 1 / (1 + e^{-(a^T z + d)})

    Args:
        slopes: (d, l) discriminations; None to be learned.
        intercepts: (d, 1); None to be learned.
        prior: :class:`ItemPrior`, or None.

    Example:
        >>> from minorant.models import LatentTrait, TwoParameter
        >>> LatentTrait(TwoParameter()).n_traits
        1

    Birnbaum (1968), "Some latent trait models and their use in inferring an examinee's ability".
    """

    slopes: Float[Array, "d l"] | None = parameter(_pattern_of, default=None)
    intercepts: Float[Array, "d c"] | None = None
    prior: ItemPrior | None = eqx.field(static=True, default=None)
    pattern: Float[Array, "d l"] | None = constant(default=None)
    n_categories: int | None = eqx.field(static=True, default=2)

    def log_probability(self, latents: Float[Array, "*b l"]) -> Float[Array, "*b d m"]:
        """Both categories."""
        return curves.cumulative(curves.reach(self, latents), given(self.intercepts))

    def log_prior(self) -> Float[Array, ""]:
        """Normal densities."""
        return curves.log_prior(self)

    def moved(self, shift: Array, root: Array) -> Self:
        """Slopes turned, intercepts shifted."""
        return curves.moved(self, shift, root, 1.0)

    def begun(self, slopes: np.ndarray, shares: np.ndarray) -> Self:
        """Intercepts from the share of ones."""
        return curves.begun(self, slopes, curves.cumulative_start(slopes, shares))

    def locations(self) -> Float[Array, "d c"]:
        """``-d / |a|``, signed: the difficulty b where there is one trait."""
        return -given(self.intercepts) / curves.length(given(self.slopes))


class GradedResponse(AbstractItems):
    r"""The graded response model of ordered categories.

    .. math:: p(x \ge c \mid z) = 1 / (1 + e^{-(a^T z + d_c)}), \qquad d_1 > d_2 > \dots

    Args:
        slopes: (d, l) discriminations; None to be learned.
        intercepts: (d, m - 1), decreasing; None to be learned.
        prior: :class:`ItemPrior`, or None.
        n_categories: m; None: from the data.

    Example:
        >>> from minorant.models import GradedResponse
        >>> GradedResponse().n_categories is None
        True

    Samejima (1969), "Estimation of latent ability using a response pattern of graded scores".
    """

    slopes: Float[Array, "d l"] | None = parameter(_pattern_of, default=None)
    intercepts: Float[Array, "d c"] | None = parameter(Decreasing(), default=None)
    prior: ItemPrior | None = eqx.field(static=True, default=None)
    pattern: Float[Array, "d l"] | None = constant(default=None)
    n_categories: int | None = eqx.field(static=True, default=None)

    def log_probability(self, latents: Float[Array, "*b l"]) -> Float[Array, "*b d m"]:
        """Differences of the curves ``p(x >= c)``, without cancellation."""
        return curves.cumulative(curves.reach(self, latents), given(self.intercepts))

    def log_prior(self) -> Float[Array, ""]:
        """Normal densities."""
        return curves.log_prior(self)

    def moved(self, shift: Array, root: Array) -> Self:
        """Slopes turned, intercepts shifted alike."""
        return curves.moved(self, shift, root, 1.0)

    def begun(self, slopes: np.ndarray, shares: np.ndarray) -> Self:
        """Intercepts from the shares at or above each category."""
        return curves.begun(self, slopes, curves.cumulative_start(slopes, shares))

    def locations(self) -> Float[Array, "d c"]:
        """``-d_c / |a|``: where ``p(x >= c) = 1/2``."""
        return -given(self.intercepts) / curves.length(given(self.slopes))


class GeneralizedPartialCredit(AbstractItems):
    r"""The generalised partial credit model of ordered categories.

    .. math:: p(x = c \mid z) \propto e^{c\, a^T z + d_c}, \qquad d_0 = 0

    Args:
        slopes: (d, l) discriminations; None to be learned.
        intercepts: (d, m - 1), ``d_1 ..``; None to be learned.
        prior: :class:`ItemPrior`, or None.
        n_categories: m; None: from the data.

    Example:
        >>> from minorant.models import GeneralizedPartialCredit
        >>> GeneralizedPartialCredit(n_categories=4).n_categories
        4

    Muraki (1992), "A generalized partial credit model: application of an EM algorithm".
    """

    slopes: Float[Array, "d l"] | None = parameter(_pattern_of, default=None)
    intercepts: Float[Array, "d c"] | None = None
    prior: ItemPrior | None = eqx.field(static=True, default=None)
    pattern: Float[Array, "d l"] | None = constant(default=None)
    n_categories: int | None = eqx.field(static=True, default=None)

    def log_probability(self, latents: Float[Array, "*b l"]) -> Float[Array, "*b d m"]:
        """A normalised exponential family in ``c``."""
        return curves.adjacent(curves.reach(self, latents), given(self.intercepts))

    def log_prior(self) -> Float[Array, ""]:
        """Normal densities."""
        return curves.log_prior(self)

    def moved(self, shift: Array, root: Array) -> Self:
        """Slopes turned, intercepts shifted by c times as much."""
        return curves.moved(
            self, shift, root, jnp.arange(1.0, given(self.intercepts).shape[1] + 1.0)
        )

    def begun(self, slopes: np.ndarray, shares: np.ndarray) -> Self:
        """Intercepts from the log ratios of shares."""
        return curves.begun(self, slopes, np.log(shares[:, 1:] / shares[:, :1]))

    def locations(self) -> Float[Array, "d c"]:
        """``(d_{c-1} - d_c) / |a|``: where categories c - 1 and c are equally likely."""
        return curves.steps(self)


class PartialCredit(AbstractItems):
    r"""The partial credit model; for 0/1 items the Rasch model. Slopes are 1, traits have a scale.

    .. math:: p(x = c \mid z) \propto e^{c z + d_c}, \qquad d_0 = 0

    Args:
        intercepts: (d, m - 1), ``d_1 ..``; None to be learned.
        n_categories: m; None: from the data.
        pattern: (d, l), 1 where an item asks for a trait; filled in by the model.

    Example:
        >>> from minorant.models import LatentTrait, PartialCredit
        >>> LatentTrait(PartialCredit()).scale
        'free'

    Masters (1982), "A Rasch model for partial credit scoring"; Rasch (1960), "Probabilistic models
    for some intelligence and attainment tests".
    """

    intercepts: Float[Array, "d c"] | None = None
    pattern: Float[Array, "d l"] | None = constant(default=None)
    n_categories: int | None = eqx.field(static=True, default=None)

    @property
    def slopes(self) -> Float[Array, "d l"] | None:
        """The pattern: 1 where an item asks for a trait."""
        return self.pattern

    def log_probability(self, latents: Float[Array, "*b l"]) -> Float[Array, "*b d m"]:
        """A normalised exponential family in ``c``."""
        return curves.adjacent(curves.reach(self, latents), given(self.intercepts))

    def log_prior(self) -> Float[Array, ""]:
        """None."""
        return jnp.zeros((), given(self.intercepts).dtype)

    def moved(self, shift: Array, root: Array) -> Self:
        """Intercepts shifted; slopes stay 1, so ``root`` must be the identity."""
        del root
        intercepts = given(self.intercepts)
        reach = (given(self.pattern) @ shift)[:, None]
        new = intercepts + reach * jnp.arange(1.0, intercepts.shape[1] + 1.0)
        return eqx.tree_at(lambda i: i.intercepts, self, new)

    def begun(self, slopes: np.ndarray, shares: np.ndarray) -> Self:
        """Intercepts from the log ratios of shares."""
        del slopes
        start = np.log(shares[:, 1:] / shares[:, :1])
        return eqx.tree_at(lambda i: i.intercepts, self, start, is_leaf=curves.is_none)

    def locations(self) -> Float[Array, "d c"]:
        """``d_{c-1} - d_c``: where categories c - 1 and c are equally likely."""
        return curves.steps(self)


class ThreeParameter(AbstractItems):
    r"""The three-parameter logistic model of 0/1 items that may be guessed.

    .. math:: p(x = 1 \mid z) = g + (1 - g) / (1 + e^{-(a^T z + d)})

    Args:
        slopes: (d, l) discriminations; None to be learned.
        intercepts: (d, 1); None to be learned.
        guessing: (d,) between 0 and 1; None to be learned.
        prior: :class:`ItemPrior`; without one on the guessing the maximum is often at a border.

    Example:
        >>> from minorant.models import ThreeParameter
        >>> ThreeParameter().prior.guessing
        (5.0, 17.0)

    Not for: a few hundred persons, who tell little about guessing (``TwoParameter``).

    Birnbaum (1968), "Some latent trait models and their use in inferring an examinee's ability".
    """

    slopes: Float[Array, "d l"] | None = parameter(_pattern_of, default=None)
    intercepts: Float[Array, "d c"] | None = None
    guessing: Float[Array, " d"] | None = unit_interval(default=None)
    prior: ItemPrior | None = eqx.field(static=True, default=ItemPrior(guessing=(5.0, 17.0)))
    pattern: Float[Array, "d l"] | None = constant(default=None)
    n_categories: int | None = eqx.field(static=True, default=2)

    def log_probability(self, latents: Float[Array, "*b l"]) -> Float[Array, "*b d m"]:
        """Both categories."""
        guessing = given(self.guessing)
        reach = curves.reach(self, latents) + given(self.intercepts)[:, 0]
        log_other = jnp.log1p(-guessing)
        right = jnp.logaddexp(jnp.log(guessing), log_other + jax.nn.log_sigmoid(reach))
        return jnp.stack([log_other + jax.nn.log_sigmoid(-reach), right], axis=-1)

    def log_prior(self) -> Float[Array, ""]:
        """Normal and Beta densities."""
        density = curves.log_prior(self)
        if self.prior is None or self.prior.guessing is None:
            return density
        (a, b), guessing = self.prior.guessing, given(self.guessing)
        return density + ((a - 1) * jnp.log(guessing) + (b - 1) * jnp.log1p(-guessing)).sum()

    def moved(self, shift: Array, root: Array) -> Self:
        """Slopes turned, intercepts shifted."""
        return curves.moved(self, shift, root, 1.0)

    def begun(self, slopes: np.ndarray, shares: np.ndarray) -> Self:
        """A guessing of 0.15, less where few are right, and intercepts beyond it."""
        guessing = np.minimum(0.15, 0.5 * shares[:, 1])
        right = (shares[:, 1] - guessing) / (1.0 - guessing)
        start = curves.cumulative_start(slopes, np.stack([1.0 - right, right], axis=1))
        begun = curves.begun(self, slopes, start)
        return eqx.tree_at(lambda i: i.guessing, begun, guessing, is_leaf=curves.is_none)

    def locations(self) -> Float[Array, "d c"]:
        """``-d / |a|``: where the probability is half way between g and 1."""
        return -given(self.intercepts) / curves.length(given(self.slopes))


def Rasch() -> PartialCredit:  # noqa: N802
    """The Rasch model of 0/1 items: :class:`PartialCredit` with two categories."""
    return PartialCredit(n_categories=2)
