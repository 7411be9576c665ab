r"""Generalised linear mixed models: regressions whose coefficients vary between groups of rows.

.. math:: u_g \sim N(0, \Sigma), \qquad \eta_i = b^T d_i + u_{g(i)}^T r_i + o_i, \qquad
          p(y_g) = \int N(u; 0, \Sigma) \prod_{i \in g} p(y_i \mid \eta_i)\, du

with ``d`` the design (a constant 1, then the inputs), ``r`` the part of it whose coefficients vary,
``o`` an offset. Each group's integral is taken by Gauss-Hermite quadrature around the group's own
mode, in the coordinates ``u = L v``, ``Sigma = L L^T``, which stay well conditioned as variances
vanish. For normal outcomes one node is exact. Pinheiro & Bates (1995), "Approximations to the
log-likelihood function in the nonlinear mixed-effects model", section 2.4.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._linalg import LOG_TWO_PI
from minorant._parameters import Positive, PositiveDefinite, Real, constant, given, parameter
from minorant._types import Affine, Array, Groups, Key, Rows, Summary
from minorant.components.base import reject_cells
from minorant.models import _mixed_start as start
from minorant.models._curves import is_none
from minorant.models.base import AbstractIntegratedModel
from minorant.posteriors._small_matrices import cholesky
from minorant.posteriors.quadrature import (
    Adaptive,
    Integrated,
    Quadrature,
    check_dimensions,
    integrate,
)

FAMILIES = ("normal", "bernoulli", "binomial", "poisson")
_POINTS = {1: 15, 2: 9, 3: 7}
_VANISHED = 1e-2


class MixedModel(AbstractIntegratedModel):
    r"""A regression with random effects: coefficients of a group, drawn from a normal law.

    Rows are observations, ``groups`` their clusters, ``inputs`` their covariates; data have one
    column, the outcome (for "binomial" two, successes and failures).

    Args:
        family: "normal" (identity link), "bernoulli", "binomial" (logit link) or "poisson" (log).
        random: which columns of the design vary between groups, 1 to 3; column 0 is the constant,
            column j the j-th input (with ``intercept=False`` inputs are numbered from 0).
        coefficients: (m,) of the design; None to be learned.
        covariance: (l, l) of the random effects; None to be learned.
        deviation: standard deviation of a normal outcome; None to be learned.
        intercept: whether the design begins with a constant.
        offset: the input that enters with coefficient 1 (a log exposure), or None.
        rule: :class:`~minorant.posteriors.Adaptive` nodes for each effect; ``Adaptive(1)`` is
            Laplace's approximation. None: 1 for normal outcomes, else 15, 9 or 7 by dimension.

    Raises:
        ValueError: for an unknown family or an impossible number of random effects.

    Example:
        >>> from minorant.models import MixedModel
        >>> MixedModel("poisson", random=(0, 1)).random
        (0, 1)

    Not for: crossed groups, or more than three effects to a group.

    Breslow & Clayton (1993), "Approximate inference in generalized linear mixed models".
    """

    family: str = eqx.field(static=True, default="normal")
    random: tuple[int, ...] = eqx.field(static=True, default=(0,), converter=tuple)
    coefficients: Float[Array, " m"] | None = parameter(
        lambda model: Real() if model.root is None else start.Turned(model.root), default=None
    )
    covariance: Float[Array, "l l"] | None = parameter(
        lambda model: PositiveDefinite() if model.unit is None else start.InUnits(model.unit),
        default=None,
    )
    deviation: Float[Array, ""] | None = parameter(
        lambda model: Positive() if model.family == "normal" else None, default=None
    )
    root: Float[Array, "m m"] | None = constant(kw_only=True, default=None)
    unit: Float[Array, "l l"] | None = constant(kw_only=True, default=None)
    intercept: bool = eqx.field(static=True, kw_only=True, default=True)
    offset: int | None = eqx.field(static=True, kw_only=True, default=None)
    rule: Adaptive | None = eqx.field(static=True, kw_only=True, default=None)

    def __check_init__(self) -> None:
        """Raise ValueError for an unknown family or an impossible number of effects."""
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}; got {self.family!r}.")
        check_dimensions(len(self.random), "the number of random effects")
        if len(set(self.random)) < len(self.random) or min(self.random) < 0:
            raise ValueError(f"random must name different design columns from 0; got {self.random}")

    # The joint density

    def design(self, rows: Rows) -> Float[Array, "n m"]:
        """The constant, if any, and the inputs but the offset."""
        xp = _namespace(rows.values)
        parts = [xp.ones((len(rows.values), 1), rows.values.dtype)] if self.intercept else []
        if rows.inputs is not None:
            kept = [j for j in range(rows.inputs.shape[1]) if j != self.offset]
            parts.append(rows.inputs[:, np.array(kept, dtype=int)])
        return xp.concatenate(parts, axis=1)

    def _fixed_part(self, rows: Rows, design: Array) -> Float[Array, " n"]:
        reach = design @ given(self.coefficients)
        return reach if self.offset is None else reach + given(rows.inputs)[:, self.offset]

    def log_outcome(self, rows: Rows, predictor: Float[Array, " n"]) -> Float[Array, " n"]:
        """``log p(y | eta)`` per row; 0 where the outcome is missing."""
        values = jnp.asarray(rows.values)
        y = values[:, 0]
        if self.family == "normal":
            deviation = given(self.deviation)
            away = (y - predictor) / deviation
            log = -0.5 * away**2 - jnp.log(deviation) - 0.5 * LOG_TWO_PI
        elif self.family == "bernoulli":
            log = y * predictor - jax.nn.softplus(predictor)
        elif self.family == "binomial":
            trials = y + values[:, 1]
            log = y * predictor - trials * jax.nn.softplus(predictor)
            log = log + _log_factorial(trials) - _log_factorial(y) - _log_factorial(values[:, 1])
        else:
            log = y * predictor - jnp.exp(predictor) - _log_factorial(y)
        return log if rows.observed is None else jnp.where(rows.observed.all(1), log, 0.0)

    def log_joint(self, rows: Rows, latents: Float[Array, "g l"]) -> Float[Array, " n"]:
        """``log p(y_g, u_g)`` in each group's first row, 0 in the others."""
        root = cholesky(jnp.asarray(given(self.covariance)), 0.0)
        effects = _factors.solve_triangular(root, latents.T).T
        volume = jnp.log(jnp.diagonal(root)).sum()
        return _in_first_row(_log_joint((self, rows), effects) - volume, _groups(rows))

    def sample(self, key: Key, n: int) -> tuple[Float[Array, "n l"], Float[Array, "n d"]]:
        """Effects and outcomes of n groups of one row each, all inputs 0."""
        m = len(given(self.coefficients)) - self.intercept + (self.offset is not None)
        zeros = jnp.zeros((n, max(m, 1)), jnp.asarray(self.covariance).dtype)
        one = jnp.arange(n)
        groups = Groups(jnp.ones(n, bool), one, n)
        width = 2 if self.family == "binomial" else 1
        rows = Rows(zeros[:, :1].repeat(width, 1), zeros[:, 0], None, None, None, groups, zeros)
        rows = rows if m else dataclasses.replace(rows, inputs=None)
        return self.simulated(key, dataclasses.replace(rows, values=rows.values + 0.5))

    def simulated(self, key: Key, rows: Rows) -> tuple[Float[Array, "g l"], Float[Array, "n d"]]:
        """Effects of the groups, and outcomes of rows; "binomial" keeps the rows' trials."""
        effect_key, outcome_key = jax.random.split(key)
        groups, design = _groups(rows), self.design(rows)
        root = cholesky(jnp.asarray(given(self.covariance)), 0.0)
        noise = jax.random.normal(effect_key, (groups.count, len(self.random)), root.dtype)
        effects = noise @ root.T
        varying = (design[:, np.array(self.random)] * effects[groups.index]).sum(1)
        predictor = self._fixed_part(rows, design) + varying
        return effects, self._outcomes(outcome_key, rows, predictor)

    def _outcomes(self, key: Key, rows: Rows, predictor: Array) -> Float[Array, "n d"]:
        if self.family == "normal":
            noise = jax.random.normal(key, predictor.shape, predictor.dtype)
            return (predictor + given(self.deviation) * noise)[:, None]
        if self.family == "poisson":
            return jax.random.poisson(key, jnp.exp(predictor)).astype(predictor.dtype)[:, None]
        chance = jax.nn.sigmoid(predictor)
        if self.family == "bernoulli":
            return jax.random.bernoulli(key, chance).astype(predictor.dtype)[:, None]
        trials = rows.values.sum(1)
        successes = jax.random.binomial(key, trials, chance)
        return jnp.stack([successes, trials - successes], axis=1)

    # The posterior

    def prepare(self) -> None:
        """Nothing: every group has its own nodes."""
        return

    def integrated(self, rows: Rows, rule: Adaptive | None = None) -> Integrated:
        """Posterior, evidence, modes and precision of every group, for ``v`` in ``u = L v``."""
        centre = jnp.zeros((_groups(rows).count, len(self.random)), rows.weight.dtype)
        return integrate(_log_joint, (self, rows), centre, rule or given(self.rule))

    def unit_log_joint(self, rows: Rows, latents: Float[Array, "g l"]) -> Float[Array, " g"]:
        """``log p(y_g, v_g)`` of every group, ``u = L v``."""
        return _log_joint((self, rows), latents)

    def in_rows_of_units(self, rows: Rows, per_unit: Float[Array, " g"]) -> Float[Array, " n"]:
        """Each group's number in its first row, 0 in the others."""
        return _in_first_row(per_unit, _groups(rows))

    def posterior(self, rows: Rows, prepared: None) -> Quadrature:
        """``p(u_g | y_g)``, repeated for every row of the group."""
        del prepared
        root = cholesky(jnp.asarray(given(self.covariance)), 0.0)
        found = self.integrated(rows, Adaptive(max(given(self.rule).points, 3))).posterior
        index = _groups(rows).index
        return Quadrature((found.nodes @ root.T)[index], found.log_probability[index])

    def log_evidence(self, rows: Rows, prepared: None) -> Float[Array, " n"]:
        """``log p(y_g)`` in each group's first row, 0 in the others."""
        del prepared
        return _in_first_row(self.integrated(rows).log_evidence, _groups(rows))

    def log_prior(self) -> Float[Array, ""]:
        """None."""
        return jnp.zeros(())

    def projected(self) -> Self:
        """Itself: the parametrisation carries every constraint."""
        return self

    # Before and after the climb

    def is_grouped(self) -> bool:
        """Rows of a group share its effects."""
        return True

    def configured(self, summary: Summary) -> Self:
        """With a rule chosen.

        Raises:
            ValueError: for a table with other columns than the outcome's.
        """
        width = 2 if self.family == "binomial" else 1
        if summary.n_columns != width:
            what = (
                "two columns, successes and failures" if width == 2 else "one column, the outcome"
            )
            raise ValueError(
                f"data of the {self.family} family must have {what}; got {summary.n_columns}. "
                "Covariates go into inputs=."
            )
        points = 1 if self.family == "normal" else _POINTS[len(self.random)]
        return dataclasses.replace(self, rule=self.rule or Adaptive(points))

    def check(self, values: Float[np.ndarray, "n d"], names: tuple[str, ...]) -> None:
        """Counts for counts, 0 and 1 for Bernoulli outcomes."""
        if self.family == "normal":
            return
        there = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            bad = (values < 0) | (values != np.round(values))
        if self.family == "bernoulli":
            bad |= values > 1
        must = "0 or 1" if self.family == "bernoulli" else "counts 0, 1, 2, ..."
        reject_cells(bad & there, values, names, f"must hold {must} for the {self.family} family")

    def initial(self, rows: Rows, rng: np.random.Generator) -> Self:
        """The regression without random effects, and what of its noise is the groups' own."""
        del rng
        seen = np.asarray(rows.weight) > 0
        if rows.observed is not None:
            seen &= np.asarray(rows.observed).all(1)
        design = np.asarray(self.design(rows), float)[seen]
        start.check_design(design, self.random)
        offset = 0.0 if self.offset is None else np.asarray(rows.inputs)[seen, self.offset]
        values, weight = np.asarray(rows.values, float)[seen], np.asarray(rows.weight, float)[seen]
        coefficients, away = start.regression(self.family, values, design, offset, weight)
        own = design[:, list(self.random)]
        index = np.asarray(_groups(rows).index)[seen]
        noise, extra = (0.75, 0.25) if away is None else start.split(away, own, index)
        weighted = design * np.sqrt(weight / weight.sum() / noise)[:, None]
        root = np.linalg.qr(weighted)[1]
        unit = np.linalg.qr(weighted[:, list(self.random)])[1]
        inverse = np.linalg.inv(unit)
        covariance = extra / noise * inverse @ inverse.T
        where = lambda m: (m.coefficients, m.covariance, m.deviation, m.root, m.unit)  # noqa: E731
        begun = (coefficients, covariance, np.sqrt(noise), root, unit)
        return eqx.tree_at(where, self, begun, is_leaf=is_none)

    def irregular(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """A sentence for every direction of the random effects without variance."""
        del names
        covariance = np.asarray(given(self.covariance), float)
        unit = np.eye(len(covariance)) if self.unit is None else np.asarray(self.unit, float)
        values = np.linalg.eigvalsh(unit @ covariance @ unit.T)
        if values.min() > _VANISHED**2:
            return ()
        return (
            "In one direction the random effects vary by less than 1% of the outcome's own noise "
            "(a singular fit): groups differ there by no more than chance. Leave out an effect.",
        )

    def refined(self) -> Self:
        """With the rule doubled: what changes is the error of the rule."""
        return dataclasses.replace(self, rule=given(self.rule).refined())

    def standardiser(self, summary: Summary) -> Affine:
        """The identity: free coordinates carry the units of outcome and inputs."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: the units are the identity."""
        del units
        return self

    def is_exact(self) -> bool:
        """For normal outcomes, whose integral is closed."""
        return self.family == "normal"

    def reason(self) -> str:
        """How the effects are integrated out."""
        if self.family == "normal":
            return "outcomes and random effects are normal, so the posterior is normal and exact"
        points = given(self.rule).points
        how = (
            "Laplace's approximation" if points == 1 else f"{points} Gauss-Hermite nodes an effect"
        )
        return (
            f"each group's effects are integrated out by {how} around the group's mode, so log "
            "p(y) is an estimate and no bound; doubling the rule (model.refined()) tells its error"
        )


def _log_joint(parameters: tuple[MixedModel, Rows], effects: Array) -> Float[Array, " g"]:
    """``log p(y_g | u = L v) + log N(v; 0, I)`` of every group."""
    model, rows = parameters
    groups, design = _groups(rows), model.design(rows)
    root = cholesky(jnp.asarray(given(model.covariance)), 0.0)
    own = (effects @ root.T)[groups.index]
    predictor = model._fixed_part(rows, design) + (design[:, np.array(model.random)] * own).sum(1)
    log = model.log_outcome(rows, predictor)
    total = jax.ops.segment_sum(log, groups.index, groups.count)
    return total - 0.5 * (effects**2).sum(1) - 0.5 * effects.shape[1] * LOG_TWO_PI


def _groups(rows: Rows) -> Groups:
    return given(rows.groups)


def _in_first_row(per_group: Array, groups: Groups) -> Float[Array, " n"]:
    return jnp.where(groups.start, per_group[groups.index], 0.0)


def _log_factorial(count: Array) -> Array:
    return jax.scipy.special.gammaln(count + 1.0)


def _namespace(array: Array):  # noqa: ANN202
    return np if isinstance(array, np.ndarray) else jnp
