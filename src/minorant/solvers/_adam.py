"""The compiled part of stochastic ascent: blocks of Adam's steps that undo what is not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._config import small_jit
from minorant._types import Array, Key, PyTree

BLOCK = 100  # steps of one call, at most
_AVERAGING = 3.0  # the average is that of the last quarter of a stage, about
_CLIPPED = 10.0  # no gradient counts for more than so many times what is usual


class Moments(NamedTuple):
    """A parameter point on its way: where it is, what it came from, and what the steps remember."""

    point: PyTree
    sound: PyTree  # the last point where value and gradient were finite
    average: PyTree
    adam: Any
    age: Int[Array, ""]
    usual: Float[Array, ""]  # length of the gradient, smoothed
    shrink: Float[Array, ""]  # below 1 for a while after a step that was undone
    refused: Int[Array, ""]


class Pace(NamedTuple):
    """How a block of steps is to be run."""

    key: Key
    first: Array  # number of the first step: the same numbers mean the same random numbers
    count: Array
    step_size: Array


class Fixed(eqx.Module):
    """What of the objective and the parameters is no array: part of the compiled program."""

    leaves: tuple = eqx.field(static=True)
    structure: Any = eqx.field(static=True)


def integer(value: int) -> Any:
    return np.asarray(value, np.int32)


def parted(tree: PyTree) -> tuple[PyTree, Fixed]:
    arrays, rest = eqx.partition(tree, lambda leaf: isinstance(leaf, np.ndarray | jax.Array))
    leaves, structure = jax.tree.flatten(rest)
    return arrays, Fixed(tuple(leaves), structure)


def _joined(arrays: PyTree, fixed: Fixed) -> Any:
    return eqx.combine(arrays, jax.tree.unflatten(fixed.structure, fixed.leaves))


def _stepped_often(
    fixed: Fixed, arrays: PyTree, state: Moments, pace: Pace
) -> tuple[Moments, Array]:
    """``pace.count`` steps, at most ``BLOCK``, and the objective at the point of each."""
    from optax import scale_by_adam

    objective, rest = _joined(arrays, fixed)
    # Forgets twice as fast as is usual: from a far start gradients shrink by orders of magnitude.
    adam = scale_by_adam(b1=0.9, b2=0.99)

    def value_of(floats: PyTree, key: Key) -> Array:
        value = objective(eqx.combine(floats, rest), key)
        if jnp.shape(value) != ():
            raise ValueError(
                "objective must return one number, of shape (); it returned an array of shape "
                f"{jnp.shape(value)}: take its mean."
            )
        return value

    def step(i: Array, carry: tuple[Moments, Array]) -> tuple[Moments, Array]:
        state, values = carry
        key = jax.random.fold_in(pace.key, pace.first + i)
        value, gradient = jax.value_and_grad(value_of)(state.point, key)
        after = _stepped(state, value, gradient, adam, pace.step_size)
        return after, jnp.asarray(values).at[i].set(value)

    # A loop whose length is not part of the program: blocks and judgements share it.
    empty = jnp.full(BLOCK, jnp.nan, state.usual.dtype)
    return jax.lax.fori_loop(0, pace.count, step, (state, empty))


def _stepped(state: Moments, value: Array, gradient: PyTree, adam: Any, size: Array) -> Moments:
    """One step of Adam upwards; from a point that is not sound, back to the last that was."""
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)]
    length = jnp.sqrt(jnp.stack(squares).sum()).astype(state.usual.dtype)
    sound = jnp.isfinite(value) & jnp.isfinite(length)
    known = state.usual > 0
    usual = jnp.where(known, jnp.minimum(length, _CLIPPED * state.usual), length)
    clip = jnp.where(sound & (length > usual), usual / length, 1.0)
    clipped = jax.tree.map(
        lambda leaf: jnp.where(sound, leaf * clip.astype(leaf.dtype), 0.0), gradient
    )
    direction, memory = adam.update(clipped, state.adam)
    shrink = jnp.where(sound, jnp.minimum(1.0, 1.05 * state.shrink), 0.5 * state.shrink)
    share = (_AVERAGING + 1.0) / (state.age + _AVERAGING + 1.0)

    def moved(point: Array, by: Array, back: Array) -> Array:
        return jnp.where(sound, point + (size * shrink).astype(point.dtype) * by, back)

    def averaged(average: Array, point: Array) -> Array:
        return jnp.where(sound, average + share.astype(point.dtype) * (point - average), average)

    def kept(new: Array, old: Array) -> Array:
        return jnp.where(sound, new, old)

    return Moments(
        jax.tree.map(moved, state.point, direction, state.sound),
        jax.tree.map(kept, state.point, state.sound),
        jax.tree.map(averaged, state.average, state.point),
        jax.tree.map(kept, memory, state.adam),
        state.age + sound,
        kept(jnp.where(known, 0.9 * state.usual + 0.1 * usual, usual), state.usual),
        shrink,
        state.refused + ~sound,
    )


def begun(point: PyTree) -> Moments:
    """A point without a past; on the host, so that nothing is compiled for it."""
    from optax import ScaleByAdamState

    zero = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), point)
    adam = ScaleByAdamState(count=integer(0), mu=zero, nu=zero)
    whole = np.zeros((), np.result_type(*jax.tree.leaves(zero)))
    return Moments(point, point, point, adam, integer(0), whole, whole + 1, integer(0))


def renewed(state: Moments, point: PyTree) -> Moments:
    """A new stage from the best point; the gradients' sizes are still known."""
    return state._replace(point=point, sound=point, average=point, age=integer(1))


step_block = small_jit(_stepped_often)
