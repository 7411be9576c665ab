"""Estimators on rows out of memory and with checkpoints: the answers of the table in memory."""

import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import minorant
from minorant import climbing
from minorant.components import Gaussian
from minorant.data.dataset import ParquetChunks
from minorant.data.files import write_table
from minorant.data.in_batches import BatchChunks
from minorant.estimators import (
    BayesianGaussianMixture,
    FactorAnalysis,
    FlowDensity,
    GaussianHMM,
    GaussianMixture,
    LatentTrait,
    MixedModel,
    StateSpace,
    _regressed,
    _traits,
)
from minorant.estimators._series import SeriesInChunks, as_series

pytestmark = pytest.mark.usefixtures("float64")
N, CHUNK, LENGTH = 480, 160, 15
NAMES, ITEMS = ["height", "width"], ["q1", "q2", "q3", "q4"]


def make_columns():
    """Sequences of two clusters, and answers of persons of two groups."""
    rng = np.random.default_rng(5)
    cluster = rng.integers(2, size=N)
    rows = rng.normal(size=(N, 2)) + 4.0 * cluster[:, None] * [1.0, -0.5]
    rows[::20, 0] = rows[5::20, 1] = np.nan
    ability = rng.normal(size=N) + 0.5 * cluster
    answers = (ability[:, None] + rng.logistic(size=(N, 4)) > [[-0.5, 0.0, 0.5, 1.0]]).astype(float)
    answers[:, 3] += ability > 0.8  # 0, 1, 2
    answers[:, 2] += 1  # 1, 2
    answers[::20, 0] = np.nan
    who = np.arange(N) // LENGTH
    sides = {"who": who, "n": who % 3 + 1.0, "u": rng.normal(size=N)}
    sides["team"] = np.array(["red", "blue"], dtype=object)[cluster]
    return {**dict(zip(NAMES, rows.T, strict=True)), **dict(zip(ITEMS, answers.T, strict=True)),
            **sides}  # fmt: skip


COLUMNS = make_columns()


def table(names):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({name: COLUMNS[name] for name in names})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("rows") / "files"
    place.mkdir()
    for index, part in enumerate(np.split(np.arange(N), [150, 300])):
        write_table(place / f"{index}.parquet", {k: v[part] for k, v in COLUMNS.items()})
    return place


def several(files, columns, **roles):
    """The files in several chunks."""
    return ParquetChunks(files, columns=columns, chunk_rows=CHUNK, **roles)


def same(found, expected, tolerance=1e-8):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


CHAIN = {"n_init": 1, "tol": 1e-4, "random_state": 0}
SPACE = {"observation_offset": [np.nan, 0.0], "tol": 1e-2}
TRAIT = {"points": 3, "tol": 1e-4}

# A new estimator, and what it is fitted to in memory.
KINDS = {
    "mixture": lambda: (GaussianMixture(2, n_init=1, tol=1e-4, random_state=0), table(NAMES), {}),
    "bayesian": lambda: (
        BayesianGaussianMixture(2, n_init=1, tol=1e-4, random_state=0), table(NAMES), {}
    ),
    "factors": lambda: (FactorAnalysis(1, tol=1e-4), table(NAMES), {}),
    "chain": lambda: (GaussianHMM(2, **CHAIN), table(NAMES), {"groups": COLUMNS["who"]}),
    "space": lambda: (StateSpace(1, **SPACE), table(NAMES), {"groups": COLUMNS["who"]}),
    "trait": lambda: (
        LatentTrait(**TRAIT), table(ITEMS),
        {"groups": COLUMNS["team"], "sample_weight": COLUMNS["n"]},
    ),
    "mixed": lambda: (
        MixedModel(tol=1e-4, standard_errors=False), table(["u"]),
        {"y": COLUMNS["height"], "groups": COLUMNS["who"]},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def held():
    """Fits in memory, each made when it is first asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            estimator, rows, sides = KINDS[kind]()
            with jax.enable_x64(True):
                made[kind] = estimator.fit(rows, **sides)
        return made[kind]

    return of


# --- rows out of memory --------------------------------------------------------------------------


def test_sequences_of_files_are_those_of_the_table(held, files):
    rows, sides, memory = table(NAMES), {"groups": COLUMNS["who"]}, held("chain")
    passed = GaussianHMM(2, **CHAIN).fit(several(files, NAMES, groups="who"))
    for name in ("startprob_", "transmat_", "means_", "covars_"):
        same(getattr(passed, name), getattr(memory, name))
    there = {"groups": "who"}
    same(passed.score(files, **there), memory.score(rows, **sides))
    for ask in ("predict_proba", "predict"):
        same(getattr(passed, ask)(files, **there), getattr(memory, ask)(rows, **sides))
    joint, states = passed.decode(several(files, NAMES, groups="who"))
    same(joint, memory.decode(rows, **sides)[0])
    assert len(states) == N


def test_what_is_known_of_sequences_is_that_of_the_table(files):
    names = [*NAMES, "q1"]
    passed = SeriesInChunks(several(files, names, groups="who", inputs=["u", "n"]))
    beside = np.column_stack([COLUMNS["u"], COLUMNS["n"]])
    held = as_series(table(names).to_numpy(), groups=COLUMNS["who"], inputs=beside)
    assert passed.n_sequences() == held.n_sequences() == N // LENGTH
    assert passed.n_inputs() == held.n_inputs() == 2
    same(passed.mean_inputs(), held.mean_inputs(), 1e-12)
    for one, other in zip(passed.column_moments(), held.column_moments(), strict=True):
        same(one, other, 1e-12)
    assert SeriesInChunks(several(files, NAMES, groups="who")).mean_inputs() is None


def test_series_of_files_are_those_of_the_table(held, files):
    rows, sides, memory = table(NAMES), {"groups": COLUMNS["who"]}, held("space")
    passed = StateSpace(1, **SPACE).fit(several(files, NAMES, groups="who"))
    for name in ("transition_", "observation_offset_", "observation_covariance_"):
        same(getattr(passed, name), getattr(memory, name), 1e-7)
    there = {"groups": "who"}
    same(passed.score_samples(files, **there), memory.score_samples(rows, **sides), 1e-7)
    same(passed.smooth(files, **there).mean, memory.smooth(rows, **sides).mean, 1e-7)
    same(passed.filter(files, **there).updated.mean, memory.filter(rows, **sides).updated.mean,
         1e-7)  # fmt: skip


def test_a_posterior_over_parameters_of_files_is_that_of_the_table(held, files):
    memory = held("bayesian")
    passed = KINDS["bayesian"]()[0].fit(several(files, NAMES))
    same(passed.covariance_prior_, memory.covariance_prior_, 1e-12)
    same(passed.means_, memory.means_)
    np.testing.assert_array_equal(
        passed.predict(several(files, NAMES)), memory.predict(table(NAMES))
    )
    same(passed.score(several(files, NAMES)), memory.score(table(NAMES)))


def test_traits_of_files_are_those_of_the_table(held, files):
    memory = held("trait")
    passed = LatentTrait(**TRAIT).fit(files_of_items(files))
    assert passed.groups_.tolist() == memory.groups_.tolist() == ["blue", "red"]
    assert [seen.tolist() for seen in passed.categories_] == [[0, 1], [0, 1], [1, 2], [0, 1, 2]]
    same(passed.items_.difficulties, memory.items_.difficulties)
    same(passed.trait_means_, memory.trait_means_)
    same(passed.reliability_, memory.reliability_)
    same(passed.quadrature_error_, memory.quadrature_error_, 1e-6)
    rows, teams = table(ITEMS), {"groups": COLUMNS["team"]}
    found = passed.scores(several(files, ITEMS, inputs="team", categories=["team"]))
    same(found.trait, memory.scores(rows, **teams).trait, 1e-7)
    same(found.standard_error, memory.scores(rows, **teams).standard_error, 1e-7)


@pytest.mark.parametrize("kind", ["path", "chunks"])
def test_regressions_of_files_are_those_of_the_table(kind, held, files, tmp_path):
    memory, beside = held("mixed"), ["height", "who", "u"]
    if kind == "path":
        write_table(tmp_path / "rows.parquet", {name: COLUMNS[name] for name in beside})
        passed = KINDS["mixed"]()[0].fit(tmp_path / "rows.parquet", "height", "who")
    else:
        rows = several(files, ["height"], inputs=["u"], groups="who")
        passed = KINDS["mixed"]()[0].fit(rows)
    assert passed.feature_names_in_.tolist() == ["u"]
    for name in ("coef_", "intercept_", "random_covariance_", "deviation_", "groups_"):
        same(getattr(passed, name), getattr(memory, name), 1e-7)
    same(passed.group_effects_, memory.group_effects_, 1e-7)
    same(passed.group_errors_, memory.group_errors_, 1e-7)
    assert passed.summary() == memory.summary()


def test_groups_are_known_by_name_in_the_order_of_their_names(files):
    """Out of memory they come in another one, from piece to piece."""
    names = np.repeat(["b", "c", "a"], [3, 4, 2])
    write = {"y": np.arange(9.0), "g": names, "x": np.ones(9)}
    rows = BatchChunks([{k: v[:5] for k, v in write.items()}, {k: v[5:] for k, v in write.items()}],
                       columns=["y"], inputs=["x"], groups="g", chunk_rows=3)  # fmt: skip
    assert _regressed.group_names(rows).tolist() == ["b", "c", "a"]
    parts = list(_regressed.Regressed(None, False, rows).parts())
    assert len(parts) > 1
    assert np.concatenate([part.groups for part in parts]).tolist() == names.tolist()


def files_of_items(files):
    """Persons in several chunks, their teams as words."""
    roles = {"weights": "n", "inputs": "team", "categories": ["team"]}
    return several(files, ITEMS, **roles)


@pytest.mark.parametrize("kind", ["list", "paths", "pattern"])
def test_places_are_given_as_paths_patterns_and_lists(files, kind, held):
    places = sorted(files.iterdir())
    given = {"list": list(map(str, places)), "paths": places, "pattern": str(files / "*.parquet")}
    memory = held("mixture")
    rows = minorant.chunks(given[kind], columns=NAMES)
    same(memory.score_samples(rows), memory.score_samples(table(NAMES)))
    if kind != "pattern":
        same(memory.score_samples(given[kind]), memory.score_samples(table(NAMES)))


def test_a_fit_takes_a_list_of_paths(tmp_path):
    rows = np.random.default_rng(1).normal(size=(300, 2))
    places = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    for place, part in zip(places, np.split(rows, [120]), strict=True):
        write_table(place, dict(zip(NAMES, part.T, strict=True)))
    model = minorant.Mixture(Gaussian(), n_components=1)
    held = minorant.fit(model, rows, max_steps=2)
    for given in (places, list(map(str, places)), tuple(places)):
        same(minorant.fit(model, given, max_steps=2).bound, held.bound, 1e-12)
    with pytest.raises(ValueError, match="is given twice"):
        minorant.fit(model, [places[0], places[0]])


REFUSED = {
    "a flow": (lambda f: FlowDensity().fit(f), TypeError, "FlowDensity needs X in memory"),
    "lengths": (lambda f: GaussianHMM().fit(f, [3, 4]), ValueError, "lengths is for rows in mem"),
    "times": (lambda f: StateSpace().fit(f, times="u"), ValueError, "times is for rows in memory"),
    "no groups": (lambda f: GaussianHMM().fit(several(f, NAMES)), ValueError, "groups="),
    "an array": (lambda f: StateSpace().fit(f, groups=np.arange(N)), ValueError, "the name of a"),
    "answers": (lambda f: LatentTrait().fit(several(f, NAMES)), ValueError, "whole numbers"),
    "no outcome": (lambda f: MixedModel().fit(f, groups="who"), ValueError, "y must be the name"),
    "an outcome": (lambda f: MixedModel().fit(f, [1.0], "who"), ValueError, "y must be the name"),
    "chunks and names": (
        lambda f: MixedModel().fit(several(f, NAMES), "u"), ValueError, "inputs: give .* got y"
    ),
    "two groups": (
        lambda f: LatentTrait().fit(several(f, ITEMS, inputs=["u", "n"])), ValueError, "one group"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_files_cannot_give_is_refused(name, files):
    ask, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        ask(files)


def test_questions_about_all_rows_at_once_say_so(held, files):
    for ask in (
        lambda: held("chain").forecast(files),
        lambda: held("space").forecast(files),
        lambda: held("trait").item_fit(files),
    ):
        with pytest.raises(TypeError, match="needs X in memory, but it is the path"):
            ask()


# --- checkpoints ---------------------------------------------------------------------------------


def numbers(estimator):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(estimator.fit_.model)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_climb_is_kept_and_goes_on(kind, held, tmp_path, monkeypatch):
    """Interrupted after its first steps, asked again, and asked once more when it is finished."""
    estimator, rows, sides = KINDS[kind]()
    sides["checkpoint"] = minorant.Checkpoint(tmp_path / "climb", seconds=0)
    memory = numbers(held(kind))
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the interrupt
        patched.setattr(climbing, "_report", lambda *given: False)  # a step, and no more
        patched.setattr(climbing, "_limit", lambda *given: 1)
        estimator.fit(rows, **sides)
    assert minorant.status(tmp_path / "climb").state in ("interrupted", "finished")
    estimator.fit(rows, **sides)
    jax.tree.map(np.testing.assert_array_equal, numbers(estimator), memory)
    monkeypatch.setattr(climbing, "_moved", lambda *given: pytest.fail("it climbs"))
    estimator.fit(rows, **sides)
    jax.tree.map(np.testing.assert_array_equal, numbers(estimator), memory)


def test_a_finer_rule_is_kept_in_a_folder_of_its_own(tmp_path, monkeypatch):
    kept = []

    def fitted(options, model, persons, checkpoint, starts=None):
        kept.append(checkpoint)
        model = SimpleNamespace(irregular=lambda names: (), refined=None)
        return SimpleNamespace(model=model, n_rows=1.0, names=())

    errors = iter([1.0, 1.0, 0.0])
    monkeypatch.setattr(_traits, "_fit", fitted)
    monkeypatch.setattr(_traits, "quadrature_error", lambda *given: next(errors))
    _traits.climb(LatentTrait(), None, minorant.Checkpoint(tmp_path / "climb", seconds=5))
    first, *finer = kept
    assert first.path == tmp_path / "climb"
    assert [place.path.name for place in finer] == ["finer-1", "finer-2"]
    assert {(place.path.parent, place.seconds) for place in finer} == {(tmp_path / "climb", 5)}


def test_compressed_rows_of_files_are_told_apart(tmp_path):
    """Factors of complete rows climb on few rows that stand for all."""
    rows = np.random.default_rng(2).normal(size=(200, 3)) @ np.tri(3)
    for name in ("one", "other"):
        write_table(tmp_path / f"{name}.parquet", dict(zip("abc", rows.T, strict=True)))
        rows[7, 1] += 1e-9
    place = {"checkpoint": tmp_path / "climb"}
    first = FactorAnalysis(1).fit(tmp_path / "one.parquet", **place)
    again = FactorAnalysis(1).fit(tmp_path / "one.parquet", **place)
    jax.tree.map(np.testing.assert_array_equal, numbers(first), numbers(again))
    with pytest.raises(ValueError, match="checkpoint of another fit: there the data's moments"):
        FactorAnalysis(1).fit(tmp_path / "other.parquet", **place)


def test_partly_held_parameters_are_kept(tmp_path):
    options = {"means_init": [[0.0, 0.0], [4.0, -2.0]], "random_state": 0, "tol": 1e-4}
    held = {"fixed": {"means": [True, False]}, **options}
    found = GaussianMixture(2, **held).fit(table(NAMES), checkpoint=tmp_path / "climb")
    same(found.means_[0], [0.0, 0.0])
    other = {"fixed": {"means": [False, True]}, **options}
    with pytest.raises(ValueError, match="checkpoint of another fit: there fixed was"):
        GaussianMixture(2, **other).fit(table(NAMES), checkpoint=tmp_path / "climb")
