"""The user's own component: a class with ``log_prob(x)`` for one row, everything else derived.

:class:`Component` is what the user subclasses, written for one row of one component;
:class:`Custom` stacks k of them and speaks to the models. Its M-step is one guarded Newton step in
free coordinates for each pass over the data: value, gradient, Hessian and outer products of the
expected log density are sums over rows, so they add over blocks like any sufficient statistic. By
Fisher's identity the gradient is that of log p(X) itself, so the step points uphill; where it is
too long the solver halves it until the bound rises. The climb is therefore monotone.

McLachlan & Krishnan (2008), "The EM algorithm and extensions", 2nd ed., section 1.5.6 (generalised
EM) and 3.7 (Fisher's identity); Lange (1995), "A gradient algorithm locally equivalent to the EM
algorithm", for one Newton step in place of the M-step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._parameters import constant, from_vector, leaf_constraints, to_vector
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import autodiff, base

_TEMPLATE_STEPS = 30
_LENGTHS = 0.5 ** np.arange(0.0, 20.0, 2.0)


class Component(eqx.Module):
    """A density of one row, written by the user.

    Fields are the parameters of one component, declared with ``real()``, ``positive()``,
    ``unit_interval()``, ``simplex()`` or ``constant()``. Required is ``log_prob``; optional are

    - ``log_prob_observed(x, observed)``: with missing cells, the log density of the observed ones
      (``observed`` (d,) is True there; missing cells of ``x`` hold 0);
    - ``sample(key)``: one row (d,);
    - ``log_prior()``: log density of a prior on the parameters of one component.

    All in the data's own units. Pass an instance to a model as the point that every start climbs
    from, or :func:`stacked` instances, one for each component, to climb from just there.

    Example:
        >>> import jax.numpy as jnp, minorant, numpy as np
        >>> class Laplace(minorant.Component):
        ...     location: Array = minorant.real()
        ...     scale: Array = minorant.positive()
        ...     def log_prob(self, x):
        ...         away = jnp.abs(x - self.location) / self.scale
        ...         return -(away + jnp.log(2 * self.scale)).sum()
        >>> model = minorant.Mixture(Laplace(np.zeros(1), np.ones(1)), n_components=2)
        >>> model.component.start.scale
        array([1.])

    Not for: densities with a closed M-step that the library has; they are faster. At a kink (the
    location of a Laplace) the climb stops within about ``1 / n_k`` nats of the top.
    """

    @abstractmethod
    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """``log p(x)`` of one row, in nats."""

    def log_prior(self) -> Any:
        """Log density of the prior at these parameters; 0: none."""
        return 0.0


class Ascent(NamedTuple):
    """The expected log density at the current parameters: a sum over rows, hence additive.

    ``value``, its gradient, minus its Hessian, and the sum of outer products of the rows' scores.
    Above 64 parameters the last two are replaced by the diagonal of the outer products.
    """

    value: Float[Array, " k"]
    gradient: Float[Array, "k p"]
    curvature: Float[Array, "k p p"] | None
    scores: Float[Array, "k p *p"]


class Partition(NamedTuple):
    """The rows of a start with their responsibilities; only a template's M-step sees rows."""

    values: Float[Array, "n d"]
    responsibilities: Float[Array, "k n"]


class Custom(base.AbstractComponent):
    """k of a user's components.

    Args:
        parameters: the component with k stacked on the first axis of every leaf; leaves that are
            None are to be learned.
        start: one component, the point that starts climb from; or None.
    """

    parameters: Component
    start: Component | None = constant(default=None)

    def prepare(self) -> Component:
        """The parameters themselves."""
        return self.parameters

    def log_prob(self, rows: Rows, prepared: Component) -> Float[Array, "k n"]:
        """The user's ``log_prob``, row by row and component by component."""
        scores = jax.vmap(lambda one: _row_scores(one, rows))(prepared)
        return jnp.where(jnp.isfinite(scores) | (rows.weight > 0), scores, 0.0)

    def statistics(
        self, rows: Rows, responsibilities: Array, prepared: Component | None
    ) -> Ascent | Partition:
        """Value, gradient and curvature of the expected log density."""
        if prepared is None:
            return Partition(_safe(rows).values, responsibilities)
        rows = _safe(rows)
        return jax.vmap(lambda one, r: _ascent(one, rows, r))(prepared, responsibilities)

    def maximise(self, statistics: Ascent | Partition, fixed: PyTree | None) -> Self:
        """One guarded Newton step uphill; from the start to its maximum for a template."""
        if isinstance(statistics, Partition):
            return self._with_parameters(self._launched(statistics))
        parameters = jax.vmap(_stepped)(self.parameters, statistics, self._free(fixed))
        return self._with_parameters(parameters)

    def expected_log_prob(self, statistics: Ascent) -> Float[Array, " k"]:
        """As summed, at the parameters that the sums were taken at."""
        return statistics.value

    def log_prior(self) -> Float[Array, ""]:
        """The user's prior, summed over components."""
        return jax.vmap(_log_prior)(self.parameters).sum()

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """The user's ``sample(key)``.

        Raises:
            ValueError: when the user's class has none.
        """
        if not hasattr(self.parameters, "sample"):
            raise ValueError(_lacks(self.parameters, "sample(self, key)", "draw rows"))
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf)[labels], self.parameters)
        return jax.vmap(lambda one, k: one.sample(k))(own, jax.random.split(key, len(labels)))

    def conditional_mean(self, rows: Rows, prepared: Component) -> Float[Array, "k n d"]:
        """The rows, where every cell is observed.

        Raises:
            ValueError: for missing cells: a log density alone does not say how to fill them.
        """
        if rows.observed is not None:
            raise ValueError(_cannot_fill(self.parameters))
        k = jax.tree.leaves(prepared)[0].shape[0]
        return jnp.broadcast_to(rows.values, (k, *rows.values.shape))

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PyTree
    ) -> Float[Array, "n d"]:
        """The rows, where every cell is observed; raises ValueError as ``conditional_mean``."""
        if rows.observed is not None:
            raise ValueError(_cannot_fill(self.parameters))
        return rows.values

    def configured(self, summary: Summary, n_components: int) -> Self:
        """Itself, once the parameters are seen to agree with k.

        Raises:
            ValueError: when stacked parameters are not for ``n_components`` components.
        """
        name = type(self.parameters).__name__
        for leaf in jax.tree.leaves(self.parameters):
            if np.shape(leaf)[:1] != (n_components,):
                raise ValueError(
                    f"Parameters of {name} have shape {np.shape(leaf)}; with {n_components} "
                    f"components every leaf of stacked parameters must begin with {n_components}."
                )
        return self

    def standardiser(self, summary: Summary) -> Affine:
        """No change: the user's parameters are in the data's units."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: only the identity is asked for."""
        assert not np.any(units.shift)
        assert np.all(units.scale == 1)
        return self

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The rows, standardised."""
        spread = values.std(0)
        return (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Missing cells need the user's ``log_prob_observed``."""
        if np.isnan(values).any() and not hasattr(self.parameters, "log_prob_observed"):
            column = names[int(np.argwhere(np.isnan(values))[0, 1])]
            what = f"integrate out missing cells (column {column!r} has some)"
            raise ValueError(_lacks(self.parameters, "log_prob_observed(self, x, observed)", what))

    def collapsed(self) -> np.ndarray:
        """A user's density has no floor: none."""
        return np.zeros(len(jax.tree.leaves(self.parameters)[0]))

    def may_overshoot(self) -> bool:
        """A Newton step may be too long."""
        return True

    def _with_parameters(self, parameters: Component) -> Self:
        return type(self)(parameters, self.start)

    def _launched(self, partition: Partition) -> Component:
        k = len(partition.responsibilities)
        begin = stacked([self.start] * k).parameters if self.start is not None else self.parameters
        return jax.vmap(_climbed, in_axes=(0, None, 0))(
            begin, partition.values, partition.responsibilities
        )

    def _free(self, fixed: PyTree | None) -> Bool[Array, "k p"]:
        """Which free coordinates may move."""
        pairs = zip(
            jax.tree.leaves(self.parameters), leaf_constraints(self.parameters), strict=True
        )
        leaves = [leaf for leaf, constraint in pairs if constraint is not None]
        if fixed is None:
            return jnp.concatenate(
                [jnp.ones(leaf.shape, bool).reshape(len(leaf), -1) for leaf in leaves], 1
            )
        masks = jax.tree.leaves(fixed.parameters)
        constraints = leaf_constraints(self.parameters)
        held = [
            m for m, constraint in zip(masks, constraints, strict=True) if constraint is not None
        ]
        return jnp.concatenate([_may_move(*pair) for pair in zip(leaves, held, strict=True)], 1)


def as_component(component: Any) -> Any:
    """A user's component in the form that models speak to; any other as it is."""
    if not isinstance(component, Component):
        return component
    return Custom(jax.tree.map(lambda _: None, component), component)


def stacked(components: Sequence[Any]) -> Custom:
    """One user's component for each k, stacked: a place to climb from.

    Args:
        components: instances of one class with leaves of equal shapes.

    Example:
        >>> import jax.numpy as jnp, minorant, numpy as np
        >>> class Exponential(minorant.Component):
        ...     rate: Array = minorant.positive()
        ...     def log_prob(self, x):
        ...         return (jnp.log(self.rate) - self.rate * x).sum()
        >>> stacked([Exponential(np.array(1.0)), Exponential(np.array(2.0))]).parameters.rate
        array([1., 2.])
    """
    return Custom(jax.tree.map(lambda *leaves: _stack(leaves), *components))


def _stack(leaves: Sequence[Any]) -> Any:
    on_host = all(isinstance(leaf, np.ndarray | float | int) for leaf in leaves)
    return np.stack(leaves) if on_host else jnp.stack([jnp.asarray(leaf) for leaf in leaves])


@jax.jit
def _one_log_prob(component: Any, x: Float[Array, " d"]) -> Float[Array, ""]:
    # Under its own jit, the user's function is traced once for each shape, however it is lifted.
    return _scalar(component, component.log_prob(x))


@jax.jit
def _one_log_prob_observed(component: Any, x: Array, observed: Array) -> Float[Array, ""]:
    return _scalar(component, component.log_prob_observed(x, observed))


def _log_prior(component: Component) -> Float[Array, ""]:
    return jnp.asarray(component.log_prior(), to_vector(component).dtype)


def _scalar(component: Any, value: Any) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(
            f"{type(component).__name__}.log_prob must return one number for one row; it returned "
            f"shape {jnp.shape(value)}. Sum over the columns."
        )
    return value


def _row_scores(component: Component, rows: Rows) -> Float[Array, " n"]:
    """``log p(x_observed)`` of every row under one component."""
    if rows.observed is None:
        return jax.vmap(lambda x: _one_log_prob(component, x))(rows.values)
    observed = jnp.broadcast_to(rows.observed, rows.values.shape)
    each = jax.vmap(lambda x, o: _one_log_prob_observed(component, x, o))
    return jnp.where(observed.any(1), each(rows.values, observed), 0.0)


def _ascent(component: Component, rows: Rows, weights: Float[Array, " n"]) -> Ascent:
    point = to_vector(component)
    counted = weights > 0

    def scores(vector: Array) -> Float[Array, " n"]:
        found = _row_scores(from_vector(component, vector), rows)
        return jnp.where(counted, found, 0.0)

    def total(vector: Array) -> Array:
        return weights @ scores(vector)

    value, gradient = jax.value_and_grad(total)(point)
    by_row = _clean(jax.jacfwd(scores)(point), counted)
    if point.size > autodiff.NEWTON_LIMIT:
        return Ascent(value, gradient, None, weights @ by_row**2)
    outer = (weights[:, None] * by_row).T @ by_row
    return Ascent(value, gradient, -jax.hessian(total)(point), outer)


def _clean(by_row: Float[Array, "n p"], counted: Bool[Array, " n"]) -> Float[Array, "n p"]:
    return jnp.where(counted[:, None], by_row, 0.0)


def _stepped(component: Component, ascent: Ascent, free: Bool[Array, " p"]) -> Component:
    """One step of one component, fixed coordinates left out of the system."""
    point = to_vector(component)

    def prior(vector: Array) -> Array:
        return _log_prior(from_vector(component, vector))

    gradient = jnp.where(free, ascent.gradient + jax.grad(prior)(point), 0.0)
    if ascent.curvature is None:
        step = gradient / (ascent.scores + jnp.finfo(point.dtype).tiny)
        step = jnp.where(ascent.scores > 0, step, 0.0)
    else:
        both = free[:, None] & free
        curvature = jnp.where(both, ascent.curvature - jax.hessian(prior)(point), 0.0)
        step = autodiff.scored_step(gradient, curvature, jnp.where(both, ascent.scores, 0.0))
    step = jnp.where(free & jnp.isfinite(step), step, 0.0)
    return from_vector(component, point + step)


def _climbed(component: Component, values: Array, weights: Array) -> Component:
    """One component climbed on the rows of a start, by the better of two directions each time."""
    rows = Rows(values, weights)

    def value(vector: Array) -> Array:
        one = from_vector(component, vector)
        scores = jnp.where(weights > 0, _row_scores(one, rows), 0.0)
        total = weights @ scores + _log_prior(one)
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    def step(_: int, vector: Array) -> Array:
        ascent = _ascent(from_vector(component, vector), rows, weights)
        trials = jnp.concatenate([vector[None], _trials(vector, ascent)])
        return trials[jnp.argmax(jax.lax.map(value, trials))]

    return from_vector(component, jax.lax.fori_loop(0, _TEMPLATE_STEPS, step, to_vector(component)))


def _trials(vector: Array, ascent: Ascent) -> Float[Array, "trials p"]:
    if ascent.curvature is None:
        steps = (ascent.gradient / (ascent.scores + jnp.finfo(vector.dtype).tiny))[None]
    else:
        newton = autodiff.newton_step(ascent.gradient, ascent.curvature)
        scored = autodiff.scored_step(ascent.gradient, ascent.curvature, ascent.scores)
        steps = jnp.stack([newton, scored])
    lengths = jnp.asarray(_LENGTHS, vector.dtype)
    return (vector + lengths[:, None, None] * steps).reshape(-1, vector.size)


def _may_move(leaf: Array, mask: Any) -> Bool[Array, "k q"]:
    mask = jnp.asarray(mask)
    mask = mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))
    return ~jnp.broadcast_to(mask, leaf.shape).reshape(len(leaf), -1)


def _safe(rows: Rows) -> Rows:
    """Rows of weight 0 (padding, perhaps outside the support) replaced by a real one."""
    counted = rows.weight > 0
    stand_in = rows.values[jnp.argmax(counted)]
    values = jnp.where(counted[:, None], rows.values, stand_in)
    return eqx.tree_at(lambda r: r.values, rows, values)


def _lacks(component: Any, method: str, what: str) -> str:
    name = type(component).__name__
    return f"{name} cannot {what}: give the class a method {method}."


def _cannot_fill(component: Any) -> str:
    return (
        f"{type(component).__name__} cannot fill missing cells: a user's log density does not say "
        "how. Use a component of the library for these columns."
    )
