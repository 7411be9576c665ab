r"""Linear Gaussian state space models: a hidden vector that moves linearly, seen through noise.

.. math:: z_1 \sim N(m, P), \quad z_t = A z_{t-1} + B u_t + b + N(0, Q), \quad
          x_t = C z_t + D u_t + c + N(0, R)

E-step: the smoother of :mod:`minorant.posteriors.kalman`, exact with any cells missing, whole steps
included. M-step: two regressions (``_state_space_step.py``), with any parameter or entry held.
"""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._parameters import Real, constant, given, parameter, to_vector
from minorant._scatter import scattered
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components.base import of
from minorant.components.covariance import AbstractCovariance
from minorant.components.gaussian import location_scale
from minorant.components.low_rank import Rotatable
from minorant.components.matrix_covariance import Full
from minorant.components.scalar_covariance import Diagonal
from minorant.models import _state_space_look as look
from minorant.models import _state_space_score as score
from minorant.models import _state_space_shapes as shapes
from minorant.models import _state_space_start as start
from minorant.models import _state_space_sums as sums
from minorant.models._state_space_step import Held, first_step, regressed
from minorant.models.base import AbstractContinuousModel, AbstractTractableModel, Expectation
from minorant.posteriors._kalman_filter import Chain, Filtered
from minorant.posteriors._recursion import AbstractRecursion, ByDevice
from minorant.posteriors.kalman import Covariances, GaussianChain, added, nothing


def _unless_held(name: str, structure: str | None = None) -> Any:
    """A field that is learned unless the module holds it."""

    def constraint(model: StateSpace) -> Any:
        if name in given(model.held):
            return None
        if name == "observation" and shapes.is_free(model):
            return Rotatable()
        return Real() if structure is None else getattr(model, structure).constraint()

    return parameter(constraint, default=None)


class StateSpace(AbstractTractableModel, AbstractContinuousModel):
    r"""A linear Gaussian state space model (dynamic linear model, Kalman filter model).

    .. math:: z_t = A z_{t-1} + B u_t + b + N(0, Q), \quad x_t = C z_t + D u_t + c + N(0, R)

    Rows of a group are the steps of one sequence in the order of time. A missing cell is NaN, a
    missing step a row of NaN; unequal spacing is steps in between that are missing.

    States are told apart only up to an invertible change of coordinates. Where A, C and Q are all
    to be learned, Q is held at the identity, which leaves a rotation; :meth:`canonical` gives the
    rotation in which ``C' R^-1 C`` is diagonal and decreasing. ``initial_covariance`` is held
    unless asked for, because one sequence says nothing of it: its likelihood grows as P shrinks.

    Args:
        n_states: l; read off the matrices that are given.
        n_inputs: m, the columns of ``inputs``.
        transition: (l, l), A. What is None is learned; what is given is where the climb starts.
        transition_inputs: (l, m), B.
        transition_offset: (l,), b; 0 and held unless given.
        transition_covariance: (l, l), or (l,) variances for ``Diagonal()``, Q.
        observation: (d, l), C, in the data's units.
        observation_inputs: (d, m), D.
        observation_offset: (d,), c.
        observation_covariance: (d,) variances, or (d, d) for ``Full()``, R, squared units.
        initial_mean: (l,), m.
        initial_covariance: (l, l), P.
        transition_structure: ``Full()`` or ``Diagonal()``.
        observation_structure: ``Diagonal()`` or ``Full()``.
        held: names of the parameters that are never learned; None for the rule above.
        recursion: how sequences are gone through: ``ByDevice()``, ``Sequential()`` or
            ``ParallelScan()`` of :mod:`minorant.posteriors`; the answer is the same.

    Raises:
        ValueError: for shapes that disagree, or names that are not parameters.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.models import StateSpace
        >>> rng = np.random.default_rng(0)
        >>> level = np.cumsum(rng.normal(size=300))
        >>> rows = (level + rng.normal(size=300))[:, None]
        >>> model = StateSpace(transition=[[1.0]], observation=[[1.0]], observation_offset=[0.0],
        ...     initial_covariance=[[1e4]], initial_mean=[0.0],
        ...     held=("transition", "transition_offset", "observation", "observation_offset",
        ...           "initial_mean", "initial_covariance"))
        >>> fit = minorant.fit(model, rows)
        >>> bool(0.5 < fit.model.observation_covariance[0] < 2)
        True

    Not for: states on a few values (``HiddenMarkov``), curved dynamics, counts.

    Durbin & Koopman (2012), "Time series analysis by state space methods", 2nd ed., chapters 2-4;
    Shumway & Stoffer (1982), "An approach to time series smoothing and forecasting using the EM
    algorithm".
    """

    transition: Float[Array, "l l"] | None = _unless_held("transition")
    transition_inputs: Float[Array, "l m"] | None = _unless_held("transition_inputs")
    transition_offset: Float[Array, " l"] | None = _unless_held("transition_offset")
    transition_covariance: Float[Array, "l *l"] | None = _unless_held(
        "transition_covariance", "transition_structure"
    )
    observation: Float[Array, "d l"] | None = _unless_held("observation")
    observation_inputs: Float[Array, "d m"] | None = _unless_held("observation_inputs")
    observation_offset: Float[Array, " d"] | None = _unless_held("observation_offset")
    observation_covariance: Float[Array, "d *d"] | None = _unless_held(
        "observation_covariance", "observation_structure"
    )
    initial_mean: Float[Array, " l"] | None = _unless_held("initial_mean")
    initial_covariance: Float[Array, "l l"] | None = _unless_held(
        "initial_covariance", "matrix_structure"
    )
    transition_structure: AbstractCovariance = Full()
    observation_structure: AbstractCovariance = Diagonal()
    floor: Float[Array, " d"] | None = constant(default=None)
    state_floor: Float[Array, " l"] | None = constant(default=None)
    recursion: AbstractRecursion = constant(default=ByDevice())  # noqa: RUF009
    held: tuple[str, ...] | None = eqx.field(static=True, default=None)
    n_states: int = eqx.field(static=True, default=0)
    n_inputs: int = eqx.field(static=True, default=-1)

    def __post_init__(self) -> None:
        """Sizes read off what is given, and what is held.

        Raises:
            ValueError: for shapes that disagree.
        """
        for name in shapes.PARAMETERS:
            value = getattr(self, name)
            if value is not None and not hasattr(value, "shape"):
                setattr(self, name, np.asarray(value, dtype=float))
        shapes.check(self)
        self.n_states = shapes.size(self, "l", self.n_states)
        self.n_inputs = shapes.size(self, "m", max(self.n_inputs, 0))
        if self.held is None:
            self.held = shapes.held_by_default(self)

    @property
    def matrix_structure(self) -> Full:
        """Of the first state's covariance."""
        return Full()

    # The posterior and the evidence

    def prepare(self) -> look.View:
        """The parameters as matrices."""
        noise = given(self.observation_covariance)
        Q = given(self.transition_covariance)
        chain = Chain(
            given(self.initial_mean),
            given(self.initial_covariance),
            given(self.transition),
            jnp.diag(Q) if Q.ndim == 1 else jnp.asarray(Q),
        )
        return look.View(
            Chain(*map(jnp.asarray, chain)),
            given(self.transition_inputs),
            given(self.transition_offset),
            given(self.observation),
            given(self.observation_inputs),
            given(self.observation_offset),
            noise,
            jnp.sqrt(noise) if noise.ndim == 1 else _factors.cholesky(noise),
            self.recursion,
        )

    def posterior(self, rows: Rows, prepared: look.View) -> GaussianChain:
        """The distribution of the whole path, given all rows of its group."""
        found = look.smooth(rows, prepared, nothing, True)
        kept = given(found.covariances)
        return GaussianChain(found.mean, kept.covariance, kept.transition, kept.root)

    def filtered(self, rows: Rows, prepared: look.View) -> Filtered:
        """Predicted and filtered states: given the rows before, and up to, each row."""
        return look.filter_rows(rows, prepared)

    def log_evidence(self, rows: Rows, prepared: look.View) -> Float[Array, " n"]:
        """``log p(x_t | x_1 .. x_t-1)``, missing cells integrated out."""
        return look.log_densities(prepared, rows)

    def summed_log_evidence(self, rows: Rows, prepared: look.View) -> Float[Array, ""]:
        """The weighted sum of ``log p``; its gradient costs one pass of the smoother."""
        return score.log_evidence(prepared, rows)

    def log_joint(self, rows: Rows, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log p(z_t | z_t-1) + log p(x_t | z_t)`` of every row."""
        return look.log_joint(rows, self.prepare(), latents)

    def log_prior(self) -> Float[Array, ""]:
        """No prior: 0."""
        return jnp.zeros((), given(self.transition).dtype)

    def sample(self, key: Key, n: int) -> tuple[Float[Array, "n l"], Float[Array, "n d"]]:
        """One sequence of n steps, inputs at zero."""
        dtype = given(self.transition).dtype
        unseen = jnp.zeros((n, given(self.observation).shape[0]), bool)
        zeros = jnp.zeros((n, self.n_inputs), dtype) if self.n_inputs else None
        rows = Rows(jnp.zeros(unseen.shape, dtype), jnp.ones(n, dtype), unseen, inputs=zeros)
        return self.simulated(key, rows)

    def simulated(self, key: Key, rows: Rows) -> tuple[Float[Array, "n l"], Float[Array, "n d"]]:
        """States and rows drawn given the observed cells (which come back as they are)."""
        view = self.prepare()
        path_key, noise_key = jax.random.split(key)
        states = self.posterior(rows, view).sample(path_key)
        return states, sums.completed(rows, view, states, noise_key)

    def imputed(self, rows: Rows, prepared: look.View) -> Float[Array, "n d"]:
        """``E[x | x_observed]``: the row itself where observed."""
        states = look.smooth(rows, prepared, nothing, False).mean
        return sums.completed(rows, prepared, states, None)

    def imputed_sample(self, key: Key, rows: Rows, prepared: look.View) -> Float[Array, "n d"]:
        """A draw from ``p(x | x_observed)``."""
        del prepared
        return self.simulated(key, rows)[1]

    # The climb

    def expectation(self, rows: Rows, prepared: look.View) -> Expectation:
        """Evidence and statistics in one pass."""
        return Expectation(*score.expected(prepared, rows))

    def statistics(
        self, rows: Rows, posterior: GaussianChain, prepared: look.View
    ) -> sums.StateSpaceStatistics:
        """The sums that ``maximise`` needs, under any Gaussian chain."""
        kept = Covariances(
            posterior.covariance,
            posterior.transition,
            posterior.transition - prepared.chain.transition,
            posterior.root,
        )
        before = jnp.concatenate([jnp.zeros_like(kept.covariance[:1]), kept.covariance[:-1]])
        total = added(look.observe(rows, prepared), kept, before, sums.collector(prepared, rows))
        return sums.statistics(rows, prepared, posterior.mean, total)

    def maximise(self, statistics: sums.StateSpaceStatistics, fixed: PyTree | None = None) -> Self:
        """Both regressions and the first state's moments, what is held left as it is."""
        l, m = self.n_states, self.n_inputs
        moved, Q = regressed(
            statistics.transition,
            given(self.transition_covariance),
            self._held(fixed, "transition", l),
        )
        seen, R = regressed(
            statistics.observation,
            given(self.observation_covariance),
            self._held(fixed, "observation", given(self.observation).shape[0]),
        )
        first = Held(self._mask(fixed, "initial_mean"), self._mask(fixed, "initial_covariance"))
        mean, P = first_step(
            statistics.first, given(self.initial_mean), given(self.initial_covariance), first
        )
        return self._with(
            transition=given(self.transition) + moved[:, :l],
            transition_inputs=given(self.transition_inputs) + moved[:, l : l + m],
            transition_offset=given(self.transition_offset) + moved[:, l + m],
            transition_covariance=Q,
            observation=given(self.observation) + seen[:, :l],
            observation_inputs=given(self.observation_inputs) + seen[:, l : l + m],
            observation_offset=given(self.observation_offset) + seen[:, l + m],
            observation_covariance=R,
            initial_mean=mean,
            initial_covariance=P,
        )

    def projected(self) -> Self:
        """With the noises that are learned at or above their floors."""
        floors = {"observation_covariance": self.floor}
        floors |= dict.fromkeys(("transition_covariance", "initial_covariance"), self.state_floor)
        raised = {
            name: _floored(given(getattr(self, name)), given(floor))
            for name, floor in floors.items()
            if name not in given(self.held)
        }
        return self._with(**raised)

    def rounding(self, prepared: look.View) -> Float[Array, ""]:
        """A cell's rounding counts in units of its noise."""
        noise = prepared.noise if prepared.independent else jnp.diagonal(prepared.noise)
        return (1.0 / jnp.sqrt(noise)).sum()

    def is_grouped(self) -> bool:
        """Rows of a group are the steps of one sequence."""
        return True

    def allows_empty_rows(self) -> bool:
        """A step at which nothing was observed."""
        return True

    def reason(self) -> str:
        """States are integrated out by the Kalman smoother."""
        return (
            "StateSpace's own exact posterior (normal states in a linear model, by the Kalman "
            "smoother), so the bound equals log p(X)"
        )

    # Units, checks, start

    def configured(self, summary: Summary) -> Self:
        """With the floors, what is held at its default, and absent inputs filled in."""
        return shapes.configured(self, summary)

    def standardiser(self, summary: Summary) -> Affine:
        """Zero mean and unit variance of every column; states keep their units."""
        return location_scale(summary, common=False)

    def rescaled(self, units: Affine) -> Self:
        """Observation parameters and their floor in other units."""
        return shapes.rescaled(self, units)

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Any finite number is in the support; the columns must be those of the matrices."""
        del values
        shapes.check_columns(self, len(names))

    def initial(self, rows: Rows, rng: np.random.Generator) -> Self:
        """The better of two starts, past predicting future and principal components; no draws."""
        del rng
        return start.started(self, rows)

    def perturbed(self, rng: np.random.Generator) -> Self:
        """Moved at random, dynamics as stable as they were."""
        return shapes.as_stable(scattered(self, rng), given(self.transition))

    def invariants(self) -> Float[np.ndarray, " q"]:
        """Free coordinates, in the canonical rotation where states may rotate."""
        model = self.canonical() if shapes.is_free(self) else self
        return np.asarray(to_vector(model), dtype=float)

    def irregular(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Noises on their floor, and dynamics that explode."""
        return shapes.irregular(self, names)

    def canonical(self) -> Self:
        """The same law in the rotation where ``C' R^-1 C`` is diagonal and decreasing.

        Only for a model whose A, C and P are not given; each column of C has the sum of its
        entries over their noise positive.
        """
        return shapes.rotated(self, shapes.canonical_rotation(self))

    # Parts

    def _with(self, **values: Array) -> Self:
        names = tuple(values)
        return eqx.tree_at(
            lambda m: tuple(getattr(m, name) for name in names),
            self,
            tuple(values.values()),
            is_leaf=_is_none,
        )

    def _mask(self, fixed: PyTree | None, name: str) -> Array | None:
        """What is held of one parameter, in its shape; None where nothing is."""
        value = getattr(self, name)
        if name in given(self.held):
            return np.ones(value.shape, bool)
        mask = of(fixed, name)
        return None if mask is None else jnp.broadcast_to(jnp.asarray(mask), value.shape)

    def _held(self, fixed: PyTree | None, equation: str, rows: int) -> Held:
        """The masks of one equation: its three coefficients side by side, and its noise."""
        names = (equation, f"{equation}_inputs", f"{equation}_offset")
        masks = [self._mask(fixed, name) for name in names]
        noise = self._mask(fixed, f"{equation}_covariance")
        if all(mask is None for mask in masks):
            return Held(None, noise)
        widths = (self.n_states, self.n_inputs, 1)
        parts = [
            jnp.zeros((rows, width), bool) if mask is None else jnp.reshape(mask, (rows, width))
            for mask, width in zip(masks, widths, strict=True)
        ]
        return Held(jnp.concatenate(parts, 1), noise)


def _floored(noise: Array, floor: Array) -> Array:
    structure = Diagonal() if noise.ndim == 1 else Full()
    return structure.floored(noise, floor)


def _is_none(node: object) -> bool:
    return node is None
