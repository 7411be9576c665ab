"""Adapters: models of NumPyro, PyMC and Stan against the same density written by hand."""

import jax
import numpy as np
import pytest
from jax.scipy import special, stats

import minorant
from minorant import unknowns
from minorant.targets import Target, from_numpyro, from_pymc, from_stan

# Rubin (1981), "Estimation in parallel randomized experiments": eight schools.
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def by_hand():
    def log_density(eta, mu, tau):
        prior = stats.norm.logpdf(mu, 0, 5) + stats.cauchy.logpdf(tau, 0, 5) + np.log(2.0)
        prior += stats.norm.logpdf(eta).sum()
        return prior + stats.norm.logpdf(EFFECT, mu + tau * eta, ERROR).sum()

    return Target(log_density, eta=unknowns.real(8), mu=unknowns.real(), tau=unknowns.positive())


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def check_against(target, reference, tolerance):
    """Equal log densities and Jacobians at random points, and the way back."""
    points = np.random.default_rng(0).normal(size=(3, target.size))
    log_p, values = jax.jit(
        lambda points: (jax.vmap(target.log_density)(points), jax.vmap(target.values)(points))
    )(points)
    for row, point in enumerate(points):
        named = {name: np.asarray(value[row]) for name, value in values.items()}
        free, log_jacobian = reference.free(named)
        back, stated = target.free(named)
        assert float(log_p[row]) == pytest.approx(float(reference.log_density(free)), abs=tolerance)
        assert float(stated) == pytest.approx(float(log_jacobian), abs=1e-9)
        np.testing.assert_allclose(back, point, atol=1e-9)
    return values


# NumPyro


def test_a_numpyro_model_has_the_density_written_by_hand():
    numpyro = pytest.importorskip("numpyro")
    dist = numpyro.distributions

    def model(effect, error):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("schools", 8):
            eta = numpyro.sample("eta", dist.Normal(0, 1))
            theta = numpyro.deterministic("theta", mu + tau * eta)
            numpyro.sample("effect", dist.Normal(theta, error), obs=effect)

    target = from_numpyro(model, EFFECT, error=ERROR)
    assert target.names == ("mu", "tau", "eta")
    values = check_against(target, by_hand(), 1e-10)
    expected = values["mu"][:, None] + values["tau"][:, None] * values["eta"]
    np.testing.assert_allclose(values["theta"], expected)
    with pytest.raises(ValueError, match=r"\['tau'\] are missing"):
        target.free({"mu": 0.0, "eta": np.zeros(8)})


def labelled(numpyro, rows):
    dist = numpyro.distributions
    mean = numpyro.sample("mean", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(rows)):
        label = numpyro.sample("label", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("row", dist.Normal(mean[label], 1), obs=rows)


def test_discrete_sites_of_numpyro_are_summed_out():
    numpyro = pytest.importorskip("numpyro")
    pytest.importorskip("funsor")
    target = from_numpyro(lambda: labelled(numpyro, EFFECT[:4] / 10))
    mean = np.array([0.3, 0.8])
    scores = stats.norm.logpdf(EFFECT[:4, None] / 10, mean) + np.log([0.7, 0.3])
    exact = stats.norm.logpdf(mean, 0, 5).sum() + special.logsumexp(scores, axis=1).sum()
    assert target.names == ("mean",)
    assert float(target.log_density(mean)) == pytest.approx(float(exact), abs=1e-9)


def test_discrete_sites_of_numpyro_without_funsor_are_a_sentence(monkeypatch):
    numpyro = pytest.importorskip("numpyro")
    monkeypatch.setitem(__import__("sys").modules, "funsor", None)
    monkeypatch.delitem(__import__("sys").modules, "numpyro.contrib.funsor", raising=False)
    with pytest.raises(ImportError, match="pip install funsor, or sum them out"):
        from_numpyro(lambda: labelled(numpyro, EFFECT))


def test_a_numpyro_model_without_unknowns_is_a_sentence():
    numpyro = pytest.importorskip("numpyro")

    def model():
        numpyro.sample("row", numpyro.distributions.Normal(0, 1), obs=EFFECT)

    with pytest.raises(ValueError, match="no continuous site"):
        from_numpyro(model)


# PyMC: not among the project's own packages; run where it is installed


@pytest.mark.filterwarnings("ignore")  # PyMC and ArviZ warn at import; none of it is ours
def test_a_pymc_model_has_the_density_written_by_hand():
    pymc = pytest.importorskip("pymc")
    with pymc.Model() as model:
        mu = pymc.Normal("mu", 0, 5)
        tau = pymc.HalfCauchy("tau", 5)
        eta = pymc.Normal("eta", 0, 1, shape=8)
        theta = pymc.Deterministic("theta", mu + tau * eta)
        pymc.Normal("effect", theta, ERROR, observed=EFFECT)
    target = from_pymc(model)
    assert target.names == ("mu", "tau", "eta")
    # PyMC keeps HalfCauchy's constant in single precision
    values = check_against(target, by_hand(), 1e-6)
    expected = values["mu"][:, None] + values["tau"][:, None] * values["eta"]
    np.testing.assert_allclose(values["theta"], expected)
    with model:
        pymc.Bernoulli("label", 0.5)
    with pytest.raises(ValueError, match=r"discrete unknowns \(label\)"):
        from_pymc(model)


def test_a_missing_package_names_its_extra(monkeypatch):
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "pymc", None)
    with pytest.raises(ImportError, match=r"pip install 'minorant\[pymc\]'"):
        from_pymc(None)
    monkeypatch.setitem(modules, "bridgestan", None)
    with pytest.raises(ImportError, match=r"pip install 'minorant\[stan\]'"):
        from_stan("model.stan", {})
    monkeypatch.setitem(modules, "numpyro.infer.util", None)
    with pytest.raises(ImportError, match=r"pip install 'minorant\[numpyro\]'"):
        from_numpyro(lambda: None)


# Stan: BridgeStan compiles C++; a stand-in has its documented methods, and Stan's conventions


class StandIn:
    """``parameters { matrix[2, 3] b; real<lower=0> s; }``, with ``transformed parameters { v }``.

    b ~ std_normal(), s ~ exponential(1), v = s^2. Arrays run with the first index fastest.
    """

    def __init__(self):
        self.calls = 0

    def param_unc_num(self):
        return 7

    def param_names(self, *, include_tp=False, include_gq=False):
        names = [f"b.{i}.{j}" for j in (1, 2, 3) for i in (1, 2)] + ["s"]
        return names + ["v"] * include_tp

    def param_constrain(self, free, *, include_tp=False, include_gq=False):
        scale = np.exp(free[6])
        return np.concatenate([free[:6], [scale], [scale**2] * include_tp])

    def param_unconstrain(self, values):
        return np.concatenate([values[:6], np.log(values[6:7])])

    def log_density(self, free, *, propto=True, jacobian=True):
        assert not propto
        with np.errstate(over="ignore"):  # as in C++
            log_p = -0.5 * (free[:6] ** 2).sum() - 3 * np.log(2 * np.pi)
            return log_p - np.exp(free[6]) + free[6] * jacobian

    def log_density_gradient(self, free, *, propto=True, jacobian=True):
        self.calls += 1
        if free[6] > 50:
            raise RuntimeError("scale is infinite")
        value = self.log_density(free, propto=propto, jacobian=jacobian)
        return value, np.append(-free[:6], jacobian - np.exp(free[6]))


def stan_by_hand():
    def log_density(b, s):
        return stats.norm.logpdf(b).sum() - s

    return Target(log_density, b=unknowns.real(2, 3), s=unknowns.positive())


def test_a_stan_program_has_the_density_written_by_hand():
    target = from_stan(StandIn())
    assert target.names == ("b", "s")
    values = check_against(target, stan_by_hand(), 1e-10)
    assert values["b"].shape == (3, 2, 3)
    np.testing.assert_allclose(values["v"], values["s"] ** 2)
    point = np.arange(7.0) / 10
    matrix = np.asarray(target.values(point)["b"])
    np.testing.assert_allclose(matrix, point[:6].reshape(3, 2).T)


def test_gradients_come_from_the_stan_program():
    program = StandIn()
    target, reference = from_stan(program), stan_by_hand()
    points = np.random.default_rng(1).normal(size=(4, 7))
    calls = program.calls
    slopes = jax.jit(jax.vmap(jax.grad(target.log_density)))(points)
    assert program.calls == calls + 4
    turned = np.concatenate(
        [points[:, :6].reshape(4, 3, 2).swapaxes(1, 2).reshape(4, 6), points[:, 6:]], axis=1
    )
    expected = np.array(jax.vmap(jax.grad(reference.log_density))(turned))
    expected[:, :6] = expected[:, :6].reshape(4, 2, 3).swapaxes(1, 2).reshape(4, 6)
    np.testing.assert_allclose(slopes, expected, atol=1e-10)


def test_a_point_that_stan_rejects_has_no_density():
    target = from_stan(StandIn())
    assert float(target.log_density(np.full(7, 60.0))) == -np.inf


def test_a_stan_program_is_climbed():
    fit = minorant.fit(from_stan(StandIn()), posterior="mean-field")
    assert np.isfinite(float(fit.bound.value))
    assert float(fit.bound.value) < 4 * float(fit.bound.standard_error)  # its evidence is 1


def test_data_beside_a_finished_stan_model_is_a_sentence():
    with pytest.raises(ValueError, match="leave data= out"):
        from_stan(StandIn(), {"N": 1})


@pytest.mark.filterwarnings("ignore")  # the compiler's
def test_a_real_stan_program(tmp_path):
    bridgestan = pytest.importorskip("bridgestan")
    file = tmp_path / "normal.stan"
    file.write_text(
        "data { int N; vector[N] y; } parameters { matrix[2, 3] b; real<lower=0> s; }\n"
        "model { to_vector(b) ~ std_normal(); s ~ exponential(1); }\n"
    )
    try:
        target = from_stan(file, {"N": 1, "y": [0.0]})
    except (OSError, RuntimeError, ValueError) as error:
        pytest.skip(f"BridgeStan {bridgestan.__version__} cannot compile here: {error}")
    check_against(target, stan_by_hand(), 1e-9)
