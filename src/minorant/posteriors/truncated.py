"""The truncated posterior: q over a few components for each row, the others given nothing."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx

from minorant.result import Estimate


class Truncated(eqx.Module):
    r"""A q that gives weight to a few components only, for mixtures of hundreds or thousands.

    With :math:`K_i` the list of components that row i may come from,

    .. math:: q_i(k) \propto w_k\, p(x_i \mid k) \;[k \in K_i], \qquad
              L = \sum_i w_i \log \sum_{k \in K_i} w_k\, p(x_i \mid k) \;\le\; \log p(X)

    EM climbs L with the lists held. Between stretches of steps lists are chosen anew, from each
    row's own and from those that rows near it may come from, where that raises L: so L never falls.
    A row between many components has a longer list, up to twice the mean, than one that lies alone.
    At the end log p(X) is computed once, and ``fit.truncation`` says what was lost.

    Args:
        components: the mean length of lists. More lose less and cost more, in proportion.
        searched: among how many components that rows near it share a row's list is chosen anew;
            None for a rule. More find better lists and cost more.
        measured_rows: rows on which the loss is measured at the end, drawn at random; None for all.

    Raises:
        ValueError: for numbers below 1.

    Example:
        >>> import numpy as np, minorant
        >>> rows = 10 * np.arange(8.0) + np.random.default_rng(0).normal(size=(40, 8))
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=8)
        >>> q = minorant.posteriors.Truncated(components=3)
        >>> fit = minorant.fit(model, rows.reshape(-1, 1), posterior=q)
        >>> bool(fit.truncation.loss.value < 0.01)
        True

    Not for: few components, where lists save little; data with missing cells or known labels.

    Forster & Lücke (2018), "Can clustering scale sublinearly with its clusters? A variational EM
    acceleration of GMMs and k-means", equations 5 to 9; there lists have one length, and are chosen
    in every step.
    """

    components: int = eqx.field(static=True, default=8)
    searched: int | None = eqx.field(static=True, default=None)
    measured_rows: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Raise ValueError for numbers below 1."""
        for name in ("components", "searched", "measured_rows"):
            value, required = getattr(self, name), name == "components"
            if value is None and not required:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                wanted = "an integer of at least 1" + ("" if required else " or None")
                raise ValueError(f"{name} must be {wanted}; got {value!r}.")


class Truncation(NamedTuple):
    """What a truncated E-step (:class:`Truncated`) lost, measured at the end.

    Attributes:
        posterior: what was asked for.
        bound: the truncated bound of the fit, in nats.
        log_evidence: log p(X) at the same parameters by the full E-step; with a standard error
            where it was measured on some rows only.
        n_measured: how many rows those were.
    """

    posterior: Truncated
    bound: float
    log_evidence: Estimate
    n_measured: int

    @property
    def loss(self) -> Estimate:
        """``log p(X) - L``, in nats."""
        return Estimate(self.log_evidence.value - self.bound, self.log_evidence.standard_error)

    def __str__(self) -> str:
        """One sentence."""
        value, error = self.loss
        spread = f" (standard error {error:.3g})" if error else ""
        share = value / max(abs(self.log_evidence.value), 1e-300)
        return (
            f"truncated, rows' posteriors on {self.posterior.components} components in the mean: "
            f"the bound lies {value:.4g} nats{spread} below log p(X), {share:.2%} of it, by the "
            f"full E-step on {self.n_measured} rows at the end"
        )
