"""The table of everything that the laws in ``tests/laws`` run over.

To test a new component, solver, posterior or estimator, add a row here: every law then holds for it
or fails by its name. A row says how to make the thing and what is true of it in plain NumPy and
SciPy, never through the code under test. Models of sequences have theirs in ``sequence_cases.py``.

Conventions: makers take a seeded NumPy generator and give float64 NumPy leaves; nothing here calls
JAX but the user's component, which a user writes in it. ``log_prob(component, j, x)`` is the truth
for one row under component ``j``: either one number that has integrated missing (NaN) cells out, or
one number for each cell, NaN where the cell is missing (columns independent given the component:
the laws then leave those cells out).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import component_truth
import jax
import jax.numpy as jnp
import numpy as np
import truth
import truth_factor
from jaxtyping import Array
from scipy import stats

import minorant
from minorant.components import (
    Bernoulli,
    Blocks,
    Custom,
    Diagonal,
    FactorAnalyser,
    Full,
    Gaussian,
    Poisson,
    Spherical,
    StudentT,
    Tied,
)
from minorant.components.priors import Dirichlet, InverseWishart
from minorant.models import (
    Mixture,
)
from minorant.solvers import EM, Anderson, Plain, Squarem


class ComponentCase(NamedTuple):
    """One component family.

    Attributes:
        template: () -> the component with nothing learned, as a user writes it.
        make: (rng, k, d) -> the component with all parameters, floors and priors filled in.
        simulate: (rng, component, labels (n,)) -> rows (n, d), by NumPy alone.
        log_prob: (component, j, x (d,)) -> the true log density, see the module's conventions.
        missing: whether cells may be missing.
        units: what may be done to rows: "affine" (shift and scale), "common" (shift, and one
            scale for all columns), "scale" (scale only), or "none"; or one of these for each
            column, with "common" not among them.
        closed: whether ``maximise`` is the exact maximiser (else: it never lowers).
        columns: how many columns the laws use.
        has_prior: whether it carries a prior; laws of the likelihood alone then leave it out.
    """

    template: Callable[[], Any]
    make: Callable[[np.random.Generator, int, int], Any]
    simulate: Callable[[np.random.Generator, Any, np.ndarray], np.ndarray]
    log_prob: Callable[[Any, int, np.ndarray], Any]
    missing: bool = True
    units: str | tuple[str, ...] = "none"
    closed: bool = True
    columns: int = 3
    has_prior: bool = False


class ModelCase(NamedTuple):
    """One model: a component of the table, what the mixture adds, and whether it has priors."""

    component: ComponentCase
    make: Callable[[np.random.Generator, int, int], Any]
    has_prior: bool = False


def random_matrices(rng: np.random.Generator, k: int, d: int) -> np.ndarray:
    """Positive definite (k, d, d), eigenvalues of at least 0.3."""
    root = rng.normal(size=(k, d, d)) + 1.5 * np.eye(d)
    return root @ root.transpose(0, 2, 1) / d + 0.3 * np.eye(d)


def gaussian_case(structure: Any, prior: Any = None) -> ComponentCase:
    """A Gaussian component with a covariance structure."""

    def make(rng: np.random.Generator, k: int, d: int) -> Gaussian:
        matrices = random_matrices(rng, k, d)
        floor, own = np.full(d, 1e-6), None
        if prior is not None:
            own = InverseWishart(np.eye(d), np.asarray(d + 2.0))
        mean = 2.0 * rng.normal(size=(k, d))
        return Gaussian(structure, mean, truth.stored(structure, matrices), floor, own)

    return ComponentCase(
        template=lambda: Gaussian(structure, prior=prior),
        make=make,
        simulate=simulate_gaussian,
        log_prob=lambda c, j, x: truth.normal_log_density(
            x, c.mean[j], truth.covariance_matrix(c.structure, c.covariance, j, len(x))
        ),
        units="common" if isinstance(structure, Spherical) else "affine",
        has_prior=prior is not None,
    )


def simulate_gaussian(rng: np.random.Generator, component: Any, labels: np.ndarray) -> np.ndarray:
    """One row for every label."""
    k, d = component.mean.shape
    matrices = [
        truth.covariance_matrix(component.structure, component.covariance, j, d) for j in range(k)
    ]
    return np.stack([rng.multivariate_normal(component.mean[z], matrices[z]) for z in labels])


def column_case(name: str) -> ComponentCase:
    """A component with independent columns; its twins are in ``component_truth``."""
    template, make, simulate, units = component_truth.COLUMNS[name]
    cell = getattr(component_truth, name)
    return ComponentCase(template, make, simulate, log_prob=cell, units=units)


def student_t_case(structure: Any) -> ComponentCase:
    """A Student-t component with a scale structure; closed only in the rows' precisions."""

    def make(rng: np.random.Generator, k: int, d: int) -> StudentT:
        scale = truth.stored(structure, random_matrices(rng, k, d))
        degrees, mean = rng.uniform(2.5, 12.0, size=k), 2.0 * rng.normal(size=(k, d))
        return StudentT(structure, mean, scale, degrees, np.full(d, 1e-6))

    return ComponentCase(
        template=lambda: StudentT(structure),
        make=make,
        simulate=simulate_student_t,
        log_prob=lambda c, j, x: truth.student_t_log_density(
            x, c.mean[j], truth.covariance_matrix(c.structure, c.scale, j, len(x)), c.degrees[j]
        ),
        units="common" if isinstance(structure, Spherical) else "affine",
        closed=False,
    )


def simulate_student_t(rng: np.random.Generator, component: Any, labels: np.ndarray) -> np.ndarray:
    """Normal rows over the root of a chi-square mean."""
    k, d = component.mean.shape
    matrices = [
        truth.covariance_matrix(component.structure, component.scale, j, d) for j in range(k)
    ]
    noise = [rng.multivariate_normal(np.zeros(d), matrices[z]) for z in labels]
    degrees = component.degrees[labels]
    heavy = np.sqrt(degrees / rng.chisquare(degrees))
    return component.mean[labels] + np.stack(noise) * heavy[:, None]


BLOCKS = {"gaussian-full": (3, 0), "bernoulli": (1,), "poisson": (2, 4)}


def blocks_case(cases: dict[str, ComponentCase]) -> ComponentCase:
    """Components of the table on their own columns, out of order."""
    parts = [(cases[name], list(columns)) for name, columns in BLOCKS.items()]
    columns = tuple(BLOCKS.values())

    def make(rng: np.random.Generator, k: int, d: int) -> Blocks:
        return Blocks(tuple(case.make(rng, k, len(own)) for case, own in parts), columns)

    def simulate(rng: np.random.Generator, component: Any, labels: np.ndarray) -> np.ndarray:
        values = np.empty((len(labels), sum(map(len, columns))))
        for (case, own), part in zip(parts, component.parts, strict=True):
            values[:, own] = case.simulate(rng, part, labels)
        return values

    def log_prob(component: Any, j: int, x: np.ndarray) -> float:
        pairs = zip(parts, component.parts, strict=True)
        return sum(np.nansum(case.log_prob(part, j, x[own])) for (case, own), part in pairs)

    return ComponentCase(
        template=lambda: Blocks((Gaussian(), Bernoulli(), Poisson()), columns),
        make=make,
        simulate=simulate,
        log_prob=log_prob,
        units=("affine", "none", "none", "affine", "none"),
        columns=sum(map(len, columns)),
    )


def factor_analyser_case(noise: Any) -> ComponentCase:
    """Two factors of three columns: the latent one is integrated out, the M-step one of its EM."""

    def make(rng: np.random.Generator, k: int, d: int) -> FactorAnalyser:
        loadings = rng.normal(size=(k, d, 2))
        variance = rng.uniform(0.3, 1.0, (k, d) if isinstance(noise, Diagonal) else k)
        mean = 2.0 * rng.normal(size=(k, d))
        return FactorAnalyser(2, noise, mean, loadings, variance, np.full(d, 1e-6))

    return ComponentCase(
        template=lambda: FactorAnalyser(2, noise),
        make=make,
        simulate=truth_factor.simulate,
        log_prob=truth_factor.log_prob,
        units="common" if isinstance(noise, Spherical) else "affine",
        closed=False,
    )


class Logistic(minorant.Component):
    """A user's component: independent logistic columns."""

    location: Array = minorant.real()
    scale: Array = minorant.positive()

    def log_prob(self, x: Array) -> Array:
        return self.log_prob_observed(x, jnp.ones(x.shape, bool))

    def log_prob_observed(self, x: Array, observed: Array) -> Array:
        away = jnp.abs(x - self.location) / self.scale
        cells = -away - 2.0 * jnp.log1p(jnp.exp(-away)) - jnp.log(self.scale)
        return jnp.where(observed, cells, 0.0).sum()

    def sample(self, key: Array) -> Array:
        draws = jax.random.logistic(key, self.location.shape, self.location.dtype)
        return self.location + self.scale * draws


def make_logistic(rng: np.random.Generator, k: int, d: int) -> Custom:
    """k users' components, stacked."""
    return Custom(Logistic(2.0 * rng.normal(size=(k, d)), rng.uniform(0.3, 1.0, (k, d))))


def simulate_logistic(rng: np.random.Generator, component: Any, labels: np.ndarray) -> np.ndarray:
    """One row for every label."""
    own = component.parameters
    return rng.logistic(own.location[labels], own.scale[labels])


_STRUCTURES = {"full": Full, "tied": Tied, "diagonal": Diagonal, "spherical": Spherical}

COMPONENTS: dict[str, ComponentCase] = {
    **{f"gaussian-{name}": gaussian_case(kind()) for name, kind in _STRUCTURES.items()},
    **{
        f"gaussian-{name}-centred": gaussian_case(kind(centred=True))
        for name, kind in _STRUCTURES.items()
    },
    **{
        f"gaussian-{name}-prior": gaussian_case(kind(), InverseWishart())
        for name, kind in _STRUCTURES.items()
    },
    **{name: column_case(name) for name in component_truth.COLUMNS},
    "factor-analyser": factor_analyser_case(Diagonal()),
    "student-t-full": student_t_case(Full()),
    "student-t-diagonal": student_t_case(Diagonal()),
    "custom": ComponentCase(
        template=lambda: Logistic(np.zeros(3), np.ones(3)),
        make=make_logistic,
        simulate=simulate_logistic,
        log_prob=lambda c, j, x: stats.logistic.logpdf(
            x, c.parameters.location[j], c.parameters.scale[j]
        ),
        closed=False,
    ),
}
COMPONENTS["blocks"] = blocks_case(COMPONENTS)


def mixture_case(component: ComponentCase, prior: Any = None) -> ModelCase:
    """A mixture of a component; k is whatever the maker is asked for."""

    def make(rng: np.random.Generator, k: int, d: int) -> Mixture:
        weights = rng.dirichlet(np.full(k, 5.0))
        return Mixture(component.make(rng, k, d), weights, prior, n_components=k)

    return ModelCase(component, make, component.has_prior or prior is not None)


MODELS: dict[str, ModelCase] = {
    **{name: mixture_case(case) for name, case in COMPONENTS.items()},
    "gaussian-full-dirichlet": mixture_case(
        COMPONENTS["gaussian-full"], Dirichlet(np.asarray(3.0))
    ),
}

LIKELIHOODS = {name: case for name, case in MODELS.items() if not case.has_prior}

# (model, whether cells are missing): a prior does not see the rows, so one table does for it.
VIEWS = [(name, False) for name in MODELS]
VIEWS += [(name, True) for name, case in LIKELIHOODS.items() if case.component.missing]

SOLVERS: dict[str, Callable[[], EM]] = {
    "plain": lambda: EM(Plain()),
    "anderson": lambda: EM(Anderson()),
    "squarem": lambda: EM(Squarem()),
}


def random_probabilities(rng: np.random.Generator, k: int, n: int) -> np.ndarray:
    """Columns drawn from a Dirichlet."""
    return rng.dirichlet(np.ones(k), size=n).T


def one_hot(rng: np.random.Generator, k: int, n: int) -> np.ndarray:
    """Every row wholly in one component."""
    return np.eye(k)[rng.integers(k, size=n)].T


# (rng, k, n) -> probabilities (k, n) of a q that is not the exact posterior.
POSTERIORS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "uniform": lambda rng, k, n: np.full((k, n), 1.0 / k),
    "random": random_probabilities,
    "one-hot": one_hot,
}


# name -> the posterior= of ``minorant.fit(target)``; tests/test_families.py holds each to the laws.
FAMILIES: dict[str, Any] = {
    **{name: name for name in minorant.families.BY_NAME if name != "flow"},
    "pathfinder-1": minorant.families.Pathfinder(paths=1),
}

# name -> () -> estimator; the laws of tests/laws/test_estimators.py run over it.
ESTIMATORS: dict[str, Callable[[], Any]] = {}

__all__ = [
    "COMPONENTS",
    "ESTIMATORS",
    "FAMILIES",
    "LIKELIHOODS",
    "MODELS",
    "POSTERIORS",
    "SOLVERS",
    "VIEWS",
    "ComponentCase",
    "ModelCase",
]
