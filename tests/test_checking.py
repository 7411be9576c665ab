"""What a target's check says of log densities that cannot be climbed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minorant
from minorant import unknowns
from minorant.checking import check_target
from minorant.targets import Target

X = np.arange(5.0)


def _check(function, **declared):
    return check_target(Target(function, **(declared or {"a": unknowns.real()})))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a: jnp.log(-1.0 - a**2), "NaN at all"),
        (lambda a: jnp.where(a > 1e9, 0.0, -jnp.inf) - a**2, "-inf at all"),
        (lambda a: -jnp.sqrt(0.0 * a) - a**2, "gradient by a is not"),
        (lambda a: -(jnp.round(a) ** 2) * 1.0, "does not depend on a"),
        (lambda a: -(jax.lax.stop_gradient(a) ** 2) - 1e-3 * a**2, "not its slope"),
    ],
)
def test_what_is_not_a_smooth_finite_function_is_refused(function, words):
    with pytest.raises(ValueError, match=words):
        _check(function)


def test_an_unknown_that_nothing_depends_on_is_named():
    with pytest.raises(ValueError, match="does not depend on b"):
        _check(lambda a, b: -(a**2), a=unknowns.real(), b=unknowns.positive(2))


def test_a_support_narrower_than_declared_is_told():
    found = _check(lambda a: jnp.log(jnp.where(a > 0, a, jnp.nan)) - a)
    assert "not finite although" in found.sentence
    assert (found.starts > 0).all()


def test_starts_are_sorted_and_finite():
    found = _check(lambda a: -0.5 * (a - 1.0) ** 2)
    assert found.sentence == ""
    away = np.abs(found.starts[:, 0] - 1.0)
    assert (np.diff(away) >= 0).all()


@pytest.mark.parametrize("size", [1e-3, 2.0])
def test_a_jump_is_told_with_its_size_and_its_unknown(size):
    def function(a, b):
        return -0.5 * (a**2).sum() - b + jnp.log(b) + jnp.where(b > 1.3, size, 0.0)

    found = _check(function, a=unknowns.real(3), b=unknowns.positive())
    assert f"jumps by {size:.3g} nats in b" in found.sentence


@pytest.mark.parametrize(
    "function",
    [
        lambda a: -jnp.abs(a - 0.3),  # a kink is climbed
        lambda a: -1e4 * (a - 1.7) ** 4 - jnp.exp(3 * a),
        lambda a: jnp.where(a > 0.3, -(a**2), -jnp.inf) - 1e3,  # an edge is told otherwise
    ],
)
def test_kinks_curvature_and_edges_are_no_jumps(function):
    assert "jumps" not in _check(function).sentence


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Target(lambda a: -(a**2) if a > 0 else a), TypeError, "unknowns.real"),
        (
            lambda: Target(lambda a: -(a**2) if a > 0 else a, a=unknowns.real()),
            TypeError,
            "jnp.where",
        ),
        (lambda: Target(lambda a: np.asarray(a), a=unknowns.real()), TypeError, "jax.numpy"),
        (lambda: Target(lambda a: a * X, a=unknowns.real()), ValueError, "one number"),
        (lambda: Target(lambda a: -(a**2), a=3.0), TypeError, "a must be an unknown"),
        (lambda: Target(lambda b: -(b**2), a=unknowns.real()), TypeError, "Name its arguments"),
        (lambda: Target(3.0, a=unknowns.real()), TypeError, "must be a function"),
        (lambda: unknowns.interval(2, 1), ValueError, "low < high"),
        (lambda: unknowns.simplex(1), ValueError, "at least 2"),
        (
            lambda: Target(lambda a: -(a**2), a=unknowns.positive(), start={"a": -1.0}),
            ValueError,
            "not strictly inside",
        ),
        (
            lambda: Target(lambda a: -(a**2).sum(), a=unknowns.real(2), start={"a": 1.0}),
            ValueError,
            "must have shape",
        ),
    ],
)
def test_what_is_not_a_target_is_refused(make, error, words):
    with pytest.raises((error, ValueError, TypeError), match=words):
        make()


def test_an_improper_density_is_not_called_converged():
    flat = Target(lambda a, b: -((a - b) ** 2), a=unknowns.real(), b=unknowns.real())
    fit = minorant.fit(flat, posterior="full-rank")
    assert fit.outcome is minorant.Outcome.IMPROPER
    assert not fit.outcome.ok
