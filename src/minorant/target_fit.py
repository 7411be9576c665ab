"""The answer for a target: a posterior that draws, its bound, and the rungs it was chosen from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._pareto import UNRELIABLE, smoothed
from minorant._types import Array
from minorant.models.target import AbstractTarget
from minorant.result import Estimate, Evidence, Outcome
from minorant.rungs import Draws, Rung, draw

_SHOWN = 6


class Row(NamedTuple):
    """One number of the posterior: mean and quantiles, with Monte Carlo errors.

    ``tail`` is the k-hat of its weighted squares: from 0.7 on, quantiles hold, but the standard
    deviation (which the posterior may not even have) and the Monte Carlo error do not.
    """

    name: str
    mean: float
    sd: float
    mean_error: float
    q5: float
    q50: float
    q95: float
    tail: float

    @property
    def is_reliable(self) -> bool:
        """Whether mean and standard deviation can be relied on."""
        return self.tail < UNRELIABLE

    def __str__(self) -> str:
        """One line; a star where mean and standard deviation cannot be relied on."""
        star = "" if self.is_reliable else " *"
        return (
            f"{self.name:24s} {self.mean:12.5g} {self.sd:12.5g} {self.mean_error:10.2g} "
            f"{self.q5:12.5g} {self.q50:12.5g} {self.q95:12.5g}{star}"
        )


class Table(NamedTuple):
    """The posterior number by number, and what its draws are worth."""

    rows: tuple[Row, ...]
    sentence: str

    def __getitem__(self, name: Any) -> Any:
        """The row of that name; by number, the field."""
        if isinstance(name, str):
            return next(row for row in self.rows if row.name == name)
        return tuple(self)[name]

    def __str__(self) -> str:
        """The table and the sentence."""
        columns = ("mean", "sd", "mc error", "5%", "50%", "95%")
        head = f"{'':24s} {columns[0]:>12s} {columns[1]:>12s} {columns[2]:>10s} "
        head += " ".join(f"{column:>12s}" for column in columns[3:])
        return "\n".join([head, *map(str, self.rows), self.sentence])


class TargetPosterior:
    """q over the unknowns of a target: it draws, and says its density and moments.

    Draws are weighted by importance where the weights can be relied on, so that averages are those
    of the posterior and not of q.
    """

    def __init__(self, target: AbstractTarget, member: Any, draws: Draws, dtype: Any) -> None:
        """Keep the density and the draws that it was judged on."""
        self.target = target
        self.member = member
        self.draws = draws
        self._dtype = dtype

    def sample(
        self, n: int = 1000, random_state: int = 0, corrected: bool = True
    ) -> dict[str, np.ndarray]:
        """``n`` draws of every unknown, by name, each of shape (n, ...).

        Args:
            n: how many.
            random_state: seed.
            corrected: resample draws by their importance weights, where those can be relied on;
                False gives independent draws of q itself.

        Returns:
            Arrays by name, derived quantities included.
        """
        if not corrected:
            return self._values(draw(self.target, self.member, random_state + 1, n).points)
        drawn = self.draws
        if n * 4 > len(drawn.points):
            drawn = draw(self.target, self.member, random_state + 1, 8 * n)
        rng = np.random.default_rng(random_state)
        picked = rng.choice(len(drawn.points), n, p=drawn.probability)
        return self._values(drawn.points[picked])

    def log_density(self, values: dict[str, Any]) -> float:
        """``log q`` of named values, in nats, with respect to the unknowns themselves."""
        with _config.precision(self._dtype):
            free, log_jacobian = self.target.free(values)
            log_q = self.member.log_density(np.asarray(free)[None])[0]
            return float(log_q) - float(log_jacobian)

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation of every unknown, by name."""
        weight = self.draws.probability
        found = {}
        for name, values in self._values(self.draws.points).items():
            mean = np.tensordot(weight, values, 1)
            square = np.tensordot(weight, (values - mean) ** 2, 1)
            found[name] = (mean, np.sqrt(square))
        return found

    def _values(self, points: Float[np.ndarray, "s p"]) -> dict[str, np.ndarray]:
        with _config.precision(self._dtype):
            return jax.device_get(_values_of(self.target, points))


class TargetFit(NamedTuple):
    """The answer for a target.

    Attributes:
        target: the log density.
        posterior: q: ``sample``, ``log_density``, ``moments``.
        outcome: how the climb ended.
        bound: E_q[log p - log q] on fresh draws, in nats: a lower bound on the log evidence, with
            its Monte Carlo error.
        rungs: every family that was tried, in order; the best bound is what is returned.
        explanation: which family was chosen, and why.
        check: what the check before the climb found worth saying.
        seconds: wall time.
        random_state: the seed.
    """

    target: AbstractTarget
    posterior: TargetPosterior
    outcome: Outcome
    bound: Estimate
    rungs: tuple[Rung, ...]
    explanation: str
    check: str = ""
    seconds: float = 0.0
    random_state: int = 0

    @property
    def rung(self) -> Rung:
        """The rung that was chosen."""
        return max(self.rungs, key=lambda rung: float(rung.bound.value))

    def sample(
        self, n: int = 1000, random_state: int = 0, corrected: bool = True
    ) -> dict[str, np.ndarray]:
        """``n`` draws of every unknown, by name; see :meth:`TargetPosterior.sample`."""
        return self.posterior.sample(n, random_state, corrected)

    def evidence(self) -> Evidence:
        """The bound and the importance-weighted estimate of log p(x), the data set as one row.

        There is no upper limit yet: it is infinite.
        """
        rung = self.rung
        lower, estimate = float(rung.bound.value), float(rung.evidence.value)
        one = np.array
        return Evidence(
            lower,
            estimate,
            np.inf,
            estimate - lower,
            float(rung.evidence.standard_error),
            one([lower]),
            one([estimate]),
            one([np.inf]),
            one([estimate - lower]),
            one([rung.reliability]),
            self.outcome.value,
        )

    def summary(self) -> Table:
        """Mean, standard deviation and quantiles of every number, with Monte Carlo errors."""
        draws, weight = self.posterior.draws, self.posterior.draws.probability
        rows = []
        for name, values in self.posterior._values(draws.points).items():
            flat = values.reshape(len(values), -1)
            for column, index in enumerate(np.ndindex(values.shape[1:])):
                where = f"[{', '.join(map(str, index))}]" if index else ""
                rows.append(_row(name + where, flat[:, column], weight, draws.log_weights))
        return Table(tuple(rows), self._worth() + _warned(rows))

    def to_arviz(self, n: int = 1000, random_state: int = 0, corrected: bool = True) -> Any:
        """Draws and what is known of them as an ArviZ ``DataTree``, for its plots and tables.

        Args:
            n: how many draws.
            random_state: seed.
            corrected: as in :meth:`TargetPosterior.sample`.

        Returns:
            A ``DataTree``: ``posterior`` has the draws, all of one chain, for they are independent
            (corrected ones may repeat): R-hat says nothing of them. Its attributes have the family,
            bound, evidence, k-hat, and what the weighted draws are worth.

        Raises:
            ImportError: without arviz-base.
        """
        try:
            from arviz_base import from_dict
        except ImportError as error:
            raise ImportError(
                "to_arviz needs an optional extra: pip install 'minorant[arviz]'."
            ) from error
        drawn = self.sample(n, random_state, corrected)
        tree = from_dict({"posterior": {name: values[None] for name, values in drawn.items()}})
        tree["posterior"].attrs.update(self._diagnostics(corrected))
        return tree

    def _diagnostics(self, corrected: bool) -> dict[str, Any]:
        """What is worth keeping beside draws, as numbers and text."""
        rung = self.rung
        return {
            "inference_library": "minorant",
            "family": rung.family,
            "outcome": self.outcome.value,
            "bound": float(self.bound.value),
            "bound_error": float(self.bound.standard_error),
            "log_evidence": float(rung.evidence.value),
            "log_evidence_error": float(rung.evidence.standard_error),
            "pareto_k": float(rung.reliability),
            "effective_draws": float(rung.effective),
            "resampled": int(corrected),
            "random_state": self.random_state,
            "seconds": self.seconds,
        }

    def _worth(self) -> str:
        draws = self.posterior.draws
        s, rung = len(draws.points), self.rung
        if not draws.is_weighted:
            return f"{s} draws of q, not weighted: k-hat is {rung.reliability:.2f}."
        return (
            f"{s} draws of q, weighted by importance (k-hat {rung.reliability:.2f}): worth "
            f"{rung.effective:.0f} independent draws of the posterior."
        )

    def __str__(self) -> str:
        """The fit in a few lines."""
        rung = self.rung
        lines = [
            self.outcome.value,
            f"{float(self.bound.value):.4f} <= log p(x), about {float(rung.evidence.value):.4f} "
            f"nats; k-hat {rung.reliability:.2f}; {self.seconds:.1f} s.",
            self.explanation,
            self.check,
            *map(str, self.rungs),
        ]
        return "\n".join(line for line in lines if line)


def _warned(rows: list[Row]) -> str:
    starred = [row.name for row in rows if not row.is_reliable]
    if not starred:
        return ""
    shown = ", ".join(starred[:_SHOWN]) + (", ..." if len(starred) > _SHOWN else "")
    return (
        f"\n* {shown}: tails so heavy that mean and standard deviation cannot be relied on; the "
        "quantiles can."
    )


def _row(
    name: str,
    values: Float[np.ndarray, " s"],
    weight: Float[np.ndarray, " s"],
    log_weights: Float[np.ndarray, " s"],
) -> Row:
    mean = float(weight @ values)
    sd = float(np.sqrt(weight @ (values - mean) ** 2))
    error = float(np.sqrt((weight**2) @ (values - mean) ** 2))
    order = np.argsort(values)
    total = np.cumsum(weight[order]) - 0.5 * weight[order]
    quantiles = np.interp([0.05, 0.5, 0.95], total, values[order])
    away = np.abs(values - mean)
    with np.errstate(divide="ignore"):
        tail = smoothed(log_weights + 2.0 * np.log(away))[1]
    low, middle, high = map(float, quantiles)
    return Row(name, mean, sd, error, low, middle, high, tail)


def _all_values(target: AbstractTarget, points: Array) -> dict[str, Array]:
    return jax.vmap(target.values)(points)


_values_of = _config.quick_jit(_all_values, "once")
