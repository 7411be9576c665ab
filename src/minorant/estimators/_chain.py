"""What the hidden Markov estimators share: from hmmlearn's arguments to a climb, and its answers.

A subclass says which emissions its arguments mean (`_component`), which of its attributes hold them
(`_EMISSIONS`), and what a fit fills in (`_publish_emissions`). Attributes that are assigned by hand
count, before and after `fit`, as they do in hmmlearn. JAX is imported when it is needed, never
before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators._base import Estimator
from minorant.estimators._chain_answers import Monitor, dirichlet, fit_of, simulated
from minorant.estimators._chain_options import CHAIN_OPTIONS
from minorant.estimators._climb import climbed, seed_of, warning_of
from minorant.estimators._mixture import _KINDS
from minorant.estimators._series import AnySeries, SeriesInChunks, as_series, learned
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import OPTIONS, Option

if TYPE_CHECKING:
    from minorant.evidence import StateForecast
    from minorant.models import HiddenMarkov
    from minorant.result import Fit

_CHAIN = {"s": "startprob_", "t": "transmat_"}


class ChainEstimator(Estimator):
    """The base of `GaussianHMM`, `PoissonHMM` and `CategoricalHMM`."""

    _options: ClassVar[Mapping[str, Option]] = {**OPTIONS, **CHAIN_OPTIONS}
    _EMISSIONS: ClassVar[Mapping[str, str]] = {}
    _leaves: ClassVar[Mapping[str, str]] = {}
    _takes_chunks: ClassVar[bool] = True

    n_components: int
    startprob_prior: Any
    transmat_prior: Any
    algorithm: str
    random_state: Any
    n_iter: int
    tol: float
    verbose: Any
    params: str
    init_params: str
    implementation: str
    n_init: int | str
    structure: Any
    stationary: bool

    fit_: Fit
    monitor_: Monitor
    startprob_: Float[np.ndarray, " k"]
    transmat_: Float[np.ndarray, "k k"]

    def _component(self, given: Mapping[str, Any], fitting: bool) -> Any:
        """Return the emissions, with the parameters given by hmmlearn's letters."""
        raise TypeError(f"{type(self).__name__} must say which emissions it has.")

    def _publish_emissions(self, component: Any) -> None:
        """Set the attributes of the emissions."""
        raise TypeError(f"{type(self).__name__} must say which attributes it has.")

    # Fitting

    def fit(
        self,
        X: Rows,
        lengths: Values = None,
        sample_weight: Values = None,
        labels: Values = None,
        checkpoint: Any = None,
        **sequences: Values,
    ) -> Self:
        """Climb to a maximum of the log-likelihood (plus log prior, where there is one).

        Args:
            X: (n, d) rows of all sequences, one sequence after the other, each in its order of
                time; NaN where a cell is missing, also in whole rows. Or rows out of memory:
                `minorant.chunks(...)`, or a path, folder or pattern of files, where
                `sample_weight`, `labels`, `groups` and `inputs` are names of columns.
            lengths: rows of each sequence; None: one sequence.
            sample_weight: (n,) weights, the same in all rows of a sequence.
            labels: (n,) known states 0 .. k - 1, or -1, NaN, None where unknown.
            checkpoint: A directory, or a `minorant.Checkpoint`: the climb is kept there, and goes
                on from there when the same fit is called again after an interrupt or a crash.
            sequences: `groups` (n,), the sequence of each row, instead of lengths; `times` (n,),
                whole steps that grow inside a sequence, those left out being missing steps;
                `inputs` (n, m), covariates by which moves between states are made (a multinomial
                logit, `transmat_coef_`): then every question about rows takes `inputs` too.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, sequences or options cannot be used; says what and where.
            OSError: The checkpoint or the files cannot be read or written.
        """
        sequences = {"lengths": lengths, **sequences}
        series, beside = learned(self, X, sample_weight, labels, sequences)
        answer = self._climb(series, beside, checkpoint)
        self._publish(answer, series)
        sentence = warning_of(answer).replace("max_iter", "n_iter")
        if answer.outcome.name == "NON_FINITE" and answer.degenerate:
            sentence = str(answer.degenerate[0])
        if sentence:
            self._warn(sentence)
        return self

    def _climb(self, series: AnySeries, beside: Mapping[str, Any], checkpoint: Any) -> Fit:
        from minorant.solvers import EM

        kept = {c: getattr(self, name, None) for c, name in self._letters().items()}
        given = {c: None if c in self.init_params else value for c, value in kept.items()}
        return climbed(
            self,
            lambda: self._model(given, True, series.n_inputs()),
            series.data(self._named),
            checkpoint,
            **beside,
            fixed=self._held(given),
            solver=EM(tolerance=self.tol),
            starts=self._starts(),
            max_steps=self.n_iter + 1,  # the first looks at the start: n_iter M-steps, as hmmlearn
        )

    def _letters(self) -> dict[str, str]:
        return {**_CHAIN, **self._EMISSIONS}

    def _starts(self) -> Any:
        from minorant.solvers.starts import Starts

        n = Starts().n if self.n_init == "auto" else int(self.n_init)
        return Starts(n=n, kinds=Starts().kinds if n > 1 else (_KINDS["kmeans"],))

    def _model(self, given: Mapping[str, Any], fitting: bool, n_inputs: int = 0) -> HiddenMarkov:
        """Return the model; what is neither given nor to be learned is even."""
        from minorant.models import AnyTransition, HiddenMarkov, TransitionLogits

        k = self.n_components
        initial, transition = given.get("s"), given.get("t")
        structure = self.structure or AnyTransition()
        if initial is None and "s" not in self.params and not self.stationary:
            initial = structure.begins(k) / structure.begins(k).sum()
        if transition is None and "t" not in self.params:
            allowed = structure.allowed(k)
            transition = allowed / allowed.sum(1, keepdims=True)
        moves = floats(transition)
        if n_inputs:
            self._check_moves(given)
            moves = TransitionLogits(n_inputs)
        return HiddenMarkov(
            self._component(given, fitting),
            floats(initial),
            moves,
            structure=structure,
            initial_prior=dirichlet("startprob_prior", self.startprob_prior, (k,)),
            transition_prior=dirichlet("transmat_prior", self.transmat_prior, (k, k)),
            stationary=self.stationary,
            n_components=k,
        )

    def _check_moves(self, given: Mapping[str, Any]) -> None:
        """Refuse a transition that is not to be learned beside inputs that it depends on."""
        if given.get("t") is not None or "t" not in self.params:
            raise ValueError(
                "inputs make the transition depend on each step, so transmat_ can be neither given "
                "nor held: leave 't' in params and init_params, or leave inputs out."
            )

    def _held(self, given: Mapping[str, Any]) -> Any:
        """Return what keeps its value, as `minorant.fit` takes it."""
        held = [c for c in self._letters() if c not in self.params]
        missing = [c for c in held if c not in _CHAIN and given.get(c) is None]
        if missing:
            name = self._EMISSIONS[missing[0]]
            raise ValueError(
                f"params leaves out {missing[0]!r}, so {name} is to keep its value: assign it, and "
                f"leave {missing[0]!r} out of init_params too."
            )
        held = [c for c in held if not (c == "s" and self.stationary)]
        return (lambda model: tuple(self._leaf(model, c) for c in held)) if held else None

    def _leaf(self, model: HiddenMarkov, letter: str) -> Any:
        """Return the parameter that a letter stands for."""
        if letter in _CHAIN:
            return model.initial if letter == "s" else model.transition
        return getattr(model.component, self._leaves[letter])

    def _publish_moves(self, transition: Any, series: AnySeries) -> None:
        from minorant.models import TransitionLogits

        if not isinstance(transition, TransitionLogits):
            self.transmat_ = np.asarray(transition, dtype=float)
            return
        self.transmat_coef_ = np.asarray(transition.coefficients, dtype=float)
        typical: Any = series.mean_inputs()
        self.transmat_ = transition.probabilities(typical[None])[0]

    def _publish(self, answer: Fit, series: AnySeries) -> None:
        self.startprob_ = np.asarray(answer.model.initial, dtype=float)
        self._publish_moves(answer.model.transition, series)
        self._publish_emissions(answer.model.component)
        self.fit_ = answer
        self.monitor_ = Monitor(
            self.tol,
            self.n_iter,
            min(max(answer.acceleration.steps - 1, 1), self.n_iter),
            answer.trace.bound.tolist(),
            answer.outcome.ok,
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there are parameters: from `fit`, or assigned."""
        return all(getattr(self, name, None) is not None for name in self._letters().values())

    def _current(self) -> Fit:
        """Return the fit, or what one would be whose parameters are the attributes."""
        self._check_fitted()
        values = {c: np.asarray(getattr(self, name)) for c, name in self._letters().items()}
        answer, known = getattr(self, "fit_", None), getattr(self, "_known", None)
        if answer is not None and known is None:
            return answer
        return fit_of(self._model(values, fitting=False), self._n_columns(), answer)

    def _n_columns(self) -> int:
        raise TypeError(f"{type(self).__name__} must say how many columns it has.")

    def __setattr__(self, name: str, value: Any) -> None:
        """Note that a parameter was assigned by hand."""
        super().__setattr__(name, value)
        if name in self._letters().values():
            super().__setattr__("_known", name)
        elif name == "fit_":
            super().__setattr__("_known", None)

    # Answers

    def _rows(self, X: Rows) -> np.ndarray:
        """Return new rows, checked against those of `fit`, or against the parameters."""
        self._check_fitted()
        if not hasattr(self, "n_features_in_"):
            self.n_features_in_ = self._n_columns()
        return self._read(X)

    def _ask(self, question: str, X: Rows, lengths: Values, sequences: Any, *more: Any) -> Any:
        """Return the answer of a function of `minorant.evidence`, and which rows were given."""
        from minorant import evidence

        fit, series = self._current(), self._series(X, {"lengths": lengths, **sequences})
        about = series.data(self._named)
        found = getattr(evidence, question)(fit, about, *more, **series.beside())
        return found, series.kept

    def _series(self, X: Rows, sequences: Mapping[str, Any]) -> AnySeries:
        """Return new rows as sequences."""
        chunks = self._opened(X, **sequences)
        if chunks is not None:
            return SeriesInChunks(chunks)
        return as_series(self._rows(X), **sequences)

    def score(self, X: Rows, lengths: Values = None, **sequences: Values) -> float:
        """Return ``log p(X)``, summed over all sequences, in nats (hmmlearn's score, no mean)."""
        return float(self._ask("log_evidence", X, lengths, sequences)[0].sum())

    def score_samples(
        self, X: Rows, lengths: Values = None, **sequences: Values
    ) -> tuple[float, Float[np.ndarray, "n k"]]:
        """Return ``log p(X)`` and ``p(z_t | x)`` of every row."""
        log_probability = self.score(X, lengths, **sequences)
        return log_probability, self.predict_proba(X, lengths, **sequences)

    def predict_proba(
        self, X: Rows, lengths: Values = None, **sequences: Values
    ) -> Float[np.ndarray, "n k"]:
        """Return ``p(z_t | x)`` of every row, given all rows of its sequence."""
        found, kept = self._ask("posterior", X, lengths, sequences)
        return np.exp(np.asarray(found.log_probability, dtype=float).T)[kept]

    def filter(
        self, X: Rows, lengths: Values = None, **sequences: Values
    ) -> Float[np.ndarray, "n k"]:
        """Return ``p(z_t | x_1 .. x_t)`` of every row, given the rows so far."""
        found, kept = self._ask("filtered", X, lengths, sequences)
        return np.exp(np.asarray(found.log_probability, dtype=float).T)[kept]

    def decode(
        self, X: Rows, lengths: Values = None, algorithm: str | None = None, **sequences: Values
    ) -> tuple[float, Int[np.ndarray, " n"]]:
        """Return states and their log probability.

        Args:
            X: (n, d) rows.
            lengths: rows of each sequence; None: one sequence.
            algorithm: "viterbi", the most probable path, with ``log p(x, z)``; "map", each row's
                most probable state, with the sum of these probabilities (as hmmlearn has it);
                None: what the constructor says.
            sequences: as for `fit`.
        """
        chosen = algorithm or self.algorithm
        if chosen not in {"viterbi", "map"}:
            raise ValueError(f"algorithm must be 'viterbi' or 'map'; got {chosen!r}.")
        if chosen == "map":
            chances = self.predict_proba(X, lengths, **sequences)
            return float(chances.max(1).sum()), np.argmax(chances, axis=1)
        states, kept = self._ask("path", X, lengths, sequences)
        joint, _ = self._ask("log_joint", X, lengths, sequences, states)
        return float(joint.sum()), states[kept].astype(int)

    def predict(
        self, X: Rows, lengths: Values = None, **sequences: Values
    ) -> Int[np.ndarray, " n"]:
        """Return states by the constructor's algorithm; see `decode`."""
        return self.decode(X, lengths, **sequences)[1]

    def impute(
        self, X: Rows, lengths: Values = None, draw: bool = False, **sequences: Values
    ) -> Float[np.ndarray, "n d"]:
        """Return the rows with missing cells filled by their mean given all rows, or by a draw."""
        seed = seed_of(self.random_state)
        found, kept = self._ask("impute", X, lengths, sequences, draw, seed)
        return found[kept]

    def forecast(
        self,
        X: Rows,
        n_steps: int = 1,
        lengths: Values = None,
        level: float = 0.95,
        future_inputs: Values = None,
        **sequences: Values,
    ) -> StateForecast:
        """Return states, means and an interval of the steps after each sequence.

        See `minorant.evidence.forecast`.
        """
        from minorant import evidence

        fit, series = self._current(), as_series(self._rows(X), lengths, **sequences)
        about, seed = self._named(series.rows), seed_of(self.random_state)
        known = {"inputs": series.inputs, "future_inputs": future_inputs}
        return evidence.forecast(
            fit, about, n_steps, series.groups, level, random_state=seed, **known
        )

    def sample(
        self, n_samples: int = 1, random_state: Any = None, currstate: int | None = None
    ) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
        """Return rows and states of one sequence drawn from the model.

        Args:
            n_samples: how many steps.
            random_state: seed; None: the constructor's.
            currstate: the state of the first row; None: drawn.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        seed = seed_of(self.random_state if random_state is None else random_state)
        rows, states = simulated(self._current(), n_samples, seed, currstate)
        return rows.astype(float), states.astype(int)

    def get_stationary_distribution(self) -> Float[np.ndarray, " k"]:
        """Return the distribution over states that the transition leaves as it is."""
        from minorant.models.transitions import stationary_distribution

        self._check_fitted()
        return np.asarray(stationary_distribution(np.asarray(self.transmat_, dtype=float)))

    def aic(self, X: Rows, lengths: Values = None, **sequences: Values) -> float:
        """Return ``-2 log p(X) + 2 p``; smaller is better."""
        deviance = -2.0 * self.score(X, lengths, **sequences)
        return deviance + 2.0 * self._current().n_parameters

    def bic(self, X: Rows, lengths: Values = None, **sequences: Values) -> float:
        """Return ``-2 log p(X) + p log n``; smaller is better."""
        found, kept = self._ask("log_evidence", X, lengths, sequences)
        penalty = self._current().n_parameters * np.log(len(found[kept]))
        return -2.0 * float(found.sum()) + penalty


def floats(value: Any) -> np.ndarray | None:
    """Return an array of floats, or None."""
    return None if value is None else np.asarray(value, dtype=float)
