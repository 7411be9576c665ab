r"""The bound on a batch of rows, whose mean over batches is the bound on all rows.

.. math:: \frac1W \sum_i w_i L_i(\theta, \phi) + \frac1W \log p(\theta)
          = E\Big[\frac1B \sum_{b=1}^B L_{i(b)}\Big] + \frac1W \log p(\theta), \quad W = \sum_i w_i

Row i(b) is the one on which the b-th of B strata of the running sum of weights is hit, at a uniform
place: a row is drawn B w_i / W times on average, whatever the weights. So no scale is left to be
forgotten, and rows that lie far apart in the table are looked at side by side. Where the rows are
some that were drawn from all, the mean is multiplied by what these are worth: their weight over W
and over the chance of each to be among them.

Hoffman, Blei, Wang & Paisley (2013), "Stochastic variational inference", section 2.3.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from minorant._parameters import from_vector, to_vector
from minorant._types import Array, Key, PyTree, Rows
from minorant.bounds import AbstractBound
from minorant.models.user import Model
from minorant.solvers.base import model_at

# A network's weights act together: a step that suits a model's parameters is too long for them.
_UNIT = 0.1


class Point(NamedTuple):
    """Model and encoder in free coordinates, the encoder's in tenths: what is climbed over."""

    model: Float[Array, " p"]
    encoder: Float[Array, " q"]


class RowBound(eqx.Module):
    """The bound per unit of weight, on a batch of rows drawn by their weights.

    Attributes:
        template: the model, its encoder inside, which a point is put into.
        rows: all rows in one block; a missing cell holds what some row has in its column.
        cumulative: (n,) running sums of the rows' weights, divided by their total; where the rows
            are some of all, times what they are worth: the last is 1 on average.
        total_weight: the sum of weights, of all rows.
        fixed: the parameters that are held, or None.
        bound: the bound of a row.
        batch: rows drawn; all of them are taken where the batch could hold them.
        draws: draws of q for each row, a multiple of what the bound takes.
    """

    template: Model
    rows: Rows
    cumulative: Float[Array, " n"]
    total_weight: Float[Array, ""]
    fixed: PyTree | None
    bound: AbstractBound
    batch: int = eqx.field(static=True)
    draws: int = eqx.field(static=True)

    def __call__(self, point: Point, key: Key) -> Float[Array, ""]:
        """An estimate without bias, in nats per unit of weight."""
        first, second = jax.random.split(key)
        if self.batch >= len(self.cumulative):
            share = jnp.diff(self.cumulative, prepend=0.0)
            return self.of_rows(point, self.rows, share, second)
        places = jax.random.uniform(first, (self.batch,), self.cumulative.dtype)
        rows = self.taken(self.index(places))
        share = jnp.full(self.batch, self.cumulative[-1] / self.batch)
        return self.of_rows(point, rows, share, second)

    def index(self, places: Float[Array, " b"]) -> Int[Array, " b"]:
        """The row that each stratum is hit on, at places in [0, 1)."""
        strata = (jnp.arange(self.batch) + places) / self.batch
        found = jnp.searchsorted(self.cumulative, strata * self.cumulative[-1], side="right")
        return jnp.minimum(found, len(self.cumulative) - 1)

    def taken(self, index: Int[Array, " b"]) -> Rows:
        """Some of the rows."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], self.rows)

    def of_rows(
        self, point: Point, rows: Rows, share: Float[Array, " b"], key: Key
    ) -> Float[Array, ""]:
        """The rows' bounds, each counted by its share, and the log prior of the parameters."""
        model = self.at(point)
        q = model.in_rows(rows)
        each = self.bound.of_draws(model.log_joint_of(rows), q, q.noise(key, self.draws))
        prior = jnp.asarray(model.log_prior(), each.dtype) / self.total_weight
        return share @ each + prior

    def at(self, point: Point) -> Model:
        """The model at a point."""
        model: Any = model_at(self.template, point.model, self.fixed)
        family: Any = self.template.family
        network = from_vector(family.network, _UNIT * point.encoder)
        return dataclasses.replace(model, family=dataclasses.replace(family, network=network))

    def start(self) -> Point:
        """The template as a point."""
        family: Any = self.template.family
        return Point(to_vector(self.template), to_vector(family.network) / _UNIT)
