"""Parameters of a model: which leaves are free, what they may be, and their flat vector.

A field of a model or component declares its constraint once::

    scale: Array = parameter(Positive())      # learned, stays positive
    floor: Array = constant()                 # data of the model, never learned

An array field that says nothing is a real parameter. From these declarations come the
unconstrained vector that solvers extrapolate in, the count of free parameters, and the M-step of
components that give no closed one. The vector may be redundant (a simplex has one number too
many): it is a place to walk in, not a minimal chart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array, PyTree

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Real:
    """Any real number."""

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return value

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        return free

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        return _size(shape)


@dataclasses.dataclass(frozen=True)
class Positive:
    """A number above zero; the free coordinate is its logarithm."""

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        return _namespace(free).exp(free)

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        return _size(shape)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number strictly between ``low`` and ``high``; the free coordinate is a logit."""

    low: float = 0.0
    high: float = 1.0

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        tiny = jnp.finfo(value.dtype).eps
        unit = jnp.clip((value - self.low) / (self.high - self.low), tiny, 1 - tiny)
        return jnp.log(unit) - jnp.log1p(-unit)

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        return self.low + (self.high - self.low) / (1.0 + _namespace(free).exp(-free))

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        return _size(shape)


@dataclasses.dataclass(frozen=True)
class Simplex:
    """Probabilities that sum to one along the last axis; the free coordinates are logarithms."""

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        xp = _namespace(free)
        highest = xp.max(free, axis=-1, keepdims=True)  # its gradient cancels
        relative = xp.exp(free - (highest if xp is np else jax.lax.stop_gradient(highest)))
        return relative / xp.sum(relative, axis=-1, keepdims=True)

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        return _size(shape[:-1]) * (shape[-1] - 1)


@dataclasses.dataclass(frozen=True)
class PositiveDefinite:
    """Symmetric positive definite matrices on the last two axes, in log-Cholesky coordinates.

    Pinheiro & Bates (1996), "Unconstrained parametrizations for variance-covariance matrices",
    section 2.2.
    """

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        factor = _factors.cholesky(value)
        diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
        return jnp.tril(factor, -1) + _diagonal_matrix(jnp.log(diagonal))

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        xp = _namespace(free)
        diagonal = xp.exp(xp.diagonal(free, axis1=-2, axis2=-1))
        eye = np.eye(free.shape[-1], dtype=free.dtype)
        factor = xp.tril(free, -1) + diagonal[..., None] * eye
        return factor @ xp.swapaxes(factor, -1, -2)

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom of an array of this shape."""
        d = shape[-1]
        return _size(shape[:-2]) * d * (d + 1) // 2


_REAL = Real()
Constraint = Any  # free(value), value(free), count(shape); or a function module -> constraint


def parameter(constraint: Constraint | Callable[[Any], Constraint], **keywords: Any) -> Any:
    """Declare a learned array field and what it may be.

    Args:
        constraint: a constraint, or a function of the module that returns one (for constraints
            that depend on the module's structure).
        keywords: passed on to the dataclass field, for example ``default``.
    """
    return eqx.field(metadata={"constraint": constraint}, **keywords)


def constant(**keywords: Any) -> Any:
    """Declare an array field (or a submodule) that no solver may change."""
    return eqx.field(metadata={"constraint": None}, **keywords)


def positive(**keywords: Any) -> Any:
    """Declare a learned field whose entries stay above zero."""
    return parameter(Positive(), **keywords)


def unit_interval(**keywords: Any) -> Any:
    """Declare a learned field whose entries stay between zero and one."""
    return parameter(Interval(), **keywords)


def simplex(**keywords: Any) -> Any:
    """Declare a learned field of probabilities that sum to one along the last axis."""
    return parameter(Simplex(), **keywords)


def real(**keywords: Any) -> Any:
    """Declare a learned field without constraint."""
    return parameter(Real(), **keywords)


def leaf_constraints(module: PyTree) -> list[Constraint | None]:
    """The constraint of every array leaf in flattening order; None for what is not learned."""
    return list(_walk(module, Real()))


def to_vector(module: PyTree) -> Float[Array, " p"]:
    """All learned leaves in free coordinates, one after the other."""
    leaves = jax.tree.leaves(module)
    pairs = zip(leaves, leaf_constraints(module), strict=True)
    return jnp.concatenate([c.free(leaf).ravel() for leaf, c in pairs if c is not None])


def from_vector(module: PyTree, vector: Float[Array, " p"]) -> PyTree:
    """The module with its learned leaves read back from a vector of free coordinates."""
    leaves, structure = jax.tree.flatten(module)
    replaced, start = [], 0
    for leaf, constraint in zip(leaves, leaf_constraints(module), strict=True):
        if constraint is None:
            replaced.append(leaf)
            continue
        free = vector[start : start + leaf.size].reshape(leaf.shape)
        replaced.append(constraint.value(free))
        start += leaf.size
    return jax.tree.unflatten(structure, replaced)


def count_parameters(module: PyTree, fixed: PyTree | None = None) -> int:
    """Number of free parameters, leaving out what is fixed."""
    leaves = jax.tree.leaves(module)
    frozen = [False] * len(leaves) if fixed is None else jax.tree.leaves(fixed)
    constraints = leaf_constraints(module)
    total = 0
    for leaf, constraint, hold in zip(leaves, constraints, frozen, strict=True):
        if constraint is not None:
            total += round(constraint.count(leaf.shape) * (1.0 - float(np.mean(np.asarray(hold)))))
    return total


def hold(fixed: PyTree | None, module: PyTree, new: PyTree) -> PyTree:
    """``new``, with every fixed entry put back to what it is in ``module``."""
    if fixed is None:
        return new
    return jax.tree.map(lambda f, old, value: keep(f, old, value), fixed, module, new)


def keep(fixed: Any, old: Array | None, new: Array) -> Array:
    """``old`` where ``fixed`` (leading axes) holds, else ``new``."""
    if fixed is None or old is None or fixed is False:
        return new
    xp = _namespace(new)
    mask = xp.asarray(fixed)
    return xp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), old, new)


def given(value: Value | None) -> Value:
    """The value of a field that only a template leaves open.

    Raises:
        ValueError: for a template's field.
    """
    if value is None:
        raise ValueError(
            "This is a template, whose parameters are still to be learned: fit it, or give it all "
            "of its parameters, first."
        )
    return value


def has_all_parameters(module: Any) -> bool:
    """Whether every learned field has a value; a template has not."""
    if not isinstance(module, eqx.Module):
        return True
    for field in dataclasses.fields(module):
        if field.metadata.get("static", False) or field.metadata.get("constraint", _REAL) is None:
            continue
        value = getattr(module, field.name)
        items = value if isinstance(value, tuple | list) else (value,)
        if any(item is None or not has_all_parameters(item) for item in items):
            return False
    return True


def filled(template: PyTree, module: PyTree) -> PyTree:
    """``module``, with every value that ``template`` gives put in."""
    return jax.tree.map(
        lambda given, new: new if given is None else given,
        template,
        module,
        is_leaf=lambda leaf: leaf is None,
    )


class Hold(NamedTuple):
    """A parameter to hold for some components only: ``mask`` (k,) is True where held."""

    parameter: Any
    mask: Any


def fixed_mask(module: Any, where: Callable[[Any], Any]) -> Any:
    """Booleans shaped like the finished module: True on what ``where`` selects.

    Raises:
        ValueError: when nothing with a value is selected.
    """
    selected = where(module)
    selected = selected if isinstance(selected, tuple | list) else (selected,)
    selected = (selected,) if isinstance(selected, Hold) else selected
    masks = {}
    for item in selected:
        held = item if isinstance(item, Hold) else Hold(item, True)
        masks.update({id(leaf): held.mask for leaf in jax.tree.leaves(held.parameter)})
    if not masks:
        raise ValueError(
            "fixed selects no parameter that has a value: put the value into the model first."
        )
    return _mask(module, masks, _REAL)


def _mask(node: Any, masks: dict[int, Any], constraint: Any) -> Any:
    if isinstance(node, eqx.Module):
        return _mask_module(node, masks, constraint)
    if isinstance(node, tuple | list):
        return type(node)(_mask(item, masks, constraint) for item in node)
    if node is None:
        return None if constraint is None else False
    return np.asarray(masks.get(id(node), False))


def _mask_module(module: eqx.Module, masks: dict[int, Any], inherited: Any) -> Any:
    copy = object.__new__(type(module))
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if not field.metadata.get("static", False):
            own = None if inherited is None else field.metadata.get("constraint", _REAL)
            value = _mask(value, masks, own)
        object.__setattr__(copy, field.name, value)
    return copy


def _walk(node: Any, inherited: Constraint | None) -> Iterator[Constraint | None]:
    if node is None:
        return
    if isinstance(node, eqx.Module):
        yield from _walk_fields(node, inherited)
    elif isinstance(node, tuple | list):
        for item in node:
            yield from _walk(item, inherited)
    else:
        yield from (inherited for _ in jax.tree.leaves(node))


def _walk_fields(module: eqx.Module, inherited: Constraint | None) -> Iterator[Constraint | None]:
    for field in dataclasses.fields(module):
        if field.metadata.get("static", False):
            continue
        constraint = field.metadata.get("constraint", Real())
        if inherited is None:
            constraint = None
        if callable(constraint):
            constraint = constraint(module)
        yield from _walk(getattr(module, field.name), constraint)


def _namespace(array: Array) -> Any:
    """NumPy for host arrays, so that no program is compiled for them; JAX otherwise."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _diagonal_matrix(diagonal: Array) -> Array:
    return diagonal[..., None] * jnp.eye(diagonal.shape[-1], dtype=diagonal.dtype)
