r"""Latent trait models (item response theory): normal traits behind binary and ordinal answers.

.. math:: z \sim N(\mu_g, \Sigma_g), \qquad p(x \mid z) = \prod_j p_j(x_j \mid z), \qquad
          p(x) = \int p(x \mid z)\, N(z; \mu_g, \Sigma_g)\, dz

Traits have one to three dimensions and are integrated out by quadrature. On a shared grid the
E-step is two matrix products, of answers with the items' log curves at the nodes, and of answers
with the persons' posterior masses: the expected answers at each node (Bock & Aitkin, 1981,
"Marginal maximum likelihood estimation of item parameters: application of an EM algorithm"). The
M-step is Fisher scoring item by item, then moments of the traits. Where the answers alone must say
where traits have their origin and unit, these are first let free and then carried over to the items
(Liu, Rubin & Wu, 1998, "Parameter expansion to accelerate EM: the PX-EM algorithm").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import given, has_all_parameters, parameter
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components.base import of
from minorant.models import _answers as coding
from minorant.models import _item_steps as item_steps
from minorant.models import _trait_layout as layout
from minorant.models import _trait_scale as trait_scale
from minorant.models._curves import is_none
from minorant.models.base import AbstractIntegratedModel, AbstractTractableModel, Expectation
from minorant.models.items import AbstractItems, PartialCredit
from minorant.posteriors._small_matrices import cholesky, log_normal
from minorant.posteriors.quadrature import (
    Adaptive,
    Grid,
    Integrated,
    Quadrature,
    check_dimensions,
    integrate,
)

_SCORED = {1: 31, 2: 15, 3: 9}
_AT_ONCE = 1 << 21
_STEPS = 2


class Prepared(NamedTuple):
    """Nodes of the grid, the log mass of each in every group, and the items' curves there."""

    nodes: Float[Array, "s l"]
    log_weight: Float[Array, "g s"]
    tables: tuple[coding.Table, ...]


class ItemCounts(NamedTuple):
    """Expected answers (d, m, s) of every stack, and expected persons of every group, at nodes."""

    answers: tuple[Float[Array, "d m s"], ...]
    persons: Float[Array, "g s"]


class ItemSlopes(NamedTuple):
    """Where every person has nodes of their own: the scoring step's sums, and moments of traits."""

    slopes: tuple[item_steps.Slope, ...]
    moments: trait_scale.Moments


class LatentTrait(AbstractTractableModel, AbstractIntegratedModel):
    r"""Traits behind the answers to items.

    Identified by: the first group has mean 0 and variances 1 (where an item has slope 1 by
    definition, variances are free); sums of slopes are positive, unless slopes are fixed or have a
    prior elsewhere than at 0; without a pattern, traits are uncorrelated and the first l items ask
    only for trait 0, 0 and 1, ...

    Args:
        items: an item structure for all columns, or one for every column; see
            :mod:`minorant.models.items`.
        mean: (g, l) means of the traits in every group; None to be learned.
        covariance: (g, l, l); None to be learned.
        n_traits: l, 1 to 3.
        n_groups: g; with more than one, ``inputs`` has one column, each person's group from 0.
        pattern: (d, l), 1 where an item asks for a trait, or None.
        correlated: with a pattern, whether the traits of the first group may correlate.
        rule: :class:`~minorant.posteriors.Grid`, :class:`~minorant.posteriors.Adaptive`, or None:
            a grid whose step suits the number of items, adaptive where that takes more than
            20,000 nodes.

    Raises:
        ValueError: for an impossible number of traits or groups.

    Example:
        >>> from minorant.models import LatentTrait, TwoParameter
        >>> LatentTrait(TwoParameter(), n_traits=2).n_traits
        2

    Not for: more than three traits; answers without a common direction (latent classes).

    Reckase (2009), "Multidimensional item response theory", section 4.1.
    """

    items: tuple[AbstractItems, ...] = eqx.field(converter=layout.as_tuple)
    mean: Float[Array, "g l"] | None = parameter(trait_scale.Means(), default=None)
    covariance: Float[Array, "g l l"] | None = parameter(
        lambda model: trait_scale.Covariances(model.scale), default=None
    )
    n_traits: int = eqx.field(static=True, kw_only=True, default=1)
    n_groups: int = eqx.field(static=True, kw_only=True, default=1)
    pattern: tuple[tuple[float, ...], ...] | None = eqx.field(
        static=True, kw_only=True, default=None, converter=layout.as_pattern
    )
    correlated: bool = eqx.field(static=True, kw_only=True, default=True)
    rule: Grid | Adaptive | None = eqx.field(static=True, kw_only=True, default=None)
    columns: layout.Columns | None = eqx.field(static=True, kw_only=True, default=None)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible number of traits or groups."""
        check_dimensions(self.n_traits, "n_traits")
        if not isinstance(self.n_groups, int) or self.n_groups < 1:
            raise ValueError(f"n_groups must be an integer of at least 1; got {self.n_groups!r}.")

    @property
    def scale(self) -> str:
        """What is free in the first group's covariance: "fixed", "correlation" or "free"."""
        if any(isinstance(item, PartialCredit) for item in self.items):
            return "free"
        confirms = self.pattern is not None and self.n_traits > 1
        return "correlation" if confirms and self.correlated else "fixed"

    # The joint density

    def log_joint(self, rows: Rows, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log N(z; mu_g, Sigma_g) + sum_j log p(x_j | z)`` over the answers that are there."""
        group = self._group(rows)
        mean, covariance = jnp.asarray(given(self.mean)), jnp.asarray(given(self.covariance))
        total = log_normal(latents - mean[group], covariance[group])
        for columns, item in self._stacks():
            codes, seen = coding.answers(rows, columns)
            logs = item.log_probability(latents)
            chosen = codes[..., None] == jnp.arange(logs.shape[-1])
            chosen = chosen if seen is None else chosen & seen[..., None]
            total = total + jnp.where(chosen, logs, 0.0).sum((-1, -2))
        return total

    def sample(self, key: Key, n: int) -> tuple[Float[Array, "n l"], Float[Array, "n d"]]:
        """Traits and answers of n persons, of all groups alike."""
        group_key, trait_key, answer_key = jax.random.split(key, 3)
        group = jax.random.randint(group_key, (n,), 0, self.n_groups)
        mean, covariance = jnp.asarray(given(self.mean)), jnp.asarray(given(self.covariance))
        root = cholesky(covariance, 0.0)[group]
        noise = jax.random.normal(trait_key, (n, self.n_traits), mean.dtype)
        latents = mean[group] + jnp.einsum("nij,nj->ni", root, noise)
        return latents, self.answers(answer_key, latents)

    def answers(self, key: Key, latents: Float[Array, "n l"]) -> Float[Array, "n d"]:
        """Answers of persons with known traits."""
        d = sum(len(columns) for columns, _ in self._stacks())
        out = jnp.zeros((len(latents), d), latents.dtype)
        for index, (columns, item) in enumerate(self._stacks()):
            own = jax.random.fold_in(key, index)
            codes = jax.random.categorical(own, item.log_probability(latents), axis=-1)
            out = out.at[:, np.array(columns)].set(codes.astype(latents.dtype))
        return out

    # The posterior

    def prepare(self) -> Prepared | None:
        """Nodes, masses and curves of the grid; nothing for an adaptive rule."""
        if not isinstance(self.rule, Grid):
            return None
        nodes, log_weight = trait_scale.nodes(
            self.rule, jnp.asarray(given(self.mean)), jnp.asarray(given(self.covariance))
        )
        return Prepared(nodes, log_weight, tuple(coding.table(item, nodes) for item in self.items))

    def posterior(self, rows: Rows, prepared: Prepared | None) -> Quadrature:
        """``p(z | x)`` on the grid of one trait; of several, on each person's own, fewer nodes."""
        if self.n_traits > 1 or isinstance(self.rule, Adaptive):
            return self.integrated(rows, Adaptive(_SCORED[self.n_traits])).posterior
        grid = given(prepared)
        scores = self._scores(rows, grid)
        shared = jnp.broadcast_to(grid.nodes, (*scores.shape, self.n_traits))
        return Quadrature(shared, jax.nn.log_softmax(scores, axis=1))

    def integrated(self, rows: Rows, rule: Adaptive) -> Integrated:
        """Posterior, evidence, modes and their precision by an adaptive rule."""
        start = jnp.asarray(given(self.mean))[self._group(rows)]
        start = jnp.broadcast_to(start, (len(rows.weight), self.n_traits))
        return integrate(_log_joint, (self, rows), start, rule)

    def log_evidence(self, rows: Rows, prepared: Prepared | None) -> Float[Array, " n"]:
        """``log p(x)``; 0 for a person who answered nothing."""
        if isinstance(self.rule, Adaptive):
            return self.integrated(rows, self.rule).log_evidence
        return jax.nn.logsumexp(self._scores(rows, given(prepared)), axis=1)

    def _scores(self, rows: Rows, prepared: Prepared) -> Float[Array, "n s"]:
        """``log p(x | z) p(z)`` at the nodes: a matrix product for every stack."""
        total = prepared.log_weight[self._group(rows)]
        for (columns, item), table in zip(self._stacks(), prepared.tables, strict=True):
            codes, seen = coding.answers(rows, columns)
            total = total + coding.beyond(codes, coding.categories(item)) @ table.beyond
            first = table.first.sum(0) if seen is None else seen.astype(total.dtype) @ table.first
            total = total + first
        return total

    # EM

    def statistics(
        self, rows: Rows, posterior: Quadrature, prepared: Prepared | None
    ) -> ItemCounts | ItemSlopes:
        """The sums under the model's own posterior on the rule's nodes (q itself is not used)."""
        del posterior
        return self.expectation(rows, prepared).statistics

    def expectation(self, rows: Rows, prepared: Prepared | None) -> Expectation:
        """Evidence and expected answers, a few persons at a time where nodes are many."""
        if isinstance(self.rule, Adaptive):
            return self._adaptive_expectation(rows, self.rule)
        grid = given(prepared)
        n, s = len(rows.weight), len(grid.nodes)
        parts = -(-n * s // _AT_ONCE)
        if parts == 1:
            return self._grid_expectation(rows, grid)
        size = -(-n // parts)
        cut = jax.tree.map(lambda leaf: coding.cut(leaf, n, parts, size), rows)
        found = jax.lax.map(lambda part: self._grid_expectation(part, grid), cut)
        return jax.tree.map(lambda leaf: leaf.sum(0), found)

    def _grid_expectation(self, rows: Rows, prepared: Prepared) -> Expectation:
        scores = self._scores(rows, prepared)
        highest = scores.max(1, keepdims=True)
        mass = jnp.exp(scores - highest)
        total = mass.sum(1)
        log_evidence = jnp.log(total) + highest[:, 0]
        mass = mass * (rows.weight / total)[:, None]
        answers = []
        for columns, item in self._stacks():
            codes, seen = coding.answers(rows, columns)
            m = coding.categories(item)
            beyond = (coding.beyond(codes, m).T @ mass).reshape(len(columns), m - 1, -1)
            every = mass.sum(0) if seen is None else seen.astype(mass.dtype).T @ mass
            first = jnp.maximum(every - beyond.sum(1), 0.0)
            answers.append(jnp.concatenate([first[:, None], beyond], axis=1))
        member = jax.nn.one_hot(self._group(rows), self.n_groups, dtype=mass.dtype)
        bound = jnp.where(rows.weight > 0, rows.weight * log_evidence, 0.0).sum()
        return Expectation(bound, ItemCounts(tuple(answers), member.T @ mass))

    def _adaptive_expectation(self, rows: Rows, rule: Adaptive) -> Expectation:
        found = self.integrated(rows, rule)
        nodes = found.posterior.nodes
        mass = found.posterior.probability * rows.weight[:, None]
        slopes = []
        for columns, item in self._stacks():
            codes, seen = coding.answers(rows, columns)
            there = jnp.ones_like(codes, bool) if seen is None else seen
            own = jnp.where(jnp.broadcast_to(there, codes.shape).T[..., None], mass, 0.0)
            slopes.append(item_steps.slope_at_points(item, codes, own, nodes))
        member = jax.nn.one_hot(self._group(rows), self.n_groups, dtype=mass.dtype)
        moments = trait_scale.moments(jnp.einsum("ng,ns->gns", member, mass), nodes)
        bound = jnp.where(rows.weight > 0, rows.weight * found.log_evidence, 0.0).sum()
        return Expectation(bound, ItemSlopes(tuple(slopes), moments))

    def maximise(self, statistics: ItemCounts | ItemSlopes, fixed: PyTree | None = None) -> Self:
        """Scoring steps of the items, moments of the traits; origin and unit carried over."""
        held = [item_steps.held_mask(*pair) for pair in self._with_fixed(fixed)]
        if isinstance(statistics, ItemCounts):
            nodes = given(self.prepare()).nodes
            pairs = zip(self.items, statistics.answers, held, strict=True)
            items = [item_steps.climbed(i, c, nodes, h, _STEPS) for i, c, h in pairs]
            moments = trait_scale.moments(statistics.persons, nodes)
        else:
            pairs = zip(self.items, statistics.slopes, held, strict=True)
            items = [item_steps.stepped(*triple) for triple in pairs]
            moments = statistics.moments
        expands = fixed is None and not any(item.has_prior() for item in self.items)
        population = trait_scale.Population(given(self.mean), given(self.covariance))
        shape = self.scale if self.pattern is None else f"{self.scale} axes"
        found, shift, root = trait_scale.maximised(population, moments, shape, expands)
        moved = tuple(item.moved(shift, root) for item in items)
        return self._with(moved, found.mean, found.covariance)

    def may_overshoot(self) -> bool:
        """Where every person has nodes of their own, and where correlations have no closed step."""
        return isinstance(self.rule, Adaptive) or self.scale == "correlation"

    def rounding(self, prepared: Prepared | None) -> float:
        """The rule's own error moves with its nodes: far below a nat, above the last digit."""
        del prepared
        return float(jnp.finfo(jnp.asarray(given(self.mean)).dtype).eps) ** -0.25

    def log_prior(self) -> Float[Array, ""]:
        """The items' priors."""
        return sum((item.log_prior() for item in self.items), jnp.zeros(()))

    def projected(self) -> Self:
        """Itself: the parametrisation carries every constraint."""
        return self

    # Before and after the climb

    def configured(self, summary: Summary) -> Self:
        """With items stacked by structure and number of categories, and a rule chosen."""
        rule = self.rule or trait_scale.default_rule(self.n_traits, summary.n_columns)
        if self._has_items():
            columns = self.columns or layout.given_columns(self.items)
            return dataclasses.replace(self, columns=columns, rule=rule)
        pattern = None if self.pattern is None else np.array(self.pattern)
        items, columns = layout.stacked_items(self.items, summary, pattern, self.n_traits)
        return dataclasses.replace(self, items=items, columns=columns, rule=rule)

    def check(self, values: Float[np.ndarray, "n d"], names: tuple[str, ...]) -> None:
        """Answers must be codes 0, 1, 2, ..., without gaps where parameters are to be learned."""
        known = {}
        if self._has_items():
            columns = self.columns or layout.given_columns(self.items)
            for own, item in zip(columns, self.items, strict=True):
                known.update(dict.fromkeys(own, coding.categories(item)))
        layout.check_codes(values, names, known)

    def initial(self, rows: Rows, rng: np.random.Generator) -> Self:
        """Slopes from correlations, intercepts from shares, standard normal traits."""
        del rng
        pattern = None if self.pattern is None else np.array(self.pattern)
        slopes = layout.rough_slopes(rows, self.n_traits, pattern)
        begun = [
            item.begun(
                slopes[list(columns)], layout.shares(rows, columns, given(item.n_categories))
            )
            for columns, item in self._stacks()
        ]
        eye = np.broadcast_to(np.eye(self.n_traits), (self.n_groups, *(self.n_traits,) * 2)).copy()
        return self._with(tuple(begun), np.zeros(eye.shape[:2]), eye)

    def irregular(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """A sentence for every item that parts the persons (almost) without error."""
        return layout.steep_items(self._stacks(), names)

    def refined(self) -> Self:
        """With the rule doubled: what changes is the error of the rule."""
        return dataclasses.replace(self, rule=given(self.rule).refined())

    def standardiser(self, summary: Summary) -> Affine:
        """The identity: codes have no other units."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: the units are the identity."""
        del units
        return self

    def allows_empty_rows(self) -> bool:
        """A person who answered nothing says nothing, and is scored by the prior."""
        return True

    def is_exact(self) -> bool:
        """No: traits are integrated numerically."""
        return False

    def reason(self) -> str:
        """How the traits are integrated out."""
        return trait_scale.sentence(self.n_traits, given(self.rule))

    def oriented(self) -> Self:
        """With traits pointing to where sums of slopes are positive."""
        sign = layout.orientation(self.items)
        items = tuple(layout.turned(item, sign) for item in self.items)
        covariance = given(self.covariance) * sign * sign[:, None] + 0.0
        return self._with(items, given(self.mean) * sign + 0.0, covariance)  # no minus zeros

    def _stacks(self) -> list[tuple[tuple[int, ...], Any]]:
        columns = self.columns or layout.given_columns(self.items)
        return list(zip(columns, self.items, strict=True))

    def _has_items(self) -> bool:
        return all(has_all_parameters(item) for item in self.items)

    def _with_fixed(self, fixed: Any) -> list[tuple[AbstractItems, Any]]:
        masks = of(fixed, "items") or (None,) * len(self.items)
        return list(zip(self.items, masks, strict=True))

    def _with(self, items: Sequence[AbstractItems], mean: Array, covariance: Array) -> Self:
        where = lambda m: (m.items, m.mean, m.covariance)  # noqa: E731
        return eqx.tree_at(where, self, (tuple(items), mean, covariance), is_leaf=is_none)

    def _group(self, rows: Rows) -> Int[Array, " n"]:
        if self.n_groups == 1:
            return jnp.zeros(len(rows.weight), jnp.int32)
        return given(rows.inputs)[:, 0].astype(jnp.int32)


def _log_joint(parameters: tuple[LatentTrait, Rows], latents: Array) -> Float[Array, " n"]:
    model, rows = parameters
    return model.log_joint(rows, latents)
