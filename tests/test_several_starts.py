"""Several starts of models whose latent is no partition: around the first one, moved at random."""

from __future__ import annotations

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import minorant
from minorant._parameters import to_vector
from minorant._scatter import scattered
from minorant.components import Full
from minorant.estimators import FactorAnalysis
from minorant.models import StateSpace
from minorant.models._state_space_shapes import rotated
from minorant.solvers.starts import Starts

pytestmark = pytest.mark.usefixtures("float64")


class Level(minorant.Model):
    """Rows about one level with heavy tails; two heaps of rows make two maxima."""

    level: jax.Array

    def prior(self):
        """A state that says nothing."""
        return dist.Bernoulli(0.5)

    def likelihood(self, z):
        """About the level."""
        return dist.Cauchy(self.level + 0.0 * z, 0.5).to_event(1)


class Doomed(Level):
    """The same, its second start not a number."""

    def perturbed(self, rng):
        """Nowhere."""
        del rng
        return type(self)(np.full(1, np.nan))


def heaps(n: int) -> np.ndarray:
    """Two fifths of the rows about 0, three fifths about 12."""
    rng = np.random.default_rng(0)
    return np.where(np.arange(n) % 5 < 2, 0.0, 12.0)[:, None] + 0.3 * rng.normal(size=(n, 1))


def truth(rows: np.ndarray) -> list[float]:
    """Where the likelihood is highest near each heap, on a grid."""
    found = []
    for middle in (0.0, 12.0):
        grid = middle + np.linspace(-0.5, 0.5, 2001)
        found.append(grid[np.argmax(-np.log1p(((rows - grid) / 0.5) ** 2).sum(0))])
    return found


def test_several_starts_find_the_higher_of_two_maxima():
    rows = heaps(40)
    lower, higher = truth(rows)
    one = minorant.fit(Level(np.array([4.0])), rows)
    many = minorant.fit(Level(np.array([4.0])), rows, starts=Starts(6))
    assert one.model.level[0] == pytest.approx(lower, abs=1e-3)
    assert many.model.level[0] == pytest.approx(higher, abs=1e-3)
    assert many.bound > one.bound + 1.0
    assert [round(found.distance) for found in many.optima] == [0, 12]
    assert many.optima[0].objective == pytest.approx(many.objective)
    assert sum(len(found.starts) for found in many.optima) == 6
    again = minorant.fit(Level(np.array([4.0])), rows, starts=Starts(6))
    assert again.bound == many.bound
    other = minorant.fit(Level(np.array([4.0])), rows, starts=Starts(6), random_state=5)
    assert other.climbs[-1].point != many.climbs[-1].point


def test_a_start_that_is_no_number_is_set_aside():
    rows = heaps(40)
    found = minorant.fit(Doomed(np.array([4.0])), rows, starts=Starts(2))
    assert found.outcome.ok
    assert "dead and set aside: [1]" in found.starts
    assert found.model.level[0] == pytest.approx(truth(rows)[0], abs=1e-3)


def test_of_many_rows_the_first_start_is_always_climbed_on_all():
    rows = heaps(1500)
    found = minorant.fit(Level(np.array([4.0])), rows, starts=Starts(6, n_climbed=1))
    assert {climb.start for climb in found.climbs} >= {0}
    assert len(found.climbs) == 2
    assert found.model.level[0] == pytest.approx(truth(rows)[1], abs=1e-3)
    assert [len(one.starts) for one in found.optima] == [1, 1]


def test_factors_that_are_turned_are_one_optimum():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(60, 6))
    model = FactorAnalysis(2, n_init=4, random_state=0).fit(rows)
    (only,) = model.fit_.optima
    assert len(only.starts) == len(model.fit_.climbs) > 1
    alone = FactorAnalysis(2).fit(rows)
    assert model.fit_.bound == pytest.approx(alone.fit_.bound, abs=1e-6)


def test_state_space_starts_are_stable_and_what_is_given_stays():
    rng = np.random.default_rng(2)
    rows = np.cumsum(rng.normal(size=(60, 1)), 0) + rng.normal(size=(60, 1))
    given = StateSpace(n_states=2, observation_offset=[0.25], held=("observation_offset",))
    one = minorant.fit(given, rows, max_steps=50)
    found = minorant.fit(given, rows, starts=Starts(3), max_steps=50)
    assert found.bound >= one.bound - 1e-3
    assert found.model.observation_offset[0] == pytest.approx(0.25)
    wild = np.random.default_rng(3)
    for _ in range(5):
        moved = one.standardised.perturbed(wild)
        assert np.abs(np.linalg.eigvals(moved.transition)).max() < 1.0


def test_states_that_are_turned_are_one_optimum():
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(80, 3))
    fit = minorant.fit(StateSpace(n_states=2), rows, max_steps=20)
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    model = fit.standardised
    assert np.abs(to_vector(rotated(model, turn)) - to_vector(model)).max() > 0.05
    np.testing.assert_allclose(rotated(model, turn).invariants(), model.invariants(), atol=1e-8)


def test_scattering_moves_what_is_learned_by_its_own_size():
    rng = np.random.default_rng(5)
    structure = {"transition_structure": Full(), "held": ("initial_mean",)}
    model = StateSpace(
        np.eye(2) * 100.0, np.zeros((2, 0)), np.zeros(2), 1e-6 * np.eye(2), np.ones((1, 2)),
        np.zeros((1, 0)), np.zeros(1), np.ones(1), np.full(2, 7.0), np.eye(2), **structure,
    )  # fmt: skip
    moved = [scattered(model, rng) for _ in range(200)]
    for one in moved:
        assert np.array_equal(one.initial_mean, model.initial_mean)
        assert (one.observation_covariance > 0).all()
        ratio = one.transition_covariance / 1e-6
        np.testing.assert_allclose(ratio, ratio[0, 0] * np.eye(2), atol=1e-9)
    spread = np.std([one.transition[0, 0] for one in moved])
    assert spread == pytest.approx(0.5 * 100.0 / np.sqrt(2), rel=0.2)  # of its root mean square
    logs = [np.log(one.observation_covariance[0]) for one in moved]
    assert np.std(logs) == pytest.approx(0.5, rel=0.2)
