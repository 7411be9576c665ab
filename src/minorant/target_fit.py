"""The answer for a target: a posterior that draws, its bound, and the rungs it was chosen from."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.models.target import AbstractTarget
from minorant.result import Estimate, Evidence, Outcome
from minorant.rungs import Draws, Rung, draw
from minorant.solvers.linear_response import Outputs, covariance
from minorant.solvers.sample_average import AverageBound
from minorant.target_predict import predicted, sampled_prior
from minorant.target_table import Response, Table, labels_of, row_of, warned

_MOST_RESPONSES = 256


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
            return self._values(self._drawn(random_state + 1, n).points)
        drawn = self.draws
        if n * 4 > len(drawn.points):
            drawn = self._drawn(random_state + 1, 8 * n)
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

    def _drawn(self, seed: int, n: int) -> Draws:
        with _config.precision(self._dtype):
            return draw(self.target, self.member, seed, n)

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
        chosen: which of the rungs is returned.
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
    chosen: int = -1

    @property
    def rung(self) -> Rung:
        """The rung that was chosen."""
        return self.rungs[self.chosen]

    def sample(
        self, n: int = 1000, random_state: int = 0, corrected: bool = True
    ) -> dict[str, np.ndarray]:
        """``n`` draws of every unknown, by name; see :meth:`TargetPosterior.sample`."""
        return self.posterior.sample(n, random_state, corrected)

    def evidence(self, accuracy: float = 0.1, seed: int = 0, seconds: float = 30.0) -> Evidence:
        """``lower <= log p(x) <= upper``; see :func:`minorant.evidence.target_evidence`."""
        # Evidence is computed layers up; a record may only forward to it.
        module = importlib.import_module("minorant.evidence")
        return module.target_evidence(self, accuracy, seed, seconds)

    def calibration(self, seed: int = 0) -> Any:
        """Which means and deviations of q are off; see :func:`minorant.evidence.calibration`."""
        return importlib.import_module("minorant.evidence").calibration(self, seed)

    def summary(self) -> Table:
        """Mean, standard deviation and quantiles of every number, with Monte Carlo errors.

        Of a mean-field fit with at most 256 numbers their linear-response standard deviations too.
        """
        draws, weight = self.posterior.draws, self.posterior.draws.probability
        values = self.posterior._values(draws.points)
        numbers = sum(value[0].size for value in values.values())
        has_response = self.rung.held is not None and numbers <= _MOST_RESPONSES
        response = self.linear_response() if has_response else None
        rows = []
        for name, value in values.items():
            flat = value.reshape(len(value), -1)
            for column, label in enumerate(labels_of(name, value.shape[1:])):
                row = row_of(label, flat[:, column], weight, draws.log_weights)
                sd = float(response.sd[len(rows)]) if response else np.nan
                rows.append(row._replace(response_sd=sd))
        return Table(tuple(rows), self._worth() + warned(rows, has_response))

    def linear_response(self, names: tuple[str, ...] | None = None) -> Response:
        r"""Covariances of a mean-field fit's unknowns, from how its means respond to tilts.

        .. math:: \mathrm{Cov}(f, g) \approx J_f (-H)^{-1} J_g^\top

        Args:
            names: of unknowns and derived values; None for all. Each number takes one solve.

        Returns:
            The covariance matrix and its standard deviations, with the numbers' names.

        Raises:
            ValueError: for a fit of another family, or a name that is not there.

        Example:
            >>> import numpy as np, minorant
            >>> from minorant import unknowns
            >>> precision = np.linalg.inv(np.array([[1.0, 0.8], [0.8, 1.0]]))
            >>> target = minorant.Target(lambda z: -0.5 * z @ precision @ z, z=unknowns.real(2))
            >>> fit = minorant.fit(target, posterior="mean-field")
            >>> fit.linear_response().covariance.round(3)  # q's own has 0.36 and no covariance
            array([[1. , 0.8],
                   [0.8, 1. ]])

        Giordano, Broderick & Jordan (2018); see :mod:`minorant.solvers.linear_response`. Not for:
        posteriors of several modes.
        """
        held, member = self.rung.held, self.posterior.member
        if held is None:
            raise ValueError(
                "linear_response is of fits by posterior='mean-field' of targets with second "
                f"derivatives; this one is by {self.rung.family!r}, {self.rung.sentence}."
            )
        shapes = {name: v.shape[1:] for name, v in self._one_draw().items()}
        names = tuple(shapes) if names is None else tuple(names)
        missing = [name for name in names if name not in shapes]
        if missing:
            raise ValueError(f"names has {missing}; the fit has {', '.join(shapes)}.")
        point = np.concatenate([member.mean, member.log_scale])
        with _config.precision(np.dtype(np.float64)):
            average = AverageBound(self.target, held)
            found = np.asarray(covariance(average, point, Outputs(names)))
        labels = [label for name in names for label in labels_of(name, shapes[name])]
        return Response(tuple(labels), found)

    def _one_draw(self) -> dict[str, np.ndarray]:
        return self.posterior._values(self.posterior.draws.points[:1])

    def predict(
        self,
        function: Callable[..., Any] | None = None,
        n: int = 1000,
        random_state: int = 0,
        *,
        corrected: bool = True,
        draws: dict[str, np.ndarray] | None = None,
    ) -> Any:
        r"""Draws of what the posterior predicts: :math:`\tilde x \sim p(\tilde x \mid \theta)`.

        Args:
            function: called with a random key and, by keyword, those values of one draw that it
                takes; its arrays are stacked. Written with ``jax.numpy``: it is run on all draws at
                once. None, of ``minorant.bayes``: a replicate of the table's rows.
            n: how many.
            random_state: seed.
            corrected: as in :meth:`TargetPosterior.sample`.
            draws: values to predict from in place of the posterior's, such as the prior's
                (``target.sample_prior``).

        Returns:
            The function's arrays, (n, ...) each.

        Raises:
            TypeError: without a function, of a target that does not make data itself.
            ValueError: for a function of values that there are not.

        Example:
            >>> import jax, minorant
            >>> from minorant import unknowns
            >>> target = minorant.Target(lambda mean: -0.5 * mean**2, mean=unknowns.real())
            >>> fit = minorant.fit(target, posterior="full-rank")
            >>> fit.predict(lambda key, mean: mean + jax.random.normal(key, (5,)), n=100).shape
            (100, 5)
        """
        found = self.sample(n, random_state, corrected) if draws is None else draws
        return predicted(self.target, function, found, random_state)

    def to_arviz(
        self,
        n: int = 1000,
        random_state: int = 0,
        corrected: bool = True,
        *,
        predictive: Callable[..., Any] | bool = False,
        prior: dict[str, np.ndarray] | bool = False,
    ) -> Any:
        """Draws and what is known of them as an ArviZ ``DataTree``, for its plots and tables.

        Args:
            n: how many draws.
            random_state: seed.
            corrected: as in :meth:`TargetPosterior.sample`.
            predictive: a function as for :meth:`predict`, or True, of ``minorant.bayes``, for
                replicated rows: adds ``posterior_predictive``, and with ``prior``
                ``prior_predictive``.
            prior: draws of the prior by name, or True, of ``minorant.bayes`` with distributions as
                priors: adds ``prior``.

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
        groups = {"posterior": self.sample(n, random_state, corrected)}
        if prior is not False:
            groups["prior"] = (
                sampled_prior(self.target, n, random_state) if prior is True else prior
            )
        if predictive is not False:
            function = None if predictive is True else predictive
            for name in list(groups):
                answer = predicted(self.target, function, groups[name], random_state)
                answer = answer if isinstance(answer, dict) else {"x": answer}
                groups[f"{name}_predictive"] = answer
        tree = from_dict(
            {group: {k: v[None] for k, v in each.items()} for group, each in groups.items()}
        )
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


def _all_values(target: AbstractTarget, points: Array) -> dict[str, Array]:
    return jax.vmap(target.values)(points)


_values_of = _config.quick_jit(_all_values, "once")
