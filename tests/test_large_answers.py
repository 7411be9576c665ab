"""Answers on rows out of memory are those of the same rows in memory: chunks, maps and files."""

import jax
import numpy as np
import pytest

import minorant
from minorant import evidence
from minorant.components import Dirichlet, Gaussian, Poisson
from minorant.data.files import write_table
from minorant.data.in_chunks import ArrayChunks
from minorant.data.in_tables import Tables
from minorant.estimators import FactorAnalysis, GaussianMixture
from minorant.models import HiddenMarkov, LatentTrait, Mixture, TwoParameter
from minorant.solvers.starts import Starts

pytestmark = pytest.mark.usefixtures("float64")
N, CHUNK, TOLERANCE = 480, 160, 1e-12
NAMES = ("height", "width")


def make_rows():
    """Two clusters; every chunk misses the same cells, so that one program serves all."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(N, 2)) + 4.0 * rng.integers(2, size=(N, 1)) * [1.0, -0.5]
    rows[::10, 0] = rows[5::10, 1] = np.nan
    return rows


ROWS = make_rows()
WEIGHTS = np.random.default_rng(6).integers(0, 3, N).astype(float)
GROUPS = np.repeat(np.arange(N // 15), 15)


def in_chunks(rows=ROWS, **sides):
    return ArrayChunks(rows, chunk_rows=CHUNK, **sides)


def same(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        model = Mixture(Gaussian(), n_components=2)
        return minorant.fit(model, ROWS, weights=WEIGHTS, max_steps=9, starts=Starts(1))


@pytest.fixture(scope="module")
def chain():
    with jax.enable_x64(True):
        model = HiddenMarkov(Gaussian(), n_components=2)
        return minorant.fit(model, ROWS, groups=GROUPS, max_steps=2, starts=Starts(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files of the rows, with what else there is of each."""
    place = tmp_path_factory.mktemp("large") / "rows"
    place.mkdir()
    columns = dict(zip(NAMES, ROWS.T, strict=True)) | {"n": WEIGHTS, "who": GROUPS}
    columns["note"] = np.array([f"row {i}" for i in range(N)], dtype=object)
    for part, index in enumerate(np.array_split(np.arange(N), [200, 320])):
        write_table(place / f"{part}.parquet", {k: v[index] for k, v in columns.items()})
    return place


# --- questions to a fit --------------------------------------------------------------------------


def test_answers_on_chunks_are_those_in_memory(fit):
    chunks = in_chunks()
    same(fit.log_evidence(chunks), fit.log_evidence(ROWS))
    same(fit.posterior(chunks).probability, fit.posterior(ROWS).probability)
    np.testing.assert_array_equal(fit.labels(chunks), fit.labels(ROWS))
    same(fit.impute(chunks), fit.impute(ROWS))


def test_evidence_is_summed_with_the_weights_of_the_chunks(fit):
    held = fit.evidence(ROWS, weights=WEIGHTS)
    for keep in (True, False):
        passed = fit.evidence(in_chunks(weights=WEIGHTS), rows=keep)
        same([passed.lower, passed.estimate, passed.upper], held[:3])
        assert (passed.gap, passed.verdict) == (0.0, held.verdict)
        assert len(passed.rows_estimate) == N * keep
    same(fit.evidence(in_chunks(weights=WEIGHTS)).rows_lower, held.rows_lower)


def test_standard_errors_count_the_prior_once():
    rows = np.random.default_rng(3).poisson(3.0, (N, 1)).astype(float)
    prior = Dirichlet(np.full(2, 3.0))
    fit = minorant.fit(
        Mixture(Poisson(), prior=prior, n_components=2), rows, weights=WEIGHTS, max_steps=9
    )
    for robust in (False, True):
        held = fit.standard_errors(rows, weights=WEIGHTS, robust=robust)
        passed = fit.standard_errors(in_chunks(rows, weights=WEIGHTS), robust=robust)
        same(passed.covariance, held.covariance, 1e-9)


def test_maps_and_files_are_read_in_chunks(fit, files, tmp_path):
    truth = fit.log_evidence(ROWS)
    stored = np.memmap(tmp_path / "rows", dtype=float, mode="w+", shape=ROWS.shape)
    stored[:] = ROWS
    same(fit.log_evidence(stored), truth)
    named = fit._replace(names=NAMES)  # of files only the fit's columns are read
    for path in (files, str(files / "*.parquet")):
        same(named.log_evidence(path), truth)
    same(named.evidence(files, weights="n").estimate, fit.evidence(ROWS, weights=WEIGHTS).estimate)


def test_sequences_are_whole_in_their_chunks(chain, files):
    chunks = in_chunks(groups=GROUPS)
    assert max(len(table.values) for table in chunks.read()) < N
    same(chain.log_evidence(chunks), chain.log_evidence(ROWS, groups=GROUPS), 1e-11)
    truth = evidence.filtered(chain, ROWS, GROUPS).probability
    same(evidence.filtered(chain, chunks).probability, truth, 1e-11)
    np.testing.assert_array_equal(
        evidence.path(chain, chunks), evidence.path(chain, ROWS, groups=GROUPS)
    )
    np.testing.assert_array_equal(chain.labels(chunks), chain.labels(ROWS, groups=GROUPS))
    named = chain._replace(names=NAMES)
    same(named.posterior(files, groups="who").probability[0], chain.posterior(
        ROWS, groups=GROUPS
    ).probability[0], 1e-11)  # fmt: skip


def test_a_rule_is_doubled_chunk_by_chunk():
    rows = (np.random.default_rng(2).random((300, 4)) < 0.6).astype(float)
    fit = minorant.fit(LatentTrait(TwoParameter()), rows, max_steps=2)
    held, passed = fit.evidence(rows), fit.evidence(in_chunks(rows))
    same([passed.lower, passed.upper, passed.gap], [held.lower, held.upper, held.gap], 1e-10)
    same(passed.rows_gap, held.rows_gap)
    assert passed.verdict == held.verdict
    assert held.gap > 0


def test_draws_differ_from_chunk_to_chunk(fit):
    rows = np.tile([[np.nan, 1.0]], (3 * CHUNK, 1))
    first, second, third = np.split(fit.impute(in_chunks(rows), draw=True)[:, 0], 3)
    same(first, fit.impute(rows[:CHUNK], draw=True)[:, 0])
    for one, other in ((first, second), (first, third), (second, third)):
        assert not np.isclose(one, other).any()


def test_rows_are_counted_through_all_chunks(fit):
    rows = ROWS.copy()
    rows[400, 0] = 1e200
    found = fit.evidence(in_chunks(rows), rows=False)
    assert not np.isfinite(found.estimate)
    assert "in rows 400:" in found.verdict


REFUSED = {
    "a q of one's own": (
        lambda fit: fit.evidence(in_chunks(), posterior=np.full((N, 2), 0.5)),
        "needs the rows in memory",
    ),
    "one total of a q": (
        lambda fit: fit.evidence(ROWS, posterior=np.full((N, 2), 0.5), rows=False),
        "rows=False is for",
    ),
    "weights twice": (lambda fit: fit.evidence(in_chunks(), weights=WEIGHTS), "when chunks are"),
    "other columns": (lambda fit: fit.labels(in_chunks(ROWS[:, :1])), "has 2 columns"),
    "no file": (lambda fit: fit.labels("nowhere/*.parquet"), "No file matches"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused(name, fit):
    ask, words = REFUSED[name]
    with pytest.raises((ValueError, OSError), match=words):
        ask(fit)


def test_a_refused_chunk_is_named(chain):
    rows = np.arange(300.0)[:, None] % 5
    counts = minorant.fit(Mixture(Poisson(), n_components=1), rows, max_steps=2)
    rows[260] = -1.0
    with pytest.raises(ValueError, match="begins at row 160 of the data"):
        counts.labels(in_chunks(rows))
    with pytest.raises(ValueError, match="groups="):
        chain.log_evidence(in_chunks())


# --- estimators ----------------------------------------------------------------------------------


def named_columns(files, **roles):
    return minorant.chunks(files, columns=list(NAMES), **roles)


def test_a_mixture_estimator_takes_chunks_and_files(files):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(ROWS, columns=NAMES)
    held = GaussianMixture(2, random_state=0, n_init=1).fit(table)
    passed = GaussianMixture(2, random_state=0, n_init=1).fit(named_columns(files))
    same(passed.means_, held.means_, 1e-8)
    assert passed.feature_names_in_.tolist() == list(NAMES)
    same(passed.score_samples(files), held.score_samples(table), 1e-8)
    np.testing.assert_array_equal(passed.predict(files), held.predict(table))
    same(passed.score(files, sample_weight="n"), held.score(table, sample_weight=WEIGHTS), 1e-10)
    same(passed.bic(files, sample_weight="n"), held.bic(table, WEIGHTS), 1e-10)
    same(passed.impute(files), held.impute(table), 1e-8)


def test_factors_take_chunks(files):
    held = FactorAnalysis(1, max_iter=20).fit(ROWS)
    passed = FactorAnalysis(1, max_iter=20).fit(named_columns(files))
    same(passed.components_, held.components_, 1e-8)
    same(passed.transform(files), held.transform(ROWS), 1e-8)
    same(passed.score(files), held.score(ROWS), 1e-10)


def test_estimators_refuse_what_chunks_cannot_give(files):
    with pytest.raises(ValueError, match="sample_weight must be the name of a column"):
        GaussianMixture(2).fit(files, sample_weight=WEIGHTS)
    with pytest.raises(ValueError, match="means_init alone"):
        GaussianMixture(2, means_init=np.zeros((2, 2))).fit(in_chunks())


# --- tables of any columns -----------------------------------------------------------------------


def test_tables_hold_all_columns_and_whole_groups(files):
    tables = Tables(str(files), memory=1)  # the smallest: 1024 rows
    tables.rows = 100
    parts = list(tables.read())
    assert [part.num_rows for part in parts] == [100] * 4 + [80]
    assert sum((part["note"].to_pylist() for part in parts), []) == [f"row {i}" for i in range(N)]
    tables.rows = 90  # where a group ends
    grouped = list(tables.read({"who"}, "who"))
    assert [part.num_rows for part in grouped] == [90] * 5 + [30]
    assert grouped[0].column_names == ["who"]
