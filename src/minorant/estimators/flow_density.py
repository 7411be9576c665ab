"""`FlowDensity`: a normalising flow as the density of a table of continuous columns.

JAX is imported when a fit or a prediction needs it, never before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from minorant.estimators._base import Density, Estimator
from minorant.estimators._climb import seed_of
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import DEFAULTS, NONE, OPTIONS, Choice, Interval, Option

if TYPE_CHECKING:
    from minorant.models.flow import RowFlow
    from minorant.result import Estimate, Outcome

_OWN = (
    Option(
        "coupling",
        "spline",
        (Choice(("affine", "spline")),),
        "How a layer moves a column given others: shifted and scaled, or by a monotone spline.",
    ),
    Option("n_layers", 4, (Interval(int, 1),), "The number of coupling layers."),
    Option(
        "hidden_size",
        None,
        (Interval(int, 1), NONE),
        "The width of the networks' hidden layers; None: twice the columns, from 32 to 128.",
    ),
    Option(
        "tails",
        "normal",
        (Choice(("normal", "student")),),
        "The noise that is bent: normal, or Student-t with learned degrees of freedom.",
    ),
    Option(
        "validation_fraction",
        0.15,
        (Interval(float, 0.0, 1.0, "neither"),),
        "The share of the rows that is held out, to stop by and to choose the best iterate.",
    ),
    Option("batch_size", 256, (Interval(int, 1),), "The number of rows that a step looks at."),
    Option(
        "tol",
        1e-3,
        (Interval(float, 0.0, closed="neither"),),
        "The climb stops when two smaller step sizes in turn gain less than this, in nats per row "
        "held out.",
    ),
    Option("max_iter", 20_000, (Interval(int, 1),), "The largest number of gradient steps."),
)
_DEFAULTS = {option.name: option.default for option in _OWN}


class FlowDensity(Estimator):
    r"""A normalising flow fitted by exact maximum likelihood, stopped by rows held out.

    .. math:: \log p(x) = \log N(u; 0, I) + \log\Big|\det \frac{\partial u}{\partial x}\Big|,
              \quad u = T^{-1}(x)

    Columns are standardised (the densities are those of the rows as given). The climb starts at the
    Gaussian of the rows and returns the iterate that is best on the rows held out, so it is never
    worse there than that Gaussian. Step size, number of steps and the stop are found, not set.
    Equal rows are held out or climbed on together, and a weight counts as that many copies.

    Args:
        coupling: "spline" or "affine".
        n_layers: coupling layers.
        hidden_size: width of the networks' two hidden layers; None: by the number of columns.
        tails: "normal" or "student".
        validation_fraction: share of the rows held out, never more than 8192.
        batch_size: rows of one gradient step.
        tol: nats per row that a smaller step size must still gain.
        max_iter: limit on gradient steps.
        random_state: int, RandomState, Generator, or None.
        verbose: above 0: a bar with the held-out log-likelihood.

    Attributes:
        flow_: the density, a `minorant.models.RowFlow`.
        validation_score_: mean log density of the rows held out, with its standard error; the
            iterate was chosen by it, so it is a little optimistic.
        validation_curve_: the best of it so far, at every look.
        n_iter_: gradient steps.
        converged_: whether it stopped by itself.
        outcome_: how it ended, a ``minorant.Outcome``.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import FlowDensity
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=500)
        >>> rows = np.c_[x, x**2 + 0.5 * rng.normal(size=500)]
        >>> flow = FlowDensity(coupling="affine", n_layers=4, random_state=0).fit(rows)
        >>> flow.score(rows) > -2.7, flow.sample(3).shape  # a Gaussian has -3.3
        (True, (3, 2))

    ``minorant.save(flow.flow_, directory)`` keeps the density, ``minorant.load`` gives it back.

    Not for: missing cells, categories, counts or rounded numbers (densities of atoms are infinite:
    `MixtureModel`), a few dozen rows (`GaussianMixture`).

    Dinh, Sohl-Dickstein & Bengio (2017), "Density estimation using Real NVP"; Durkan et al. (2019),
    "Neural spline flows".
    """

    _kind = "density_estimator"
    _accepts_missing = False
    _options: ClassVar[Mapping[str, Option]] = {**OPTIONS, **{one.name: one for one in _OWN}}

    flow_: RowFlow
    validation_score_: Estimate
    validation_curve_: Float[np.ndarray, " looks"]
    n_iter_: int
    converged_: bool
    outcome_: Outcome

    score = Density.score

    def __init__(  # noqa: PLR0913
        self,
        *,
        coupling: str = _DEFAULTS["coupling"],
        n_layers: int = _DEFAULTS["n_layers"],
        hidden_size: int | None = None,
        tails: str = _DEFAULTS["tails"],
        validation_fraction: float = _DEFAULTS["validation_fraction"],
        batch_size: int = _DEFAULTS["batch_size"],
        tol: float = _DEFAULTS["tol"],
        max_iter: int = _DEFAULTS["max_iter"],
        random_state: Any = None,
        verbose: int = DEFAULTS["verbose"],
    ) -> None:
        self.coupling = coupling
        self.n_layers = n_layers
        self.hidden_size = hidden_size
        self.tails = tails
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        sample_weight: Values = None,
    ) -> Self:
        """Find the density.

        Args:
            X: (n, d) numbers, none missing, no column constant.
            y: Ignored, as scikit-learn wants it.
            sample_weight: (n,) weights, 0 or more; an integer weight counts as that many copies.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, weights or options cannot be used; says what and where.
        """
        rows, weights = self._begin_fit(X, sample_weight, min_rows=2)
        counted = rows if weights is None else rows[weights > 0]
        _refuse_constant(counted, getattr(self, "feature_names_in_", None))
        from minorant.estimators import _flow_fit

        found = _flow_fit.fit_flow(rows, weights, self._shape(), self._plan())
        self.flow_, self.validation_score_ = found.flow, found.held_out
        self.validation_curve_ = found.ascended.trace - np.log(found.flow.units.scale).sum()
        self.n_iter_, self.outcome_ = found.ascended.steps, found.ascended.outcome
        self.converged_ = self.outcome_.ok
        sentence = _flow_fit.sentence_of(found.ascended)
        if sentence:
            self._warn(sentence)
        return self

    def _shape(self) -> Any:
        from minorant.estimators._flow_fit import Shape

        return Shape(self.n_layers, self.hidden_size, self.coupling, self.tails)

    def _plan(self) -> Any:
        from minorant.estimators._flow_fit import Plan

        seed = seed_of(self.random_state)
        share, verbose = self.validation_fraction, bool(self.verbose)
        return Plan(share, self.batch_size, self.tol, self.max_iter, seed, verbose)

    def score_samples(self, X: Rows) -> Float[np.ndarray, " n"]:
        """Return ``log p(x)`` of every row, in nats, in the units of the data."""
        rows = self._read(X)
        return self.flow_.log_density(rows).astype(rows.dtype)

    def sample(self, n_samples: int = 1) -> Float[np.ndarray, "n d"]:
        """Return `n_samples` rows drawn from the density.

        Raises:
            ValueError: `n_samples` is below 1.
        """
        self._check_fitted()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        import jax

        seed = np.random.default_rng(seed_of(self.random_state)).integers(2**31)
        return self.flow_.sample(jax.random.key(seed), n_samples)


def _refuse_constant(rows: np.ndarray, names: np.ndarray | None) -> None:
    still = np.flatnonzero(np.ptp(rows, axis=0) == 0)
    if len(still):
        j = int(still[0])
        column = f"column {j}" if names is None else f"column {names[j]!r} (index {j})"
        raise ValueError(
            f"X is constant in {column}, where every row holds {rows[0, j]:g}: its density is "
            f"infinite there (n_samples={len(rows)}). Leave the column out."
        )
