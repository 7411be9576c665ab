r"""A target from a plain function of named unknowns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._config import precision
from minorant._types import Array
from minorant.models.target import AbstractTarget, Traced, traced
from minorant.unknowns import AbstractUnknown, Finite

_MOST_TERMS = 4096


class Declared:
    """Unknowns by name, compared by identity."""

    def __init__(self, unknowns: dict[str, AbstractUnknown]) -> None:
        """Keep them in the order given."""
        self.unknowns = unknowns


class Target(AbstractTarget):
    r"""A log density over named unknowns, from a function of them.

    .. math:: \log p(x, \theta), \quad \text{as a function of } \theta \text{ at the data } x

    Args:
        log_density: a function of the unknowns, called by keyword, that returns one number: the
            log joint density of data and unknowns, in nats. Constants you leave out are left out
            of the evidence. Data are closed over. It is traced once, by JAX, in float64.
        derived: a function of the unknowns that returns a dict of arrays to report beside them;
            with finite unknowns, its mean over those is reported.
        start: values of all unknowns to start from; None for several starts around zero.
        unknowns: from :mod:`minorant.unknowns`, by name. Those that are ``finite(k, ...)`` are
            summed out exactly; under their names probabilities of their values are reported.

    Raises:
        TypeError: when an unknown is not one, or the function cannot be traced.
        ValueError: without continuous unknowns, with more than 4096 values of the finite ones
            together, when the function does not return one number, or a start is outside the
            support.

    Example:
        >>> import minorant
        >>> from minorant import unknowns
        >>> def log_density(mean, scale):
        ...     return -0.5 * ((mean - 3.0) / 2.0) ** 2 - scale
        >>> target = minorant.Target(log_density, mean=unknowns.real(), scale=unknowns.positive())
        >>> target.size
        2

    Not for: latents of each row of a table (write a ``minorant.Model``); whole numbers without an
    upper end.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    program: Traced = eqx.field(static=True)
    constants: list[Array]
    viewer: Traced = eqx.field(static=True)
    viewed: list[Array]
    dimensions: int = eqx.field(static=True)
    declared: Declared = eqx.field(static=True)
    start: Array | None

    def __init__(
        self,
        log_density: Callable[..., Any],
        /,
        *,
        derived: Callable[..., dict[str, Any]] | None = None,
        start: dict[str, Any] | None = None,
        **unknowns: AbstractUnknown | Finite,
    ) -> None:
        """Trace the function; see the class."""
        _check_unknowns(unknowns)
        _check_function(log_density, unknowns)
        self.names = tuple(unknowns)
        walked = {n: u for n, u in unknowns.items() if isinstance(u, AbstractUnknown)}
        terms = _Terms({n: u for n, u in unknowns.items() if isinstance(u, Finite)}, log_density)
        self.declared = Declared(walked)
        self.dimensions = sum(unknown.size for unknown in walked.values())

        def joint(free: Array) -> Array:
            known, log_jacobian = _unpack(walked, free)
            return terms.total(known) + log_jacobian

        def view(free: Array) -> dict[str, Array]:
            known = _unpack(walked, free)[0]
            found = terms.view(known, derived)
            return {name: found.pop(name) for name in unknowns} | found

        with precision(np.dtype(np.float64)):
            self.program, self.constants = _traced(joint, self.dimensions, "log_density")
            self.viewer, self.viewed = _traced(view, self.dimensions, "derived")
            self.start = None if start is None else _free(walked, start)[0]

    @property
    def size(self) -> int:
        """The number p of free coordinates."""
        return self.dimensions

    def log_density(self, free: Float[Array, " p"]) -> Float[Array, ""]:
        """Log density of free coordinates, Jacobian included."""
        return self.program(self.constants, free)

    def values(self, free: Float[Array, " p"]) -> dict[str, Array]:
        """The named unknowns and what is derived from them."""
        return self.viewer(self.viewed, free)

    def free(self, values: dict[str, Any]) -> tuple[Float[Array, " p"], Float[Array, ""]]:
        """Free coordinates of named values, and the log Jacobian there.

        Raises:
            ValueError: when a name is missing, a shape is wrong, or a value is outside.
        """
        return _free(self.declared.unknowns, values)

    def initial(self) -> Float[np.ndarray, " p"] | None:
        """Free coordinates of ``start``."""
        return None if self.start is None else np.asarray(self.start)

    def work(self) -> int:
        """The largest number of array entries that one evaluation holds at once."""
        return self.program.work()


class _Terms:
    """The sum over all values of the finite unknowns; without any, the one term there is."""

    def __init__(self, finite: dict[str, Finite], log_density: Callable[..., Any]) -> None:
        """Every combination of values, one after the other."""
        self._finite, self._log_density = finite, log_density
        places = np.indices([unknown.count for unknown in finite.values()])
        self._values = {
            name: unknown.every()[place.ravel()]
            for (name, unknown), place in zip(finite.items(), places, strict=True)
        }

    def total(self, known: dict[str, Array]) -> Float[Array, ""]:
        """The log density, finite unknowns summed out."""
        return jax.nn.logsumexp(self._each(known)) if self._finite else self._one(known)

    def view(
        self, known: dict[str, Array], derived: Callable[..., dict[str, Any]] | None
    ) -> dict[str, Array]:
        """Values, probabilities of the finite ones given them, and what is derived."""
        if not self._finite:
            return known | (_derived(derived, known) if derived else {})
        probability = jax.nn.softmax(self._each(known))
        found = {
            name: jnp.tensordot(probability, jax.nn.one_hot(self._values[name], one.n_values), 1)
            for name, one in self._finite.items()
        }
        if not derived:
            return known | found
        every = jax.vmap(lambda values: _derived(derived, known | values))(self._values)
        means = {name: jnp.tensordot(probability, value, 1) for name, value in every.items()}
        return known | found | means

    def _one(self, known: dict[str, Array]) -> Float[Array, ""]:
        return _one_number(self._log_density(**known))

    def _each(self, known: dict[str, Array]) -> Float[Array, " s"]:
        return jax.vmap(lambda values: self._one(known | values))(self._values)


def _check_function(log_density: Any, unknowns: dict[str, Any]) -> None:
    """The function takes these unknowns by name, and no others that it must have.

    Raises:
        TypeError: where it does not.
    """
    if not callable(log_density):
        kind = type(log_density).__name__
        raise TypeError(f"log_density must be a function of the unknowns; got {kind}.")
    try:
        inspect.signature(log_density).bind(**unknowns)
    except TypeError as error:
        raise TypeError(
            f"log_density is called by keyword with {', '.join(unknowns)}, which it does not take: "
            f"{error}. Name its arguments as the unknowns are named."
        ) from None
    except ValueError:  # a built-in function without a signature
        return


def _check_unknowns(unknowns: dict[str, Any]) -> None:
    for name, unknown in unknowns.items():
        if not isinstance(unknown, AbstractUnknown | Finite):
            raise TypeError(
                f"{name} must be an unknown, such as minorant.unknowns.real() or .positive(); got "
                f"{type(unknown).__name__}."
            )
    if not any(isinstance(unknown, AbstractUnknown) for unknown in unknowns.values()):
        raise ValueError(
            "A target needs continuous unknowns: Target(log_density, mean=unknowns.real(), ...)."
        )
    terms = math.prod(u.count for u in unknowns.values() if isinstance(u, Finite))
    if terms > _MOST_TERMS:
        raise ValueError(
            f"The finite unknowns take {terms} values together, more than {_MOST_TERMS}: sum those "
            "that do not depend on each other inside log_density, each by itself (logsumexp)."
        )


def _unpack(
    unknowns: dict[str, AbstractUnknown], free: Array
) -> tuple[dict[str, Array], Float[Array, ""]]:
    """Named values and the sum of log Jacobians."""
    known: dict[str, Array] = {}
    total, begin = jnp.zeros((), free.dtype), 0
    for name, unknown in unknowns.items():
        part = free[begin : begin + unknown.size]
        known[name], log_jacobian = unknown.value(part, dict(known))
        total, begin = total + log_jacobian, begin + unknown.size
    return known, total


def _free(
    unknowns: dict[str, AbstractUnknown], values: dict[str, Any]
) -> tuple[np.ndarray, Float[Array, ""]]:
    """Free coordinates of named values and the log Jacobian there."""
    missing = sorted(set(unknowns) - set(values))
    if missing:
        raise ValueError(f"Values are needed for every unknown; {missing} are missing.")
    known: dict[str, Array] = {}
    parts = []
    for name, unknown in unknowns.items():
        value = jnp.asarray(values[name], float)
        if value.shape != unknown.shape:
            raise ValueError(f"{name} must have shape {unknown.shape}; got {value.shape}.")
        part = np.asarray(unknown.free(value, dict(known)))
        if not np.isfinite(part).all():
            raise ValueError(
                f"{name} = {np.asarray(value)} is not strictly inside its support: give a value "
                "that is."
            )
        parts.append(part)
        known[name] = value
    free = np.concatenate(parts)
    return free, _unpack(unknowns, jnp.asarray(free))[1]


def _one_number(answer: Any) -> Array:
    answer = jnp.asarray(answer)
    if answer.shape != ():
        raise ValueError(
            f"log_density must return one number; it returned shape {answer.shape}. Sum the log "
            "densities of the data and of every prior (.sum())."
        )
    return answer.astype(float)


def _derived(function: Callable[..., Any], known: dict[str, Array]) -> dict[str, Array]:
    answer = function(**known)
    if not isinstance(answer, dict):
        raise TypeError(f"derived must return a dict of named arrays; got {type(answer).__name__}.")
    return {name: jnp.asarray(value) for name, value in answer.items()}


def _traced(function: Callable[[Array], Any], size: int, name: str) -> tuple[Traced, list[Array]]:
    """Traced, with sentences for what cannot be."""
    try:
        return traced(function, size)
    except jax.errors.TracerBoolConversionError as error:
        raise TypeError(
            f"{name} asks 'if' (or 'while', 'and', 'or') of a value that depends on unknowns, "
            "which one compiled program cannot do: use jnp.where(condition, a, b)."
        ) from error
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            f"{name} hands an unknown to NumPy or to Python's float(), int() or math: use the "
            "functions of jax.numpy and jax.scipy instead."
        ) from error
