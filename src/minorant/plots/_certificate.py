"""How well log p(x) is known: the bracket closing, the ladder inside it, gaps of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from minorant.plots._style import FAINT, INK, TICK_SIZE, dress, one
from minorant.result import Evidence
from minorant.target_fit import TargetFit

_BAND, _ENDS, _MIDDLE, _WORST = "#56B4E9", "#0072B2", "#222222", "#D55E00"
_NAMED = 5
_LINEAR = 0.05
_TICKS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)


def bracket(evidence: Evidence, ax: Any = None) -> Any:
    """The 95% limits of log p(x) against the wall time spent, try by try.

    Args:
        evidence: what ``fit.evidence()`` of a target's fit returned.
        ax: matplotlib axes to draw into; None for a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: for evidence that was not annealed.

    Example:
        >>> import numpy as np, minorant
        >>> from jax.scipy import stats
        >>> normal = lambda x: stats.norm.logpdf(x, 2.0, 3.0)
        >>> fit = minorant.fit(minorant.Target(normal, x=minorant.unknowns.real()))
        >>> minorant.plots.bracket(fit.evidence()).get_ylabel()
        'nats from the last estimate'
    """
    rounds, ax = _rounds(evidence), one(ax)
    seconds = np.array([tried.seconds for tried in rounds])
    top = evidence.estimate
    low, high = (np.array([getattr(t, name) for t in rounds]) - top for name in ("lower", "upper"))
    style = {"color": _ENDS, "lw": 1.4, "ms": 6, "mec": "white", "mew": 0.6}
    if len(rounds) > 1:
        ax.fill_between(seconds, low, high, color=_BAND, alpha=0.3, lw=0)
    ax.vlines(seconds, low, high, color=_BAND, lw=3.0)
    ax.plot(seconds, high, "v", label="upper 95% limit", **style)
    ax.plot(seconds, low, "^", label="lower 95% limit", **style)
    ax.axhline(0.0, color=_MIDDLE, lw=1.0, ls="--", label=f"last estimate, {top:.3f}")
    free = -np.inf
    for tried, x, y in zip(rounds, seconds, low, strict=True):
        if x < free:  # no room beside the label before
            continue
        free = x + 0.14 * np.ptp(seconds)
        words = f"{tried.chains} × {tried.temperatures}"
        ax.annotate(words, (x, y), (0, -14), textcoords="offset points", ha="center", color=INK,
                    fontsize=TICK_SIZE - 1)  # fmt: skip
    ax.margins(x=0.12, y=0.25)
    width = evidence.upper - evidence.lower
    title = f"log p(x) is known to {width:.2g} nats after {seconds[-1]:.1f} s"
    dress(ax, title, "seconds (labels: chains × temperatures)", "nats from the last estimate")
    ax.legend(loc="upper right", fontsize=TICK_SIZE, frameon=False)
    return ax


def rungs(fit: TargetFit, evidence: Evidence, ax: Any = None) -> Any:
    """Every rung's bound and importance-weighted estimate, with the bracket behind them.

    Args:
        fit: of a target.
        evidence: what ``fit.evidence()`` returned.
        ax: matplotlib axes to draw into; None for a new figure.

    Returns:
        The axes.

    Example:
        >>> import numpy as np, minorant
        >>> from jax.scipy import stats
        >>> normal = lambda x: stats.norm.logpdf(x, 2.0, 3.0)
        >>> fit = minorant.fit(minorant.Target(normal, x=minorant.unknowns.real()))
        >>> minorant.plots.rungs(fit, fit.evidence()).get_xlabel()
        'nats below the estimate of log p(x)'
    """
    ax = one(ax, height=1.6 + 0.55 * len(fit.rungs))
    places = np.arange(len(fit.rungs))[::-1]
    top = evidence.estimate
    ax.axvspan(evidence.lower - top, evidence.upper - top, color=_BAND, alpha=0.35, lw=0,
               label="95% limits")  # fmt: skip
    ax.axvline(0.0, color=_MIDDLE, lw=1.0, ls="--")
    for name, colour, label in (("bound", _ENDS, "bound"), ("evidence", _WORST, "with weights")):
        found = [getattr(rung, name) for rung in fit.rungs]
        value = np.array([float(number.value) for number in found]) - top
        error = 1.96 * np.array([float(number.standard_error) for number in found])
        value = np.where(np.isfinite(value), value, np.nan)
        ax.errorbar(value, places, xerr=np.where(np.isfinite(error), error, 0.0), fmt="o",
                    color=colour, ms=6, mec="white", mew=0.6, lw=1.4, label=label)  # fmt: skip
    ax.set_yticks(places, [rung.family for rung in fit.rungs])
    ax.margins(y=0.35)
    # Bounds may lie a thousand times as far off as the bracket is wide.
    near = max(_LINEAR, 2.0 * (evidence.upper - evidence.lower))
    ax.set_xscale("symlog", linthresh=near)
    ax.set_xticks([sign * size for size in _TICKS if size > near for sign in (-1, 1)] + [0])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    low = min(float(rung.bound.value) - top for rung in fit.rungs)
    ax.set_xlim(1.6 * min(low, -near), 2.0 * near)
    title = f"The best bound, {fit.rung.family}, lies {evidence.gap:.2g} nats below log p(x)"
    dress(ax, title, "nats below the estimate of log p(x)", "")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=TICK_SIZE, frameon=False)
    return ax


def gaps(evidence: Evidence, ax: Any = None) -> Any:
    """How the gaps of rows are spread, the worst rows named.

    Args:
        evidence: of a table, with a gap for each row.
        ax: matplotlib axes to draw into; None for a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: when there is no gap to show, or only one row.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> halves = fit.evidence(rows, posterior=np.full((40, 2), 0.5))
        >>> minorant.plots.gaps(halves).get_xlabel()
        'gap, nats'
    """
    gap = np.asarray(evidence.rows_gap)
    finite = np.isfinite(gap)
    if finite.sum() < 2 or not (gap[finite] != 0).any():
        raise ValueError("There is no gap to show: every row's bound equals its log p(x).")
    ax = one(ax)
    ax.hist(gap[finite], bins="auto", color=_BAND, edgecolor="white", lw=0.6)
    worst = np.argsort(-np.where(finite, gap, -np.inf), kind="stable")[:_NAMED]
    height = ax.get_ylim()[1]
    for rank, row in enumerate(worst):
        y = height * (0.62 - 0.1 * rank)
        ax.plot([gap[row]] * 2, [0, y], color=_WORST, lw=1.0)
        ax.annotate(f"row {row}", (gap[row], y), (-4, 0), textcoords="offset points", ha="right",
                    va="center", fontsize=TICK_SIZE, color=_WORST)  # fmt: skip
    middle = float(np.median(gap[finite]))
    ax.axvline(middle, color=FAINT, lw=1.2, ls="--")
    share = gap[worst].sum() / gap[finite].sum()
    title = f"Half of the rows have a gap below {middle:.2g} nats; the worst {len(worst)} hold "
    dress(ax, f"{title}{share:.0%} of it all", "gap, nats", "rows")
    return ax


def _rounds(evidence: Evidence) -> tuple[Any, ...]:
    if evidence.certificate is None:
        raise ValueError(
            "This evidence was not annealed, so there is no effort to show: give what "
            "fit.evidence() of a target returns."
        )
    return evidence.certificate.rounds
