"""What is known about log p(x), as a record and a table: bracket, reliability, verdict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minorant._pareto import NEARLY_EQUAL, UNRELIABLE
from minorant.evidence.bracket import Weights
from minorant.result import Estimate, Evidence

AGREED = 1.05
_DISAGREED = 1.1


class Round(NamedTuple):
    """One try at the bracket: how much was spent, and how narrow it became."""

    temperatures: int
    chains: int
    lower: float
    upper: float
    seconds: float


class Certificate(NamedTuple):
    """How the bracket of an annealed evidence came about; all in nats.

    Attributes:
        bound: of q itself, E_q[log p - log q].
        forward: from q to the posterior: in expectation at most log p(x).
        reverse: from the posterior to q: in expectation at least log p(x), where the chains it
            starts from have reached the posterior.
        bridge: the estimate from both.
        hard_limit: holds with probability 0.95, whatever the weights' variance.
        k_hat: of the forward and the reverse weights; above 0.7 their means are not to be relied
            on.
        effective: how many independent posterior draws the forward chains are worth.
        r_hat: of the posterior chains, from q and from far away, the worst number's.
        temperatures: between q and the posterior.
        chains: in each direction.
        rounds: the tries, the last one being reported.
        missed: the share of the posterior in modes that q missed and chains from far away found;
            q was extended by them.
        notes: sentences that belong to the verdict.
        accuracy: the width that was asked for.
        seconds: wall time.
    """

    bound: Estimate
    forward: Estimate
    reverse: Estimate
    bridge: Estimate
    hard_limit: float
    k_hat: tuple[float, float]
    effective: float
    r_hat: float
    temperatures: int
    chains: int
    rounds: tuple[Round, ...]
    missed: float
    notes: tuple[str, ...]
    accuracy: float
    seconds: float

    def table(self, evidence: Evidence) -> str:
        """Bracket and reliability, for people."""
        upper = "upper estimate, reverse chains"
        rows = [
            _line("bound of q", self.bound),
            _line("lower bound, forward chains", self.forward),
            _line("estimate, bridge of both", self.bridge),
            _line(upper, self.reverse),
            f"{'95% limits':32s} {evidence.lower:14.4f} .. {evidence.upper:.4f}",
            f"{'hard lower limit (95%)':32s} {self.hard_limit:14.4f}",
            f"{'k-hat, forward and reverse':32s} {self.k_hat[0]:14.2f}    {self.k_hat[1]:.2f}",
            f"{'R-hat of posterior chains':32s} {self.r_hat:14.3f}",
            f"{'effort':32s} {self.chains:>14d} chains, {self.temperatures} temperature(s), "
            f"worth {self.effective:.0f} draws, {self.seconds:.1f} s",
        ]
        return "\n".join([*rows, evidence.verdict])


def _line(name: str, value: Estimate) -> str:
    number, error = float(value.value), float(value.standard_error)
    return f"{name:32s} {number:14.4f} (se {error:.4f})"


def verdict(
    lower: float,
    upper: float,
    ends: tuple[Weights, Weights],
    r_hat: float,
    certificate: Certificate,
) -> str:
    """Tight, loose, or not to be trusted, with the next step."""
    width, accuracy = upper - lower, certificate.accuracy
    doubts = _doubts(ends, r_hat, certificate)
    found = " ".join(certificate.notes)
    if doubts:
        said = f"Cannot be trusted: {'; '.join(doubts)}. {_remedy(ends, r_hat)}"
    elif width <= accuracy:
        said = f"Tight: log p(x) is known to {width:.2g} nats (asked for: {accuracy:g})."
    else:
        said = (
            f"Loose: the bracket is {width:.2g} nats wide, {accuracy:g} were asked for. Give more "
            "seconds=, or a closer q: fit with posterior='flow' or unknowns that depend less on "
            "each other."
        )
    return f"{said} {found}".strip()


def _doubts(ends: tuple[Weights, Weights], r_hat: float, certificate: Certificate) -> list[str]:
    doubts = []
    # Where one mean is not reliable its end lies too far out, which is safe; of both, the bridge.
    if all(end.reliability > UNRELIABLE and end.spread > NEARLY_EQUAL for end in ends):
        shapes = " and ".join(f"{end.reliability:.2f}" for end in ends)
        doubts.append(f"neither direction's weights have a reliable mean (k-hat {shapes})")
    if not r_hat < _DISAGREED:
        doubts.append(
            f"posterior chains from q and from far away disagree (R-hat {r_hat:.2f}), so the upper "
            "end may be too low or too high"
        )
    low, high = certificate.forward, certificate.reverse
    error = np.hypot(low.standard_error, high.standard_error)
    if low.value > high.value + 4.0 * max(error, 1e-9):
        doubts.append("the forward end lies above the reverse end: chains miss part of p")
    return doubts


def _remedy(ends: tuple[Weights, Weights], r_hat: float) -> str:
    if not r_hat < _DISAGREED:
        return (
            "Give more seconds=, or unknowns that depend less on each other (non-centred, scaled); "
            "look at fit.calibration() for which ones are off."
        )
    del ends
    return "Give more seconds=, or a q closer to the posterior: posterior='flow'."
