"""`MixedModel`: regressions with random intercepts and slopes per group, by maximum likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from minorant.estimators import _regressed
from minorant.estimators._base import Estimator
from minorant.estimators._climb import climbed, warning_of
from minorant.estimators._regressed import Part, Regressed
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import (
    ARRAY,
    DEFAULTS,
    FLAG,
    N_INIT,
    OPTIONS,
    Choice,
    Interval,
    Option,
    starts_of,
)

if TYPE_CHECKING:
    from minorant.result import Fit

_OWN = (
    Option(
        "family",
        "normal",
        (Choice(("normal", "bernoulli", "binomial", "poisson")),),
        "The law of the outcome given the effects: normal (identity link), bernoulli or binomial "
        "(logit link), poisson (log link).",
    ),
    Option("random_intercept", True, (FLAG,), "Whether groups have an intercept of their own."),
    Option(
        "random_slopes",
        (),
        (ARRAY,),
        "The columns, by name or number, whose coefficients vary between groups.",
    ),
    Option("fit_intercept", True, (FLAG,), "Whether the regression has an intercept."),
    Option(
        "points",
        "auto",
        (Interval(int, 1), Choice(("auto",))),
        "Quadrature nodes for each random effect, 1 is Laplace's approximation; 'auto': 1 for "
        "normal outcomes, where it is exact, else 15, 9 or 7 for one, two or three effects.",
    ),
    Option("standard_errors", True, (FLAG,), "Whether to compute standard errors of coefficients."),
)


class FixedEffects(NamedTuple):
    """Coefficients with standard errors, z statistics and two-sided p-values."""

    name: tuple[str, ...]
    estimate: Float[np.ndarray, " m"]
    standard_error: Float[np.ndarray, " m"]
    z: Float[np.ndarray, " m"]
    p_value: Float[np.ndarray, " m"]


class MixedModel(Estimator):
    r"""A generalised linear mixed model with one grouping of the rows.

    .. math:: g(E[y_i]) = x_i^T b + r_i^T u_{g(i)} + o_i, \qquad u_g \sim N(0, \Sigma)

    Fitted by maximum likelihood (not REML); a missing outcome (NaN) is left out.

    Args:
        family: "normal", "bernoulli" (0/1), "binomial" (y has two columns, successes and failures)
            or "poisson".
        random_intercept: whether groups have an intercept of their own.
        random_slopes: columns of X, by name or number, whose coefficients vary between groups.
        fit_intercept: whether there is a fixed intercept.
        points: quadrature nodes per effect; 1 is Laplace's approximation; or "auto".
        standard_errors: whether to compute them, which takes about as long as the climb.
        tol: nats per row that may be left to gain.
        max_iter: limit on steps.
        n_init: how many starts; "auto": one.
        random_state: seed of the starts.
        verbose: above 0: a bar with the bound.

    Attributes:
        intercept_, coef_: fixed effects, () and (m,).
        fixed_effects_: `FixedEffects`, intercept first.
        random_names_: (l,) what varies.
        random_covariance_: (l, l) S.
        random_deviations_, random_correlations_: (l,), (l, l) its parts.
        deviation_: residual standard deviation of a normal outcome, else None.
        groups_: (g,) names.
        group_effects_, group_errors_: (g, l) posterior means and deviations of u.
        quadrature_error_: by how much doubling the rule changes log p(y), in nats.
        n_iter_, converged_, fit_: as in `GaussianMixture`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import MixedModel
        >>> groups = np.repeat(np.arange(6), 4)
        >>> X = np.tile([[0.0], [1.0], [2.0], [3.0]], (6, 1))
        >>> y = 2.0 * X[:, 0] + groups + np.tile([0.1, -0.1, -0.1, 0.1], 6)
        >>> model = MixedModel().fit(X, y, groups=groups)
        >>> round(float(model.coef_[0]), 3), round(float(model.intercept_), 3)
        (2.0, 2.5)

    Not for: crossed groupings, more than three effects to a group, REML.

    Breslow & Clayton (1993), "Approximate inference in generalized linear mixed models"; Pinheiro &
    Bates (1995), "Approximations to the log-likelihood function in the nonlinear mixed-effects
    model".
    """

    intercept_: float
    coef_: Float[np.ndarray, " m"]
    fixed_effects_: FixedEffects
    random_names_: tuple[str, ...]
    random_covariance_: Float[np.ndarray, "l l"]
    random_deviations_: Float[np.ndarray, " l"]
    random_correlations_: Float[np.ndarray, "l l"]
    deviation_: float | None
    groups_: np.ndarray
    group_effects_: Float[np.ndarray, "g l"]
    group_errors_: Float[np.ndarray, "g l"]
    quadrature_error_: float
    converged_: bool
    n_iter_: int
    fit_: Fit
    _accepts_missing: ClassVar[bool] = False
    _takes_chunks: ClassVar[bool] = True
    _options: ClassVar[Mapping[str, Option]] = {
        **OPTIONS, **{one.name: one for one in (*_OWN, N_INIT)},
    }  # fmt: skip

    def __init__(  # noqa: PLR0913
        self,
        family: str = "normal",
        *,
        random_intercept: bool = True,
        random_slopes: Sequence[Any] = (),
        fit_intercept: bool = True,
        points: int | str = "auto",
        standard_errors: bool = True,
        tol: float = DEFAULTS["tol"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = N_INIT.default,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.family = family
        self.random_intercept = random_intercept
        self.random_slopes = random_slopes
        self.fit_intercept = fit_intercept
        self.points = points
        self.standard_errors = standard_errors
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Rows,
        y: Values = None,
        groups: Values = None,
        sample_weight: Values = None,
        offset: Values = None,
        checkpoint: Any = None,
    ) -> Self:
        """Climb to a maximum of the marginal log-likelihood.

        Args:
            X: (n, m) covariates, nothing missing. Or a path, folder or pattern of files, where `y`,
                `groups`, `sample_weight` and `offset` are names of columns and all others are
                covariates; or `minorant.chunks(path, columns=, inputs=, groups=)` of outcome,
                covariates and groups. Rows of a group follow one another.
            y: (n,) outcomes, NaN where missing; (n, 2) successes and failures for "binomial".
            groups: (n,) the group of each row, any names.
            sample_weight: (n,) weights, the same in all rows of a group: so many such groups.
            offset: (n,) what enters with coefficient 1, for example a log exposure.
            checkpoint: A directory, or a `minorant.Checkpoint`: the climb is kept there, and goes
                on from there when the same fit is called again after an interrupt or a crash.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The table, outcomes, groups or options cannot be used; says what and where.
            OSError: The checkpoint or the files cannot be read or written.
        """
        if self._takes(X):
            self._validate_params()
            rows = _regressed.opened(self, X, y, groups, sample_weight, offset)
        else:
            rows = self._held(X, y, groups, sample_weight, offset)
        answer = self._climb(rows, checkpoint)
        self._publish(answer, rows)
        sentence = warning_of(answer)
        if sentence:
            self._warn(sentence)
        return self

    def _held(
        self, X: Rows, y: Values, groups: Values, sample_weight: Values, offset: Values
    ) -> Regressed:
        """Return rows in memory, checked."""
        rows, weights = self._begin_fit(X, sample_weight)
        outcome = self._outcome(y, len(rows))
        if groups is None:
            raise ValueError("groups must name the group of every row; without groups, regress.")
        part = Part(outcome, weights, np.asarray(groups), self._inputs(rows, offset))
        return Regressed(part, offset is not None)

    def _climb(self, rows: Regressed, checkpoint: Any) -> Fit:
        return climbed(
            self,
            lambda: self._model(rows.has_offset),
            rows.data(),
            checkpoint,
            **rows.beside(),
            starts=starts_of(self.n_init),
            tolerance=self.tol,
        )

    def _model(self, has_offset: bool) -> Any:
        from minorant.models import MixedModel as Model
        from minorant.posteriors import Adaptive

        rule = None if self.points == "auto" else Adaptive(int(self.points))
        return Model(
            self.family,
            self._random_columns(),
            intercept=self.fit_intercept,
            offset=self.n_features_in_ if has_offset else None,
            rule=rule,
        )

    def _random_columns(self) -> tuple[int, ...]:
        """Columns of the design, the intercept first."""
        names = self._names()
        place = {name: j for j, name in enumerate(names)}
        columns = []
        for slope in self.random_slopes:
            j = place.get(str(slope), slope if isinstance(slope, int | np.integer) else -1)
            if not 0 <= j < len(names):
                raise ValueError(f"random_slopes names {slope!r}, which is no column: {names}.")
            columns.append(int(j) + int(self.fit_intercept))
        if self.random_intercept:
            if not self.fit_intercept:
                raise ValueError("random_intercept needs fit_intercept: its mean is the intercept.")
            columns.insert(0, 0)
        if not 1 <= len(columns) <= 3:
            raise ValueError(
                f"1 to 3 effects may vary between groups; got {len(columns)}. Change "
                "random_intercept or random_slopes."
            )
        return tuple(columns)

    def _names(self) -> list[str]:
        names = getattr(self, "feature_names_in_", None)
        plain = [f"column {j}" for j in range(self.n_features_in_)]
        return plain if names is None else list(map(str, names))

    def _outcome(self, y: Values, n: int) -> Float[np.ndarray, "n d"]:
        if y is None:
            raise ValueError("y must be given: the outcome of every row.")
        array = np.asarray(y, dtype=float)
        array = array[:, None] if array.ndim == 1 else array
        width = 2 if self.family == "binomial" else 1
        if array.shape != (n, width):
            what = "two columns, successes and failures" if width == 2 else "one number per row"
            raise ValueError(f"y must have {what}, {n} rows; got shape {np.shape(y)}.")
        return array

    def _inputs(self, rows: np.ndarray, offset: Values) -> np.ndarray:
        inputs = np.asarray(rows, dtype=float)
        if offset is None:
            return inputs
        column = np.asarray(offset, dtype=float)
        if column.shape != (len(rows),):
            raise ValueError(f"offset must have {len(rows)} numbers; got shape {column.shape}.")
        return np.column_stack([inputs, column])

    def _publish(self, answer: Fit, rows: Regressed) -> None:
        self.fit_, model = answer, answer.model
        names = (["(Intercept)"] if self.fit_intercept else []) + self._names()
        coefficients = np.asarray(model.coefficients, float)
        errors = np.full(len(coefficients), np.nan)
        if self.standard_errors:
            found: Any = answer.standard_errors(rows.data(), **rows.beside()).model
            errors = np.asarray(found.coefficients, float)
        self.fixed_effects_ = _tested(names, coefficients, errors)
        self.intercept_ = float(coefficients[0]) if self.fit_intercept else 0.0
        self.coef_ = coefficients[int(self.fit_intercept) :]
        covariance = np.asarray(model.covariance, float)
        self.random_names_ = tuple(names[j] for j in model.random)
        self.random_covariance_ = covariance
        self.random_deviations_ = np.sqrt(np.diag(covariance))
        size = np.maximum(self.random_deviations_, np.finfo(float).tiny)
        self.random_correlations_ = covariance / (size[:, None] * size)
        self.deviation_ = float(model.deviation) if self.family == "normal" else None
        found = _regressed.group_effects(answer, rows)
        self.groups_, self._group_sizes, self.group_effects_, self.group_errors_ = found
        exact = self.family == "normal"
        self.quadrature_error_ = 0.0 if exact else _regressed.quadrature_error(answer, rows)
        self.converged_ = answer.outcome.ok
        self.n_iter_ = answer.acceleration.steps

    # Predictions

    def predict(self, X: Rows, groups: Values = None, offset: Values = None) -> np.ndarray:
        """Return the expected outcome given the expected effects (a probability, a mean count).

        Args:
            X: (n, m) covariates.
            groups: (n,) groups; one that did not occur in `fit`, or None, has effects 0.
            offset: (n,) as in `fit`.
        """
        rows = self._read(X)
        predictor = self.intercept_ + rows @ self.coef_
        if offset is not None:
            predictor = predictor + np.asarray(offset, dtype=float)
        if groups is not None:
            place = {name: index for index, name in enumerate(self.groups_.tolist())}
            index = np.array([place.get(name, -1) for name in np.asarray(groups).tolist()])
            effects = np.where((index < 0)[:, None], 0.0, self.group_effects_[index])
            predictor = predictor + (self._varying(rows) * effects).sum(1)
        if self.family == "normal":
            return predictor
        return np.exp(predictor) if self.family == "poisson" else 1.0 / (1.0 + np.exp(-predictor))

    def _varying(self, rows: np.ndarray) -> Float[np.ndarray, "n l"]:
        design = np.column_stack([np.ones(len(rows)), rows]) if self.fit_intercept else rows
        return design[:, list(self.fit_.model.random)]

    def summary(self) -> str:
        """Return the fit as a table: fixed effects, random effects, likelihood."""
        self._check_fitted()
        fit, fixed = self.fit_, self.fixed_effects_
        lines = [
            f"Mixed model, {self.family} outcome, maximum likelihood: {fit.outcome.value}",
            f"rows {fit.n_rows:g}, groups {len(self.groups_)} of {self._group_sizes.min()} to "
            f"{self._group_sizes.max()} rows",
            f"log p(y) {fit.bound:.4f}, AIC {fit.aic:.2f}, BIC {fit.bic:.2f}, quadrature error "
            f"{self.quadrature_error_:.1g} nats",
            "",
            f"{'random effect':<20}{'variance':>12}{'std. dev.':>12}  correlations",
        ]
        for k, name in enumerate(self.random_names_):
            correlations = "  ".join(f"{r:6.3f}" for r in self.random_correlations_[k, :k])
            deviation = self.random_deviations_[k]
            lines.append(f"{name:<20}{deviation**2:>12.5g}{deviation:>12.5g}  {correlations}")
        if self.deviation_ is not None:
            lines.append(f"{'residual':<20}{self.deviation_**2:>12.5g}{self.deviation_:>12.5g}")
        lines += ["", f"{'fixed effect':<20}{'estimate':>12}{'std. error':>12}{'z':>9}{'p':>9}"]
        for name, value, error, z, p in zip(*fixed, strict=True):
            lines.append(f"{name:<20}{value:>12.5g}{error:>12.5g}{z:>9.3f}{p:>9.4f}")
        return "\n".join(lines)


def _tested(names: list[str], estimate: np.ndarray, error: np.ndarray) -> FixedEffects:
    from scipy import stats

    with np.errstate(divide="ignore", invalid="ignore"):
        z = estimate / error
    return FixedEffects(tuple(names), estimate, error, z, 2.0 * stats.norm.sf(np.abs(z)))
