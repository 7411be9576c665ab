"""Fits of targets on disk: the same numbers again, and the same target only."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.scipy import stats as jstats
from jaxtyping import Array

import minorant
from minorant import unknowns
from minorant.posteriors import AbstractMember


class Shifted(AbstractMember):
    """A user's density: a normal of deviation one."""

    mean: Array

    @property
    def size(self):
        return self.mean.shape[-1]

    def noise(self, key, s):
        return jax.random.normal(key, (s, self.size))

    def transform(self, noise):
        return self.mean + noise, jstats.norm.logpdf(noise).sum(-1)

    def log_density(self, draws):
        return jstats.norm.logpdf(draws - self.mean).sum(-1)


def _target(center=2.0):
    def log_density(z, rate):
        return jstats.norm.logpdf(z, center).sum() + jstats.gamma.logpdf(rate, 3.0)

    return minorant.Target(log_density, z=unknowns.real(2), rate=unknowns.positive())


@pytest.fixture(scope="module")
def fits():
    target = _target()
    own = Shifted(np.array([1.0, 1.0, 0.0]))
    names = {name: name for name in ("full-rank", "exponential-family", "mean-field")}
    return {
        name: minorant.fit(target, posterior=posterior)
        for name, posterior in {**names, "given": own}.items()
    }


@pytest.mark.parametrize("name", ["full-rank", "exponential-family", "mean-field", "given"])
def test_a_loaded_fit_gives_the_same_numbers(fits, name, tmp_path):
    fit = fits[name]
    minorant.save(fit, tmp_path / "fit")
    again = minorant.load(tmp_path / "fit", classes=(Shifted,), target=fit.target)
    assert again.bound == fit.bound
    assert str(again) == str(fit)
    assert str(again.summary()) == str(fit.summary())
    for corrected in (True, False):
        drawn, before = again.sample(50, 3, corrected), fit.sample(50, 3, corrected)
        for unknown, values in before.items():
            np.testing.assert_array_equal(drawn[unknown], values)


@pytest.fixture(scope="module")
def saved(fits, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "fit"
    minorant.save(fits["full-rank"], path)
    return path


def test_the_target_is_asked_for_again(saved):
    with pytest.raises(TypeError, match=r"give it again as load\(..., target=\); got none"):
        minorant.load(saved)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda: _target(2.5), "this target's log density is"),
        (
            lambda: minorant.Target(lambda a: -(a**2), a=unknowns.real()),
            "3 free coordinates; this one has 1",
        ),
        (
            lambda: minorant.Target(lambda a: -(a**2).sum(), a=unknowns.real(3)),
            "give the target that was fitted",
        ),
    ],
)
def test_another_target_is_refused(saved, target, words):
    with pytest.raises(ValueError, match=words):
        minorant.load(saved, target=target())


def test_a_density_of_ones_own_needs_its_class(fits, tmp_path):
    minorant.save(fits["given"], tmp_path / "fit")
    with pytest.raises(ValueError, match="Shifted"):
        minorant.load(tmp_path / "fit", target=fits["given"].target)
