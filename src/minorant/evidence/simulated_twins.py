r"""Simulated twins: the certificate where it is rigorous, on data drawn from the fitted model.

A row drawn from the model comes with its latent, which is an exact draw of that row's posterior.
Reverse chains that start there give a true upper end, without any Markov chain having to arrive:

.. math:: z \sim p(z),\; x \sim p(x \mid z) \;\Rightarrow\; z \sim p(z \mid x)

Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte
Carlo", section 4; Grosse, Ancha & Roy (2016), "Measuring the reliability of MCMC inference with
bidirectional Monte Carlo", section 4.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant.evidence.clock import Clock
from minorant.evidence.completion import sample
from minorant.evidence.row_annealing import annealed_rows, told
from minorant.evidence.row_paths import to_free
from minorant.evidence.scoring import arranged
from minorant.models.user import Model
from minorant.result import Estimate, Evidence, Fit

_WIDE = 3.0


class Twins(NamedTuple):
    """A certificate on real rows beside one on rows drawn from the model.

    Attributes:
        real: of the table.
        between: nats a row between the two ends on the table, with its standard error over rows.
        simulated: the same on drawn rows, whose upper end is rigorous.
        sentence: what follows.
    """

    real: Evidence
    between: Estimate
    simulated: Estimate
    sentence: str

    def __str__(self) -> str:
        """Both widths and the sentence."""
        lines = [
            f"{name:32s} {value.value:10.4f} (se {value.standard_error:.4f})"
            for name, value in (
                ("between the ends, real rows", self.between),
                ("between the ends, drawn rows", self.simulated),
            )
        ]
        return "\n".join([str(self.real), *lines, self.sentence])


def twins(
    fit: Fit,
    X: Any,  # noqa: N803
    n: int = 200,
    accuracy: float = 0.05,
    seed: int = 0,
    seconds: float = 60.0,
) -> Twins:
    """The annealed evidence of a table, and of as good a table drawn from the model.

    Args:
        fit: of a ``minorant.Model`` whose latent is continuous.
        X: (m, d) the table.
        n: how many rows to draw.
        accuracy: mean width of a row's bracket at which to stop, in nats.
        seed: of all random numbers.
        seconds: wall time of each of the two.

    Returns:
        Both, and whether the drawn rows cast doubt on the real ones' upper end.

    Raises:
        TypeError: for a model that is not annealed.
        ValueError: for a table that the fit cannot describe.

    Not for: models that fit badly: what is shown on rows drawn from the model holds for real rows
    as far as they look alike.
    """
    model = fit.standardised
    if not isinstance(model, Model) or model.is_exact() or not model.is_smooth():
        raise TypeError("twins are for a minorant.Model whose latent is continuous.")
    if not model.is_bounded():
        model = model.bounded()
    rows, latents = sample(fit, n, seed)
    with _config.precision(np.dtype(np.float64)):
        exact = np.asarray(_free(model, np.asarray(latents, float)))
    bounded = fit._replace(standardised=model)
    tables = [arranged(bounded, table) for table in (X, rows)]
    clock = Clock(seconds)
    mine = annealed_rows(model, tables[0], accuracy, seed, clock)
    drawn = annealed_rows(model, tables[1], accuracy, seed + 1, Clock(seconds), exact)
    real, twin = (_mean(found.reverse - found.forward) for found in (mine, drawn))
    return Twins(told(mine, tables[0], accuracy, clock), real, twin, _sentence(real, twin))


def _mean(values: Float[np.ndarray, " n"]) -> Estimate:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return Estimate(float(values.mean()), float(error))


def _sentence(real: Estimate, drawn: Estimate) -> str:
    """Whether what is not exact on real rows hides something."""
    error = float(np.hypot(real.standard_error, drawn.standard_error))
    if drawn.value - real.value > _WIDE * error:
        return (
            f"On rows drawn from the model the ends lie {drawn.value:.3g} nats a row apart, on "
            f"real rows {real.value:.3g}: posterior chains of real rows do not arrive, and their "
            "upper end is too low by about the difference."
        )
    return (
        f"On rows drawn from the model, where the upper end is rigorous, the ends lie "
        f"{drawn.value:.3g} nats a row apart, no further than on real rows ({real.value:.3g}): "
        "nothing speaks against the upper end."
    )


_free = _config.quick_jit(to_free, "once")
