"""The table of models of sequences that ``tests/laws/test_sequence_laws.py`` runs over.

To test a new one, add a row to ``SEQUENCES``. Its truth is in plain NumPy, never through the code
under test. Makers take a seeded NumPy generator and give float64 NumPy leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import truth_kalman
import truth_moves
from cases import COMPONENTS

from minorant.components import Diagonal, Full
from minorant.models import AnyTransition, HiddenMarkov, LeftRight, StateSpace, TransitionLogits


class SequenceCase(NamedTuple):
    """One model of sequences.

    Attributes:
        make: rng -> the model with all parameters.
        rows: (rng, n) -> rows (n, d) that it may have made.
        log_evidence: (model, rows (n, d), inputs (n, m)) -> the truth for one sequence.
        n_inputs: how many inputs it takes.
    """

    make: Callable[[np.random.Generator], Any]
    rows: Callable[[np.random.Generator, int], np.ndarray]
    log_evidence: Callable[[Any, np.ndarray, np.ndarray], float]
    n_inputs: int = 0


def chain_case(name: str, structure: Any = None, n_inputs: int = 0, **options: Any) -> SequenceCase:
    """A hidden Markov model of three states, its emissions a component of the table."""
    case = COMPONENTS[name]
    structure = AnyTransition() if structure is None else structure
    allowed, begins = structure.allowed(3), structure.begins(3)

    def make(rng: np.random.Generator) -> HiddenMarkov:
        initial, transition = rng.dirichlet(np.ones(3)) * begins, rng.dirichlet(np.ones(3), 3)
        transition: Any = transition * allowed / (transition * allowed).sum(1, keepdims=True)
        if n_inputs:
            free = allowed & ~np.eye(3, dtype=bool)
            logits = rng.normal(size=(3, 3, n_inputs + 1)) * free[..., None]
            transition = TransitionLogits(n_inputs, logits)
        initial = None if options.get("stationary") else initial / initial.sum()
        own = case.make(rng, 3, case.columns)
        return HiddenMarkov(
            own, initial, transition, structure=structure, n_components=3, **options
        )

    def log_evidence(model: Any, rows: np.ndarray, inputs: np.ndarray) -> float:
        scores = np.array(
            [[np.nansum(case.log_prob(model.component, j, x)) for x in rows] for j in range(3)]
        )
        moves = np.broadcast_to(model.transition, (len(rows), 3, 3)) if not n_inputs else None
        if moves is None:
            moves = truth_moves.probabilities(model.transition.coefficients, inputs, allowed)
        initial = model.initial
        if initial is None or options.get("stationary"):
            initial = np.linalg.matrix_power(model.transition, 4096)[0]
        start = np.arange(len(rows)) == 0
        return float(truth_moves.smoother(initial, moves, scores, start)[2].sum())

    def rows(rng: np.random.Generator, n: int) -> np.ndarray:
        component = case.make(np.random.default_rng(0), 3, case.columns)
        return case.simulate(rng, component, rng.integers(3, size=n))

    return SequenceCase(make, rows, log_evidence, n_inputs)


def state_space_case(n_inputs: int = 0, full: bool = False) -> SequenceCase:
    """A linear Gaussian state space model with two states and two columns, nothing held."""

    def law(rng: np.random.Generator) -> Any:
        return truth_kalman.random_law(rng, 2, 2, n_inputs, full)

    def make(rng: np.random.Generator) -> StateSpace:
        own = law(rng)
        structure = Full() if full else Diagonal()
        noise = own.R if full else np.diag(own.R)
        return StateSpace(
            own.A, own.B, own.b, own.Q, own.C, own.D, own.c, noise, own.m, own.P,
            observation_structure=structure, held=(), floor=np.full(2, 1e-9),
            state_floor=np.full(2, 1e-9),
        )  # fmt: skip

    def log_evidence(model: Any, rows: np.ndarray, inputs: np.ndarray) -> float:
        names = ("transition", "transition_inputs", "transition_offset", "transition_covariance",
                 "observation", "observation_inputs", "observation_offset",
                 "observation_covariance", "initial_mean", "initial_covariance")  # fmt: skip
        A, B, b, Q, C, D, c, R, m, P = (getattr(model, name) for name in names)
        own = truth_kalman.Law(
            A=A, B=B, b=b, Q=Q, C=C, D=D, c=c, R=R if full else np.diag(R), m=m, P=P
        )
        first = np.arange(len(rows)) == 0
        return float(truth_kalman.dense(own, rows, first, inputs).log_evidence)

    return SequenceCase(make, lambda rng, n: rng.normal(size=(n, 2)), log_evidence, n_inputs)


SEQUENCES: dict[str, SequenceCase] = {
    "chain-gaussian": chain_case("gaussian-full"),
    "chain-stationary": chain_case("poisson", stationary=True),
    "chain-left-right": chain_case("poisson", LeftRight()),
    "chain-inputs": chain_case("gaussian-diagonal", n_inputs=2),
    "state-space": state_space_case(),
    "state-space-inputs": state_space_case(1, full=True),
}
