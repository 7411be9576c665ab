"""`minorant.check` of models of rows: which row, which parameter."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import minorant
from minorant import unknowns
from minorant.components import Gaussian, Poisson

dist = pytest.importorskip("numpyro.distributions")
ROWS = np.array([[1.0], [2.0], [5.0]])


class Reach(minorant.Model):
    """A scale whose gradient is lost at zero, behind a square root."""

    level: Array
    hidden: Array

    def prior(self):
        return dist.Normal(0.0, 1.0)

    def likelihood(self, z):
        scale = 1.0 + jnp.sqrt(self.hidden**2)
        return dist.Normal(self.level + z, scale * jnp.ones(1)).to_event(1)


class Narrow(Reach):
    """A density that ends at 3."""

    def likelihood(self, z):
        return dist.Uniform(jnp.zeros(1), 3.0 + 0.0 * (self.level + z)).to_event(1)


def test_a_sound_model_and_a_sound_target_have_nothing_in_the_way():
    assert "Nothing" in minorant.check(minorant.Mixture(Gaussian(), n_components=1), ROWS)
    assert "Nothing" in minorant.check(Reach(np.array(0.0), np.array(1.0)), ROWS)
    assert "Nothing" in minorant.check(minorant.Target(lambda a: -(a**2), a=unknowns.real()))


def test_a_parameter_whose_gradient_is_lost_is_named():
    with pytest.raises(ValueError, match=r"gradient of log p\(X\) by hidden"):
        minorant.check(Reach(np.array(0.0), np.array(0.0)), ROWS)


def test_cells_outside_the_support_are_named():
    with pytest.raises(ValueError, match="row 2"):
        minorant.check(Narrow(np.array(0.0), np.array(1.0)), ROWS)
    with pytest.raises(ValueError, match="row 0"):
        minorant.check(minorant.Mixture(Poisson(), n_components=2), -ROWS)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model of rows or a target"):
        minorant.check(3.0, ROWS)
