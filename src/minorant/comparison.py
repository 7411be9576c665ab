r"""Models side by side: evidence brackets, criteria, held-out scores, and what differs for real.

For fits of rows, log p(x) of every row is compared row by row, so that what rows share cancels:

.. math:: \Delta = \sum_i [\log p_a(x_i) - \log p_b(x_i)], \quad
          \mathrm{se}(\Delta) = \sqrt{n\, \mathrm{var}_i[\log p_a(x_i) - \log p_b(x_i)]}

Fits of targets have one data set, and one number each: their brackets are compared (log Bayes
factors). Vuong (1989), "Likelihood ratio tests for model selection and non-nested hypotheses",
equation 5.1; Vehtari, Gelman & Gabry (2017), "Practical Bayesian model evaluation", equation 24.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant.posteriors import Categorical
from minorant.result import Estimate, Evidence, Fit
from minorant.target_fit import TargetFit

_WIDE = 1.959963984540054


class Compared(NamedTuple):
    """One model of a comparison; what is not defined for it is None.

    Attributes:
        name: as given.
        evidence: of the data that were compared on.
        n_parameters: free parameters; None for targets, whose unknowns have priors.
        aic: ``-2 log p(X) + 2 p``, smaller is better.
        bic: ``-2 log p(X) + p log n``, smaller is better.
        icl: BIC and twice the entropy of the labels; of models with a finite latent.
        held_out: mean log p(x) of a row of the held-out table, with its standard error.
        difference: log p(X) less the best model's, with the standard error over rows (of targets
            the Monte Carlo error); 0 for the best itself.
        is_real: whether it is worse than the best beyond what chance and limits explain.
    """

    name: str
    evidence: Evidence
    n_parameters: int | None
    aic: float | None
    bic: float | None
    icl: float | None
    held_out: Estimate | None
    difference: Estimate
    is_real: bool

    def __str__(self) -> str:
        """One line."""
        e, held = self.evidence, self.held_out
        cells = [
            f"{self.name:20s}",
            f"{e.lower:13.3f}",
            f"{e.upper:13.3f}",
            *(_cell(number) for number in (self.aic, self.bic, self.icl)),
            f"{'':>18s}" if held is None else f"{held.value:9.4f} ± {held.standard_error:.4f}",
            f"{self.difference.value:10.3f} ± {self.difference.standard_error:.3f}",
            "worse" if self.is_real else "",
        ]
        return " ".join(cells).rstrip()


class Comparison(NamedTuple):
    """All models, the best first, and what is to be made of it."""

    models: tuple[Compared, ...]
    sentence: str

    def __getitem__(self, name: Any) -> Any:
        """The model of that name; by number, the field."""
        if isinstance(name, str):
            return next(model for model in self.models if model.name == name)
        return tuple(self)[name]

    def __str__(self) -> str:
        """The table and the sentence."""
        head = f"{'':20s} {'lower':>13s} {'upper':>13s} {'AIC':>11s} {'BIC':>11s} {'ICL':>11s} "
        head += f"{'held out, per row':>18s} {'below the best':>18s}"
        return "\n".join([head, *map(str, self.models), self.sentence])


def compare(
    fits: Mapping[str, Any] | Sequence[Any],
    X: Any = None,  # noqa: N803
    held_out: Any = None,
    **keywords: Any,
) -> Comparison:
    """Models of one data set, the best first, and which differences are real.

    Args:
        fits: by name, or one after the other: fits of rows, or fits of targets, not both.
        X: (n, d) the table that fits of rows were fitted to.
        held_out: (m, d) rows that no fit has seen; they decide where given.
        keywords: of ``fit.evidence``: ``accuracy``, ``seed`` and ``seconds``; for rows also
            ``upper``.

    Returns:
        A table that prints, and a record for each model.

    Raises:
        ValueError: for fewer than two fits, a mixture of kinds, or rows without their table.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> def fitted(k):
        ...     model = minorant.Mixture(minorant.components.Gaussian(), n_components=k)
        ...     return minorant.fit(model, rows)
        >>> found = minorant.compare({"one": fitted(1), "two": fitted(2)}, rows)
        >>> [model.name for model in found.models], found["one"].is_real
        (['two', 'one'], True)

    Not for: fits of different tables, or of the same columns in other units (a logarithm of a
    column is another variable). In-sample log p(X) grows with every parameter: choose by BIC, ICL
    or held-out rows.
    """
    named = _named(fits)
    kinds = {isinstance(fit, TargetFit) for fit in named.values()}
    if len(kinds) > 1:
        raise ValueError("fits must be all of rows or all of targets: they have no data in common.")
    if kinds == {True}:
        return _of_targets({name: fit.evidence(**keywords) for name, fit in named.items()})
    if X is None:
        raise ValueError("X must be the table that the fits were fitted to; got None.")
    return _of_rows(named, X, held_out, keywords)


def _named(fits: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if not isinstance(fits, Mapping):
        fits = {f"model {number}": fit for number, fit in enumerate(fits, 1)}
    if len(fits) < 2:
        raise ValueError(f"fits must hold at least two; got {len(fits)}.")
    found = {name: getattr(fit, "fit_", fit) for name, fit in fits.items()}
    for name, fit in found.items():
        if not isinstance(fit, Fit | TargetFit):
            kind = type(fit).__name__
            raise ValueError(f"fits must be answers of minorant.fit; {name!r} is a {kind}.")
    return found


def _of_targets(found: dict[str, Evidence]) -> Comparison:
    """Brackets that lie apart differ; the rest cannot be told apart."""
    order = sorted(found, key=lambda name: -found[name].estimate)
    best, models = found[order[0]], []
    for name in order:
        own = found[name]
        difference = Estimate(own.estimate - best.estimate, 0.0)
        if own is not best:
            error = float(np.hypot(own.standard_error, best.standard_error))
            difference = difference._replace(standard_error=error)
        apart = own.upper < best.lower
        models.append(Compared(name, own, None, None, None, None, None, difference, apart))
    return Comparison(tuple(models), _sentence(models, "log Bayes factor"))


def _of_rows(named: dict[str, Fit], X: Any, held_out: Any, keywords: dict[str, Any]) -> Comparison:  # noqa: N803
    found = {name: fit.evidence(X, **keywords) for name, fit in named.items()}
    scores = {name: evidence.rows_estimate for name, evidence in found.items()}
    if held_out is not None:
        scores = {name: fit.evidence(held_out).rows_estimate for name, fit in named.items()}
    total = {name: float(np.sum(score)) for name, score in scores.items()}
    order = sorted(named, key=lambda name: -total[name])
    best, models = scores[order[0]], []
    for name in order:
        difference = _difference(scores[name], best)
        is_real = difference.value < -_WIDE * difference.standard_error
        held = None if held_out is None else _mean(scores[name])
        criteria = _criteria(named[name], found[name], X)
        models.append(Compared(name, found[name], *criteria, held, difference, bool(is_real)))
    return Comparison(tuple(models), _advised(models, held_out is not None))


def _difference(own: Float[np.ndarray, " n"], best: Float[np.ndarray, " n"]) -> Estimate:
    each = own - best
    return Estimate(
        float(each.sum()), float(np.sqrt(len(each)) * each.std(ddof=min(1, len(each) - 1)))
    )


def _mean(scores: Float[np.ndarray, " n"]) -> Estimate:
    return Estimate(float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(len(scores))))


def _criteria(
    fit: Fit,
    evidence: Evidence,
    X: Any,  # noqa: N803
) -> tuple[int | None, float | None, float | None, float | None]:
    """Parameters, AIC, BIC and, of finite latents, ICL."""
    if fit.model.integrates_parameters():
        return None, None, None, None
    p, deviance = fit.n_parameters, -2.0 * evidence.estimate
    bic = deviance + p * float(np.log(fit.n_rows))
    return p, deviance + 2.0 * p, bic, _icl(fit, bic, X)


def _icl(fit: Fit, bic: float, X: Any) -> float | None:  # noqa: N803
    """Biernacki, Celeux & Govaert (2000), "Assessing a mixture model", equation 7."""
    if not fit.model.is_exact() or fit.model.is_grouped():
        return None
    q = fit.posterior(X)
    if not isinstance(q, Categorical):
        return None
    log_q = np.asarray(q.log_probability, float)
    possible = np.isfinite(log_q)
    entropy = -(np.exp(log_q[possible]) * log_q[possible]).sum()
    return bic + 2.0 * float(entropy)


def _advised(models: list[Compared], is_held_out: bool) -> str:
    """The sentence, and the model that BIC prefers where rows were used twice."""
    said = _sentence(models, "held-out log p" if is_held_out else "log p(X)")
    known = [model for model in models if model.bic is not None]
    if is_held_out or not known:
        return said
    best = min(known, key=lambda model: model.bic or np.inf)
    return (
        f"{said} In-sample log p(X) favours more parameters; by BIC the best is {best.name}. Rows "
        "held back (held_out=) would tell."
    )


def _sentence(models: list[Compared], what: str) -> str:
    first, rest = models[0].name, models[1:]
    real = [model.name for model in rest if model.is_real]
    open_ones = [model.name for model in rest if not model.is_real]
    said = f"{first} is the best by {what}."
    if real:
        said += f" Worse for real (beyond 95% limits): {', '.join(real)}."
    if open_ones:
        said += f" Not to be told apart from it: {', '.join(open_ones)}."
    return said


def _cell(number: float | None) -> str:
    return f"{'':>11s}" if number is None else f"{number:11.2f}"
