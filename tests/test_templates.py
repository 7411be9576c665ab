"""Templates, whose parameters are still open: what they refuse, in words, and what they know."""

import jax
import numpy as np
import pytest

from minorant._parameters import given
from minorant._types import Rows
from minorant.components import Diagonal, Full, Gaussian
from minorant.models import Mixture
from minorant.models.base import count_components


def _ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("call", [lambda m: m.prepare(), lambda m: m.sample(jax.random.key(0), 3)])
def test_a_template_says_that_it_has_to_be_learned_first(call):
    with pytest.raises(ValueError, match="This is a template"):
        call(Mixture(Gaussian(), n_components=2))


def test_a_value_that_is_there_is_handed_through():
    value = np.zeros(0)
    assert given(value) is value


def test_a_template_knows_its_number_of_components():
    assert count_components(Mixture(Gaussian(), n_components=3)) == 3


@pytest.mark.parametrize(
    ("structure", "covariance"), [(Full(), _ones(1, 1, 1)), (Diagonal(), _ones(1, 1))]
)
def test_completing_complete_rows_by_draws_leaves_them_alone(structure, covariance):
    component = Gaussian(structure, _ones(1, 1), covariance)
    rows = Rows(np.array([[1.5], [-2.0]], np.float32), _ones(2))
    labels = np.zeros(2, dtype=np.int32)
    drawn = component.conditional_sample(jax.random.key(0), rows, labels, component.prepare())
    np.testing.assert_array_equal(drawn, rows.values)
