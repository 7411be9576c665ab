"""The answers: how a climb ended, what it found, and how well log p(x) is known."""

from __future__ import annotations

import enum
import importlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant._types import Affine


class Outcome(enum.Enum):
    """How a climb ended, in the sentence the user reads; failures say what to do next."""

    RUNNING = "The climb has not ended."
    CONVERGED = "Converged: what is left to gain per row is estimated below the tolerance."
    PRECISION = (
        "Converged to the last digit: another step gains less than the floating-point type "
        "resolves."
    )
    DEGENERATE = (
        "Converged, but a component collapsed or lost its rows: fit.degenerate names it. Use fewer "
        "components, a prior on the covariances, or remedy='reseed' or 'merge'."
    )
    STEP_LIMIT = (
        "The step limit was reached before convergence: raise max_steps, or loosen the tolerance."
    )
    DECREASED = (
        "The bound decreased by more than rounding explains: the numerics failed. Use float64, "
        "rescale the columns, or raise the floor on variances."
    )
    NON_FINITE = (
        "The bound became non-finite: check for extreme values, raise the floor on variances, or "
        "start elsewhere."
    )
    INTERRUPTED = "Interrupted: this is the best fit so far; resume it with minorant.resume."
    STREAMED = "Estimated from a stream: the bound is of rows scored before they were learned from."
    TIGHT = (
        "The bound is as tight as accuracy= asks for, by importance weights that can be relied on."
    )
    LOOSE = (
        "The bound is looser than accuracy= asks for, but draws weighted by importance can be "
        "relied on, and summaries use them: for a tighter bound, raise seconds=."
    )
    UNRELIABLE = (
        "The posterior cannot be trusted: its importance weights have no reliable average. Give "
        "unknowns that are less dependent (non-centred, scaled), a start near the posterior, or "
        "more seconds=."
    )
    LIGHT_TAILS = (
        "The bound is tight, but q's tails are lighter than the posterior's (k-hat above 0.7): "
        "medians and central intervals hold; standard deviations and far quantiles may be too "
        "small."
    )
    OUTSIDE = (
        "Some draws of q fall where the log density is not finite, so the bound is -inf: declare "
        "the support of every unknown (positive, interval, ...), or make the density finite there."
    )
    IMPROPER = (
        "The log density does not fall off, so it has no finite normaliser: give every unknown a "
        "proper prior, and look for a direction that the data say nothing about."
    )

    @property
    def ok(self) -> bool:
        """Whether the climb reached an optimum."""
        return self in _SOUND


_SOUND = (Outcome.CONVERGED, Outcome.PRECISION, Outcome.DEGENERATE, Outcome.TIGHT, Outcome.LOOSE)
CODES = (
    Outcome.RUNNING,
    Outcome.CONVERGED,
    Outcome.PRECISION,
    Outcome.DECREASED,
    Outcome.NON_FINITE,
)


class FitError(RuntimeError):
    """A climb that ended in a failure, raised when ``throw=True``; ``fit`` holds what there is."""

    def __init__(self, message: str, fit: Any) -> None:
        """Keep the fit beside the sentence."""
        super().__init__(message)
        self.fit = fit


class Estimate(NamedTuple):
    """A number with its standard error (0 when it is exact)."""

    value: Any
    standard_error: Any = 0.0


class Trace(NamedTuple):
    """The climb, one entry per EM step: the bound in nats summed over rows, and objective.

    ``objective`` is the bound plus the log prior: what the climb may not lower.
    """

    bound: Float[np.ndarray, " steps"]
    objective: Float[np.ndarray, " steps"]


class Degenerate(NamedTuple):
    """A component that collapsed or emptied, the rows it holds, and what was done about it.

    Of a model without components, and of rows that no component can explain, ``component`` is -1
    and ``kind`` the whole sentence.
    """

    component: int
    kind: str
    rows: tuple[int, ...]
    remedy: str

    @property
    def is_empty(self) -> bool:
        """Whether the component lost its rows."""
        return self.kind == "is empty"

    def __str__(self) -> str:
        """One sentence."""
        if self.component < 0:
            return self.kind
        shown = ", ".join(map(str, self.rows[:8])) + (", ..." if len(self.rows) > 8 else "")
        held = f"rows {shown}" if self.rows else "no rows"
        return f"Component {self.component} {self.kind} (holds {held}); remedy: {self.remedy}."


class Climbed(NamedTuple):
    """Where one start ended: objective in nats, start, outcome, point in free coordinates."""

    objective: float
    start: int
    outcome: str
    point: Float[np.ndarray, " p"]


class Optimum(NamedTuple):
    """One distinct optimum among the climbs; ``matching[k]`` is its component for the best's k."""

    objective: float
    starts: tuple[int, ...]
    distance: float
    matching: tuple[int, ...]
    outcome: str
    model: Any


class Acceleration(NamedTuple):
    """What extrapolation did: EM steps taken, extrapolations kept and refused, steps saved.

    ``saved`` is an estimate on the low side: every extrapolation counts for its length in units of
    the plain step it replaced, and all steps taken are subtracted.
    """

    steps: int
    kept: int
    refused: int
    saved: int


class GapSplit(NamedTuple):
    """What the gap of an encoder's bound is made of, in nats: totals, and one number per row.

    ``gap = approximation + amortisation``, both from draws: either may fall below 0 by the error.

    Attributes:
        approximation: log p(x) less the bound of each row's best Gaussian: what the family misses.
        amortisation: the bound of each row's best Gaussian less the encoder's: what one shared
            function misses, and what ``fit.posterior(X, refine=True)`` wins back.
        monte_carlo: standard error of the amortisation's total; that of the estimate is
            ``Evidence.standard_error``.
        rows_approximation: (n,).
        rows_amortisation: (n,).
    """

    approximation: float
    amortisation: float
    monte_carlo: float
    rows_approximation: Float[np.ndarray, " n"]
    rows_amortisation: Float[np.ndarray, " n"]


class Evidence(NamedTuple):
    """log p(x) and how well it is known, in nats; the ``rows_`` fields hold one number per row.

    ``lower <= estimate <= upper``. For an exact posterior all three are equal and the gap is 0; for
    any other q, ``lower`` is L(theta, q), ``estimate`` = ``upper`` is the exact log p(x), and the
    gap is KL(q || p(z | x)), computed by itself and not as a difference. ``split`` says what the
    gap of an encoder is made of; None for any other q. Where it was annealed, ``lower`` and
    ``upper`` are 95% limits, ``gap`` is from q's bound to the estimate, and ``certificate`` says
    how they came about (:mod:`minorant.evidence.certificate`).
    """

    lower: float
    estimate: float
    upper: float
    gap: float
    standard_error: float
    rows_lower: Float[np.ndarray, " n"]
    rows_estimate: Float[np.ndarray, " n"]
    rows_upper: Float[np.ndarray, " n"]
    rows_gap: Float[np.ndarray, " n"]
    reliability: Float[np.ndarray, " n"] | None
    verdict: str
    split: GapSplit | None = None
    certificate: Any = None

    def __str__(self) -> str:
        """Bracket and verdict."""
        if self.certificate is not None:
            return self.certificate.table(self)
        return (
            f"{self.lower:.6f} <= log p(x) <= {self.upper:.6f} nats "
            f"(gap {self.gap:.3g}, standard error {self.standard_error:.3g}). {self.verdict}"
        )


class Parameter(NamedTuple):
    """One parameter: its place in the model, its estimate and how well it is known."""

    name: str
    estimate: float
    standard_error: float

    @property
    def limits(self) -> tuple[float, float]:
        """The 95% limits of the normal approximation."""
        reach = 1.959963984540054 * self.standard_error
        return self.estimate - reach, self.estimate + reach

    def __str__(self) -> str:
        """One line."""
        low, high = self.limits
        return (
            f"{self.name:32s} {self.estimate:12.6g}  se {self.standard_error:10.4g}  "
            f"[{low:.6g}, {high:.6g}]"
        )


class StandardErrors(NamedTuple):
    """How well the parameters of a fit are known; see :mod:`minorant.evidence.uncertainty`.

    Attributes:
        model: the model's shape, a standard error in each parameter's place.
        estimate: the fitted model.
        covariance: (p, p) of the free coordinates.
        robust: whether it is the sandwich.
        sentence: what could not be had, and why.
    """

    model: Any
    estimate: Any
    covariance: Float[np.ndarray, "p p"]
    robust: bool
    sentence: str

    def table(self) -> tuple[Parameter, ...]:
        """Every entry that was learned, by name: ``component.mean[0, 1]``."""
        from jax.tree_util import tree_leaves_with_path

        rows = []
        errors = tree_leaves_with_path(self.model)
        values = tree_leaves_with_path(self.estimate)
        for (path, error), (_, value) in zip(errors, values, strict=True):
            name = "".join(str(key) for key in path).lstrip(".")
            for index in np.ndindex(np.shape(error)):
                if error[index] != 0.0:
                    where = f"[{', '.join(map(str, index))}]" if index else ""
                    entry = Parameter(name + where, float(value[index]), float(error[index]))
                    rows.append(entry)
        return tuple(rows)

    def __str__(self) -> str:
        """The table, and the sentence."""
        return "\n".join([*map(str, self.table()), self.sentence])


class Fit(NamedTuple):
    """The answer of a climb.

    Attributes:
        model: the fitted model, in the data's units.
        outcome: how the climb ended.
        bound: log p(X), or the lower bound climbed, in nats, summed over rows with their weights.
        trace: the bound step by step.
        explanation: which E-step and solver were chosen, and why.
        standardised: the model in the units it was computed in; ``units`` leads there.
        n_rows: the sum of weights.
        n_parameters: free parameters, fixed ones left out.
        names: the columns.
        acceleration: what extrapolation did.
        degenerate: components that collapsed or emptied, and what was done.
        climbs: where each start that was not dropped ended; ``optima`` groups them.
        starts: a sentence about the starts (how many, dropped, dead).
        dtype: the float type computed in.
        seconds: wall time.
        state: what resuming needs.
        fixed: booleans in the model's shape, True where a parameter was held; or None.
        log_scale: the Jacobian of the change of units, summed over rows, in nats.
        truncation: what a truncated E-step lost (:class:`minorant.posteriors.Truncation`), or None.
    """

    model: Any
    outcome: Outcome
    bound: float
    objective: float
    trace: Trace
    explanation: str
    standardised: Any
    units: Affine
    n_rows: float
    n_parameters: int
    names: tuple[str, ...]
    acceleration: Acceleration
    degenerate: tuple[Degenerate, ...] = ()
    climbs: tuple[Climbed, ...] = ()
    starts: str = ""
    dtype: str = "float64"
    seconds: float = 0.0
    state: Any = None
    fixed: Any = None
    log_scale: float = 0.0
    truncation: Any = None

    @property
    def bic(self) -> float:
        """``-2 log p(X) + p log n``, n the sum of weights; smaller is better."""
        return -2.0 * self.bound + self.n_parameters * float(np.log(self.n_rows))

    @property
    def aic(self) -> float:
        """``-2 log p(X) + 2 p``; smaller is better."""
        return -2.0 * self.bound + 2.0 * self.n_parameters

    @property
    def optima(self) -> tuple[Optimum, ...]:
        """The distinct optima, best first, components matched; see :mod:`minorant.optima`."""
        return importlib.import_module("minorant.optima").optima(self)

    def posterior(self, X: Any, **keywords: Any) -> Any:  # noqa: N803
        """``p(z | x)`` of every row of ``X``; see :func:`minorant.evidence.posterior`."""
        return _evidence().posterior(self, X, **keywords)

    def evidence(self, X: Any, posterior: Any = None, **keywords: Any) -> Evidence:  # noqa: N803
        """``lower <= log p(X) <= upper``; see :func:`minorant.evidence.evidence`."""
        return _evidence().evidence(self, X, posterior, **keywords)

    def log_evidence(self, X: Any, **keywords: Any) -> Float[np.ndarray, " n"]:  # noqa: N803
        """``log p(x)`` of every row of ``X``; see :func:`minorant.evidence.log_evidence`."""
        return _evidence().log_evidence(self, X, **keywords)

    def standard_errors(self, X: Any, **keywords: Any) -> StandardErrors:  # noqa: N803
        """How well the parameters are known; see :func:`minorant.evidence.standard_errors`."""
        return _evidence().standard_errors(self, X, **keywords)

    def labels(self, X: Any, **keywords: Any) -> np.ndarray:  # noqa: N803
        """The most probable component of every row; see :func:`minorant.evidence.labels`."""
        return _evidence().labels(self, X, **keywords)

    def impute(self, X: Any, **keywords: Any) -> Float[np.ndarray, "n d"]:  # noqa: N803
        """``X`` with its missing cells filled; see :func:`minorant.evidence.impute`."""
        return _evidence().impute(self, X, **keywords)

    def sample(self, n: int, random_state: Any = 0) -> tuple[np.ndarray, np.ndarray]:
        """``n`` new rows and their components; see :func:`minorant.evidence.sample`."""
        return _evidence().sample(self, n, random_state)

    def __str__(self) -> str:
        """The fit in a few lines."""
        lines = [
            f"{self.outcome.value}",
            f"log p(X) {_relation(self)} {self.bound:.6f} nats over {self.n_rows:g} rows "
            f"({self.bound / self.n_rows:.6f} per row), {self.n_parameters} parameters, "
            f"{self.acceleration.steps} steps in {self.seconds:.2f} s.",
            self.explanation,
            self.starts,
            *map(str, self.degenerate),
        ]
        return "\n".join(line for line in lines if line)


def _relation(fit: Fit) -> str:
    """How log p(X) stands to the bound; what a model does not say of itself is no bound."""
    bounded = [getattr(fit.model, name, bool)() for name in ("is_bounded", "integrates_parameters")]
    return ">=" if any(bounded) or fit.truncation is not None else "="


def _evidence() -> Any:
    # Evidence is computed two layers up; a record may only forward to it.
    return importlib.import_module("minorant.evidence")
