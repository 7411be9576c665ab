"""`StateSpace`: linear Gaussian state space models of one or several series, with gaps.

JAX is imported when a fit or a prediction needs it, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from minorant.estimators._base import Estimator
from minorant.estimators._climb import climbed, seed_of, warning_of
from minorant.estimators._series import (
    AnySeries,
    Forecast,
    as_series,
    continued,
    learned,
    needed,
)
from minorant.estimators._series_model import GIVEN, OWN_OPTIONS, held_entries, model_of
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import DEFAULTS, N_INIT, OPTIONS, Option, starts_of

if TYPE_CHECKING:
    from minorant.estimators._series_answers import Filtered, States
    from minorant.result import Fit, StandardErrors


class StateSpace(Estimator):
    r"""A linear Gaussian state space model: filter, smoother, forecasts, and learning by EM.

    .. math:: z_t = A z_{t-1} + B u_t + b + N(0, Q), \quad x_t = C z_t + D u_t + c + N(0, R)

    The rows are the steps of one series, or of several (`lengths`, `groups`). Cells and whole
    steps may be missing; they are integrated out exactly. A parameter that is given is held, but
    for its NaN entries, which are learned; what is not given is learned. Where A, C and Q are all
    learned, the states have noise of unit variance and are turned so that ``C' R^-1 C`` is
    diagonal and decreasing. The covariance of the first state is learned from at least two
    sequences for each state, otherwise held at a wide value.

    Args:
        n_states: l; None: as the given matrices say, or 1.
        transition: (l, l), A.
        observation: (d, l), C.
        transition_covariance: (l, l), or (l,) for type "diag", Q.
        observation_covariance: (d,), or (d, d) for type "full", R.
        transition_offset: (l,), b; None: zero.
        observation_offset: (d,), c.
        transition_inputs: (l, m), B.
        observation_inputs: (d, m), D.
        initial_mean: (l,), m.
        initial_covariance: (l, l), P.
        transition_type: "full" or "diag".
        observation_type: "diag" or "full".
        solver: "em" or "quasi-newton".
        acceleration: "squarem", "anderson" or None, for EM.
        tol: nats per row that may be left to gain.
        max_iter: limit on steps.
        n_init: how many starts; "auto": one. The likelihood may have several maxima.
        random_state: seed of the starts and of `sample`.
        verbose: 0: silent.

    Attributes:
        transition_, observation_, ...: every parameter, in the data's units.
        log_likelihood_: ``log p(X)`` of the rows of `fit`, in nats.
        converged_, n_iter_: how the climb ended.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import StateSpace
        >>> rng = np.random.default_rng(0)
        >>> rows = (np.cumsum(rng.normal(size=200)) + rng.normal(size=200))[:, None]
        >>> rows[50:60] = np.nan
        >>> model = StateSpace(transition=[[1.0]], observation=[[1.0]], observation_offset=[0.0])
        >>> ahead = model.fit(rows).forecast(rows, 3)
        >>> ahead.mean.shape, bool(np.all(np.diff(ahead.covariance[:, 0, 0]) > 0))
        ((3, 1), True)

    Not for: states on a few values (`HiddenMarkov`), counts, curved dynamics.

    Durbin & Koopman (2012), "Time series analysis by state space methods", 2nd ed.
    """

    _options: ClassVar[Mapping[str, Option]] = {**OPTIONS, **OWN_OPTIONS, "n_init": N_INIT}
    _takes_chunks: ClassVar[bool] = True

    fit_: Fit
    converged_: bool
    n_iter_: int
    log_likelihood_: float

    def __init__(  # noqa: PLR0913
        self,
        n_states: int | None = None,
        *,
        transition: Values = None,
        observation: Values = None,
        transition_covariance: Values = None,
        observation_covariance: Values = None,
        transition_offset: Values = None,
        observation_offset: Values = None,
        transition_inputs: Values = None,
        observation_inputs: Values = None,
        initial_mean: Values = None,
        initial_covariance: Values = None,
        transition_type: str = "full",
        observation_type: str = "diag",
        solver: str = "em",
        acceleration: str | None = DEFAULTS["acceleration"],
        tol: float = DEFAULTS["tol"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = N_INIT.default,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_states = n_states
        self.transition = transition
        self.observation = observation
        self.transition_covariance = transition_covariance
        self.observation_covariance = observation_covariance
        self.transition_offset = transition_offset
        self.observation_offset = observation_offset
        self.transition_inputs = transition_inputs
        self.observation_inputs = observation_inputs
        self.initial_mean = initial_mean
        self.initial_covariance = initial_covariance
        self.transition_type = transition_type
        self.observation_type = observation_type
        self.solver = solver
        self.acceleration = acceleration
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.verbose = verbose

    def fit(  # noqa: PLR0913
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        lengths: Values = None,
        groups: Values = None,
        times: Values = None,
        inputs: Values = None,
        sample_weight: Values = None,
        checkpoint: Any = None,
    ) -> Self:
        """Climb to a maximum of the likelihood.

        Args:
            X: (n, d) rows in the order of time; NaN where a cell is missing. Or rows out of memory:
                `minorant.chunks(...)`, or a path, folder or pattern of files, where `groups`,
                `inputs` and `sample_weight` are names of columns.
            y: Ignored, as scikit-learn wants it.
            lengths: rows of each sequence, one after the other; None: one sequence.
            groups: (n,) the sequence of each row, instead of `lengths`.
            times: (n,) whole steps that grow inside a sequence; those left out are missing steps.
            inputs: (n, m) covariates u.
            sample_weight: (n,) weights, the same in all rows of a sequence.
            checkpoint: A directory, or a `minorant.Checkpoint`: the climb is kept there, and goes
                on from there when the same fit is called again after an interrupt or a crash.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, sequences or options cannot be used; says what and where.
            OSError: The checkpoint or the files cannot be read or written.
        """
        sequences = {"lengths": lengths, "groups": groups, "times": times, "inputs": inputs}
        series, beside = learned(self, X, sample_weight, None, sequences)
        answer = self._climb(series, beside, checkpoint)
        self._publish(answer)
        sentence = warning_of(answer._replace(degenerate=()))
        if sentence:
            self._warn(sentence)
        return self

    def _climb(self, series: AnySeries, beside: Mapping[str, Any], checkpoint: Any) -> Fit:
        return climbed(
            self,
            lambda: model_of(self, series),
            series.data(self._named),
            checkpoint,
            **beside,
            fixed=held_entries(self),
            solver=self._solver(),
            starts=starts_of(self.n_init),
        )

    def _solver(self) -> Any:
        from minorant.solvers import EM, QuasiNewton, accelerate

        if self.solver == "quasi-newton":
            return QuasiNewton(self.tol)
        name = "plain" if self.acceleration is None else self.acceleration
        return EM(getattr(accelerate, name.capitalize())(), self.tol)

    def _publish(self, answer: Fit) -> None:
        """Copy what the fit found to attributes, states turned to their canonical rotation."""
        from minorant.models._state_space_shapes import canonical_rotation, is_free, rotated

        if is_free(answer.model) and answer.fixed is None:
            turn = canonical_rotation(answer.model)
            answer = answer._replace(
                model=rotated(answer.model, turn), standardised=rotated(answer.standardised, turn)
            )
        for name in GIVEN:
            setattr(self, f"{name}_", np.asarray(getattr(answer.model, name)))
        self.converged_ = answer.outcome.ok
        self.n_iter_ = min(answer.acceleration.steps, self.max_iter)
        self.log_likelihood_ = answer.bound
        self.fit_ = answer

    def _ask(self, ask: Callable, X: Rows, sequences: Mapping[str, Any], **more: Any) -> Any:
        """Return what a question about rows answers, and which rows were given."""
        chunks = self._opened(X, **sequences)
        if chunks is not None:
            return ask(self.fit_, chunks, **more), slice(None)
        series = as_series(self._read(X), **sequences)
        return ask(self.fit_, self._named(series.rows), **series.beside(), **more), series.kept

    # Answers

    def smooth(self, X: Rows, **sequences: Values) -> States:
        """Return the states given all rows of their sequence: means and covariances.

        Args:
            X: (n, d) rows.
            sequences: `lengths`, `groups`, `times` and `inputs`, as `fit` takes them.
        """
        from minorant.estimators._series_answers import States
        from minorant.evidence import posterior

        found, kept = self._ask(posterior, X, sequences)
        return States(found.mean[kept], found.covariance[kept])

    def filter(self, X: Rows, **sequences: Values) -> Filtered:
        """Return the states given the rows before each row (`predicted`) and up to it (`updated`).

        Args:
            X: (n, d) rows.
            sequences: as for `smooth`.
        """
        from minorant.estimators._series_answers import filtered

        found, kept = self._ask(filtered, X, sequences)
        return type(found)(*(type(s)(*(leaf[kept] for leaf in s)) for s in found))

    def forecast(
        self, X: Rows, n_steps: int = 1, future_inputs: Values = None, **sequences: Values
    ) -> Forecast:
        """Return the rows that come after the last row of each sequence.

        Args:
            X: (n, d) rows.
            n_steps: h, how many steps ahead.
            future_inputs: (h, m), or (g, h, m) for g sequences; needed where there are inputs.
            sequences: as for `smooth`.

        Raises:
            ValueError: `n_steps` is below 1, or inputs to come are missing.
        """
        from minorant.estimators._series_answers import States, expected_rows, filtered

        series = as_series(self._read(X), **sequences)
        longer = continued(series, n_steps, future_inputs)
        found = filtered(self.fit_, self._named(longer.rows), **longer.beside())
        states = States(*(leaf[len(series.rows) :] for leaf in found.predicted))
        known = None if longer.inputs is None else longer.inputs[len(series.rows) :]
        mean, covariance = expected_rows(self.fit_.model, states, known)
        n = series.n_sequences()
        shape = (n, n_steps) if n > 1 else (n_steps,)
        d = mean.shape[1]
        return Forecast(mean.reshape(*shape, d), covariance.reshape(*shape, d, d), states)

    def impute(self, X: Rows, draw: bool = False, **sequences: Values) -> np.ndarray:
        """Return the rows with missing cells filled by their mean given all rows, or by a draw.

        Args:
            X: (n, d) rows.
            draw: fill with one draw of the whole path instead.
            sequences: as for `smooth`.
        """
        from minorant.evidence import impute

        seed = seed_of(self.random_state)
        filled, kept = self._ask(impute, X, sequences, draw=draw, random_state=seed)
        return filled[kept].astype(self.fit_.dtype)

    def sample(self, n_steps: int = 1, inputs: Values = None) -> tuple[np.ndarray, np.ndarray]:
        """Return one sequence drawn from the model, and its states.

        Args:
            n_steps: its length.
            inputs: (n_steps, m); needed where there are inputs.

        Raises:
            ValueError: `n_steps` is below 1, or inputs are missing.
        """
        from minorant.estimators._series_answers import simulated

        self._check_fitted()
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1; got {n_steps!r}.")
        seed = np.random.SeedSequence(seed_of(self.random_state)).generate_state(1)[0]
        return simulated(self.fit_, seed, n_steps, needed(inputs, n_steps, self._n_inputs()))

    def score_samples(self, X: Rows, **sequences: Values) -> Float[np.ndarray, " n"]:
        """Return ``log p(x_t | x_1 .. x_t-1)`` of every row, in nats."""
        from minorant.evidence import log_evidence

        found, kept = self._ask(log_evidence, X, sequences)
        return found[kept]

    def score(self, X: Rows, y: Values = None, **sequences: Values) -> float:  # noqa: ARG002
        """Return the mean log density of the rows: the log-likelihood over their number."""
        return float(np.mean(self.score_samples(X, **sequences)))

    def standard_errors(self, X: Rows, robust: bool = False, **sequences: Values) -> StandardErrors:
        """Return how well the parameters are known; see `minorant.evidence.standard_errors`.

        Args:
            X: (n, d) the rows of `fit`.
            robust: the sandwich over sequences, which does not trust the model's form.
            sequences: as for `smooth`.
        """
        from minorant.evidence import standard_errors

        return self._ask(standard_errors, X, sequences, robust=robust)[0]

    def _n_inputs(self) -> int:
        return self.fit_.model.n_inputs
