r"""How well log p(x) is known: the identity ``log p = L + KL`` as numbers, per row and in total.

.. math:: \log p(x) = E_q[\log p(x, z) - \log q(z)] + KL(q \,\|\, p(z \mid x))

The three terms are computed each by itself: L from the joint, KL from q and the exact posterior,
log p from the model. What the identity is off by is then a check on the numerics.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, PyTree, Rows
from minorant.bounds import Elbo
from minorant.data.arrays import ArraySource, Layout
from minorant.evidence.in_chunks import joined
from minorant.evidence.scoring import Scored, arranged, each_scored, mapped, rows_log_evidence
from minorant.models.base import (
    AbstractDiscreteModel,
    AbstractIntegratedModel,
    AbstractTractableModel,
)
from minorant.models.user import Model
from minorant.posteriors import Categorical
from minorant.result import Evidence, Fit

_SHOWN = 5
_SUM_TOLERANCE = 1e-5
_ROUNDING = 1e3
_SMALL_GAP = 0.01
_SMALL_ERROR = 1e-3
_QUADRATURE = {
    False: "The rule is fine enough.",
    True: "Take more nodes: give the model a finer rule=, and fit again.",
}
_EXACT = (
    "The posterior is exact, so the bound equals log p(x) in every row: there is no gap to close."
)


def evidence(  # noqa: PLR0913
    fit: Fit,
    X: Any,  # noqa: N803
    posterior: Categorical | Float[np.ndarray, "n k"] | None = None,
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
    upper: bool = False,
    accuracy: float = 0.05,
    seed: int = 0,
    seconds: float = 60.0,
    rows: bool = True,
) -> Evidence:
    r"""The evidence log p(X), and the gap that a posterior q leaves below it.

    .. math:: \log p(x) = L(\theta, q) + KL(q \,\|\, p(z \mid x))

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; NaN where a cell is missing. Where the posterior is
            exact or a rule's, also rows out of memory: ``minorant.chunks(...)``, a memory map, or a
            path or pattern of files, where weights, groups and inputs name columns.
        posterior: None for the exact posterior, with which the bound is an equality; or any q over
            the components, a :class:`Categorical` (k, n) or probabilities (n, k).
        weights: (n,) row weights in the totals; None for ones. The ``rows_`` arrays are unweighted.
        groups: (n,) the sequence or cluster of each row, for models of groups.
        inputs: (n, m) covariates, for models that condition on them.
        upper: for continuous latents, a true lower bound and an upper end: every row of a model of
            your own is annealed from its q to its posterior and back; a latent trait or mixed
            model's rule gives draws that are weighed by importance.
        accuracy: with ``upper``, the mean width of a row's bracket at which to stop, in nats.
        seed: with ``upper``, of its random numbers.
        seconds: with ``upper``, wall time after which no further try is begun.
        rows: False for the totals alone, the ``rows_`` arrays empty: chunks are then summed in
            memory that does not grow with their number.

    Returns:
        The bracket with verdict, in nats. ``gap`` is the weighted sum of each row's KL, which is
        computed by itself and not as a difference.

    Raises:
        ValueError: for a table, weights or a q that do not fit.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> fit.evidence(rows).gap
        0.0
        >>> halves = fit.evidence(rows, posterior=np.full((40, 2), 0.5))
        >>> bool(np.isclose(halves.lower + halves.gap, halves.estimate)), halves.gap > 0
        (True, True)

    Neal & Hinton (1998), "A view of the EM algorithm that justifies incremental, sparse, and other
    variants", equation 8.
    """
    if posterior is None and _is_sum(fit, upper):
        return _summed(fit, each_scored(fit, X, weights, groups, inputs), rows)
    if not rows:
        raise ValueError("rows=False is for an exact posterior or a rule's: leave it out here.")
    scored = arranged(fit, X, weights, groups, inputs)
    if fit.model.integrates_parameters():
        _refuse_posterior(posterior)
        return importlib.import_module("minorant.evidence.parameters").integrated_evidence(
            fit, scored
        )
    if upper and posterior is None and not fit.model.is_exact():
        return _annealed(fit, scored, accuracy, seed, seconds)
    if posterior is None and fit.model.is_bounded():
        return importlib.import_module("minorant.evidence.importance").bounded_evidence(fit, scored)
    if not isinstance(fit.model, AbstractDiscreteModel) or fit.model.is_grouped():
        raise TypeError(
            f"log p = L + KL for a q of your own is computed for models of independent rows with a "
            f"finite latent, such as minorant.Mixture; got {type(fit.model).__name__}."
        )
    log_q = _log_probabilities(posterior, len(scored.table.values), fit.model.n_components)
    blocks = _in_blocks(log_q.astype(fit.dtype), scored.layout, scored.source)
    lower, gap, exact = mapped(fit, scored, _decomposed, blocks)
    lower, exact = (part.astype(float) - scored.log_scale for part in (lower, exact))
    # Rounding may leave a KL of nothing below zero.
    gap = np.where(gap < 0, 0.0, gap).astype(float)
    return _decomposition(lower, gap, exact, scored, np.dtype(fit.dtype))


def _annealed(fit: Fit, scored: Scored, accuracy: float, seed: int, seconds: float) -> Evidence:
    """Rows annealed from the Gaussians of their bound, or weighed from the nodes of a rule."""
    model = fit.standardised
    by_rule = isinstance(model, AbstractIntegratedModel)
    if not by_rule and not (isinstance(model, Model) and model.is_smooth()):
        raise TypeError(
            f"upper= is for continuous latents; {type(model).__name__} has none. Leave upper out."
        )
    for name, value in (("accuracy", accuracy), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}.")
    if by_rule:
        module = importlib.import_module("minorant.evidence.rule_weights")
        return module.weighed_evidence(fit, scored, accuracy, seed, seconds)
    module = importlib.import_module("minorant.evidence.row_annealing")
    if not model.is_bounded():
        fit = fit._replace(standardised=model.bounded())
    return module.annealed_evidence(fit, scored, accuracy, seed, seconds)


def _refuse_posterior(posterior: Any) -> None:
    if posterior is not None:
        raise TypeError(
            "posterior cannot be chosen where parameters are integrated out: the bound holds the "
            "best q of the components. Leave posterior out."
        )


def _is_sum(fit: Fit, upper: bool) -> bool:
    """Whether the evidence is a sum of what each row gives: log p(x) itself, or by a rule."""
    model = fit.model
    if model.integrates_parameters():
        return False
    return model.is_exact() or not (upper or model.is_bounded())


class _Told(NamedTuple):
    """``log p(x)`` of some rows, and the error of the rule; totals by weight."""

    estimate: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    total: float
    total_error: float


def _told(fit: Fit, scored: Scored) -> _Told:
    rows, weights = rows_log_evidence(fit, scored), scored.table.weights
    if fit.model.is_exact():
        return _Told(rows, np.zeros_like(rows), _total(rows, weights), 0.0)
    finer = fit._replace(standardised=fit.standardised.refined())
    fine = rows_log_evidence(finer, scored)
    error = np.abs(fine - rows)
    return _Told(fine, error, _total(fine, weights), _total(error, weights))


def _summed(fit: Fit, tables: Iterator[Scored], keep: bool) -> Evidence:
    """The evidence of all tables; of a rule by its double, what changes is the rule's error."""
    total, total_error, worst, bad, first = 0.0, 0.0, 0.0, np.empty(0, np.int64), 0
    kept: list[_Told] = []
    for scored in tables:
        told = _told(fit, scored)
        total, total_error = total + told.total, total_error + told.total_error
        worst = np.maximum(worst, told.error.max())
        if len(bad) <= _SHOWN:
            bad = np.append(bad, first + np.flatnonzero(~np.isfinite(told.estimate)))
        first += len(told.estimate)
        kept += [told] if keep else []
    lower, estimate, upper, gap = _rows_of(kept, fit.model.is_exact())
    verdict = _EXACT if fit.model.is_exact() else _moved(float(worst), total_error)
    return Evidence(
        lower=total - total_error,
        estimate=total,
        upper=total + total_error,
        gap=2 * total_error,
        standard_error=0.0,
        rows_lower=lower,
        rows_estimate=estimate,
        rows_upper=upper,
        rows_gap=gap,
        reliability=None,
        verdict=_not_finite(bad) if len(bad) else verdict,
    )


def _rows_of(kept: list[_Told], exact: bool) -> tuple[np.ndarray, ...]:
    """Ends, estimate and gap of every row; what is equal is held in memory once."""
    if not kept:
        return (np.empty(0),) * 4
    estimate = joined([told.estimate for told in kept])
    if exact:
        return estimate, estimate, estimate, np.zeros_like(estimate)
    error = joined([told.error for told in kept])
    return estimate - error, estimate, estimate + error, 2 * error


def _moved(worst: float, total: float) -> str:
    return (
        "log p(x) is integrated by quadrature: an estimate, whose ends are no bounds. Doubling the "
        f"rule moves it by at most {worst:.1e} nats in a row, {total:.1e} in all. "
        f"{_QUADRATURE[worst > _SMALL_ERROR]}"
    )


def _decomposition(
    lower: np.ndarray, gap: np.ndarray, exact: np.ndarray, scored: Scored, dtype: np.dtype
) -> Evidence:
    weights = scored.table.weights
    totals = [_total(rows, weights) for rows in (lower, exact, gap)]
    verdict = _verdict(lower, gap, exact, weights, dtype)
    return Evidence(
        lower=totals[0],
        estimate=totals[1],
        upper=totals[1],
        gap=totals[2],
        standard_error=0.0,
        rows_lower=lower,
        rows_estimate=exact,
        rows_upper=exact,
        rows_gap=gap,
        reliability=None,
        verdict=verdict,
    )


def _verdict(
    lower: np.ndarray,
    gap: np.ndarray,
    exact: np.ndarray,
    weights: np.ndarray | None,
    dtype: np.dtype,
) -> str:
    """What the numbers say, which rows are worst, and what to do."""
    bad = np.flatnonzero(~np.isfinite(exact))
    if len(bad):
        return _not_finite(bad)
    impossible = np.flatnonzero(~np.isfinite(gap))
    if len(impossible):
        return (
            f"q gives weight to components that rows {_rows(impossible)} cannot come from: the "
            "bound is -inf there. Use the exact posterior, fit.posterior(X)."
        )
    off = np.abs(exact - lower - gap)
    allowed = _ROUNDING * np.finfo(dtype).eps * (1.0 + np.abs(exact) + np.abs(lower) + gap)
    if np.any(off > allowed):
        return (
            f"log p = L + KL is off by {off.max():.1e} nats in row {int(np.argmax(off))}: the "
            "numerics lost digits there. Fit in float64, or rescale the columns."
        )
    return _gap_sentence(gap, np.ones(len(gap)) if weights is None else weights, off, allowed)


def _gap_sentence(
    gap: np.ndarray, weights: np.ndarray, off: np.ndarray, allowed: np.ndarray
) -> str:
    held = f"log p = L + KL holds to {off.max():.1e} nats in every row."
    if np.all(gap <= allowed):
        return f"q is the exact posterior to rounding: no gap to close; {held}"
    share = weights * gap
    worst = np.argsort(-share, kind="stable")[:_SHOWN]
    worst = worst[share[worst] > 0]
    listed = ", ".join(f"{int(row)} ({gap[row]:.3g})" for row in worst)
    part = share[worst].sum() / max(share.sum(), np.finfo(float).tiny)
    mean = share.sum() / weights.sum()
    size = "small" if mean <= _SMALL_GAP else "large"
    return (
        f"The gap is {size}, {mean:.3g} nats per row; worst rows (gap in nats): {listed}, together "
        f"{part:.0%} of it. Replace q there by the exact posterior, fit.posterior(X), which closes "
        f"the gap; {held}"
    )


def _not_finite(rows: np.ndarray) -> str:
    return (
        f"log p(x) is not finite in rows {_rows(rows)}: no bound can be trusted there. Look at "
        "these rows for values the model cannot produce, and at fit.outcome."
    )


def _rows(index: np.ndarray) -> str:
    return ", ".join(map(str, index[:_SHOWN])) + (", ..." if len(index) > _SHOWN else "")


def _total(rows: np.ndarray, weights: np.ndarray | None) -> float:
    if weights is None:
        return float(rows.sum())
    counted = weights > 0
    return float((rows[counted] * weights[counted]).sum())


def _log_probabilities(q: Any, n: int, k: int) -> Float[np.ndarray, "n k"]:
    """Normalised log q, from a Categorical (k, n) or probabilities (n, k)."""
    if isinstance(q, Categorical):
        log_q = np.asarray(q.log_probability, dtype=float).T
        probability = np.exp(log_q)
    else:
        probability = _numbers(q)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.log(probability)
    if probability.shape != (n, k):
        given = probability.shape[:: -1 if isinstance(q, Categorical) else 1]
        raise ValueError(
            f"posterior must hold {k} probabilities for each of {n} rows: shape ({n}, {k}) as an "
            f"array, ({k}, {n}) in a Categorical; got {given}."
        )
    total = probability.sum(1, keepdims=True)
    bad = ~((probability >= 0).all(1) & (np.abs(total[:, 0] - 1.0) <= _SUM_TOLERANCE))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"posterior must hold probabilities that sum to 1 in every row; row {row} holds "
            f"{probability[row].tolist()}. Divide each row by its sum."
        )
    return log_q - np.log(total)


def _numbers(q: Any) -> np.ndarray:
    try:
        return np.asarray(q, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(
            "posterior must be a Categorical or an (n, k) array of probabilities; got "
            f"{type(q).__name__}."
        ) from None


def _in_blocks(
    log_q: Float[np.ndarray, "n k"], layout: Layout, source: ArraySource
) -> tuple[np.ndarray, ...]:
    """The q of each block, in logarithms: (blocks, k, rows) for every segment."""
    return tuple(
        # Padding takes any row's q: its answers are left out.
        np.swapaxes(log_q[slots].reshape(*segment.rows.weight.shape, -1), 1, 2)
        for slots, segment in zip(layout.slots, source.segments, strict=True)
    )


@jax.jit
def _decomposed(
    model: AbstractTractableModel, source: ArraySource, log_q: tuple[Array, ...]
) -> tuple[tuple[Array, Array, Array], ...]:
    """(L, KL, log p) per row."""
    prepared = model.prepare()

    def terms(block: tuple[Rows, Array]) -> tuple[Array, Array, Array]:
        rows, q = block[0], Categorical(block[1])
        lower = Elbo().per_row(model, q, rows)
        gap = _divergence(q, model.posterior(rows, prepared))
        return lower, gap, model.log_evidence(rows, prepared)

    pairs = zip(source.segments, log_q, strict=True)
    return tuple(_flat(jax.lax.map(terms, (segment.rows, q))) for segment, q in pairs)


def _divergence(q: Categorical, exact: Any) -> Float[Array, " n"]:
    """``KL(q || exact) = sum_k q (log q - log r)``, 0 log 0 = 0."""
    possible = q.log_probability > -np.inf
    log_q = jnp.where(possible, q.log_probability, 0.0)
    log_r = jnp.where(possible, exact.log_probability, 0.0)
    return jnp.where(possible, jnp.exp(log_q) * (log_q - log_r), 0.0).sum(0)


def _flat(results: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.reshape(-1), results)
