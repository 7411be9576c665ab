"""Fits on the workers of a Dask cluster: the answer in memory, whatever happens to the workers.

Workers are processes of their own on this machine, reached over its network.
"""

import os
import signal
import sys
import types

import jax
import numpy as np
import pytest

import minorant
from minorant import _config
from minorant._types import Affine
from minorant.components import Gaussian
from minorant.data import arrange, on_worker, pairwise
from minorant.data.dask import Dask
from minorant.data.dask_rows import FilesOnDask
from minorant.data.dataset import ParquetChunks
from minorant.data.engines import Here
from minorant.data.files import write_table
from minorant.data.survey import survey
from minorant.estimators import GaussianMixture, _in_chunks

distributed = pytest.importorskip("distributed")
NAMES = ("x", "y", "z")
ROWS = 6000


@pytest.fixture(scope="module", autouse=True)
def double():
    with _config.precision(np.dtype(float)):
        yield


@pytest.fixture(scope="module")
def cluster():
    """Two workers of one thread; a lost one is started again."""
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(5)
    return rng.normal(size=(ROWS, 3)) + 3.0 * rng.integers(0, 3, ROWS)[:, None]


@pytest.fixture(scope="module")
def weights():
    return np.repeat(np.random.default_rng(6).integers(0, 3, ROWS // 50), 50).astype(float)


@pytest.fixture(scope="module")
def folder(values, weights, tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    for name, part in (("a", slice(0, 3500)), ("b", slice(3500, ROWS))):
        columns = dict(zip(NAMES, values[part].T, strict=True))
        sequence = np.arange(ROWS)[part] // 50
        columns |= {"w": weights[part], "sequence": sequence, "k": sequence % 4 - 1}
        write_table(root / f"{name}.parquet", columns)
    return root


def mixture(rows, **options):
    """From given parameters: the rows that starts are chosen on have a test of their own."""
    shares, centres = np.full(3, 1 / 3), np.arange(3.0)[:, None] * np.full(3, 2.0)
    start = Gaussian(mean=centres, covariance=np.stack([np.eye(3)] * 3))
    return minorant.fit(minorant.Mixture(start, shares, n_components=3), rows, **options)


@pytest.fixture(scope="module")
def blocks():
    """How chunks are cut into blocks; workers cannot import this file: it is sent as it is."""
    return lambda table: arrange(table, Affine.identity(3), np.dtype(float), False)


@pytest.fixture(scope="module")
def in_memory(values, weights):
    return mixture(values, weights=weights)


def on(folder, where, **roles):
    """The folder in small chunks: several for every share."""
    chunks = ParquetChunks(folder, chunk_rows=301, **{"columns": NAMES, "weights": "w", **roles})
    return FilesOnDask(chunks, Dask(where))


@pytest.fixture(scope="module")
def on_workers(folder, client):
    return mixture(on(folder, client))


def leaves(answer):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(answer.model)] + [answer.trace.bound]


def assert_close(answer, other):
    assert answer.bound == pytest.approx(other.bound, rel=1e-10)
    for one, two in zip(leaves(answer)[:-1], leaves(other)[:-1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9)


def assert_same(answer, other):
    for one, two in zip(leaves(answer), leaves(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_there_is_more_than_one_chunk_to_a_share(folder, client):
    rows = on(folder, client)
    assert rows.count() > len(rows.shares()) > 2


def test_the_answer_is_that_of_rows_in_memory(on_workers, in_memory):
    assert_close(on_workers, in_memory)


def test_a_second_run_gives_the_same_bits(on_workers, folder, cluster):
    assert_same(mixture(on(folder, cluster.scheduler_address)), on_workers)


def test_a_lost_worker_changes_nothing(on_workers, folder, client, monkeypatch):
    """One is killed while both sum, in the third pass."""
    passes, killed = [], []
    submit = Dask.submit

    def submitting(engine, function, *arguments):
        future = submit(engine, function, *arguments)
        if function is on_worker.total:
            passes.append(future)
            if len(passes) == 3:
                killed.append(min(client.run(os.getpid).values()))
                os.kill(killed[0], signal.SIGKILL)
        return future

    monkeypatch.setattr(Dask, "submit", submitting)
    assert_same(mixture(on(folder, client)), on_workers)
    assert len(passes) > 3
    client.wait_for_workers(2, timeout=30)
    assert killed[0] not in client.run(os.getpid).values()


def test_lost_rows_that_cannot_be_made_again_are_said_to_be(client):
    holder = min(client.nthreads())
    kept = client.scatter(np.zeros(3), workers=[holder], hash=False)
    os.kill(client.run(os.getpid, workers=[holder])[holder], signal.SIGKILL)
    engine = Dask(client)
    with pytest.raises(ConnectionError, match="lost with it and cannot be computed again"):
        engine.result(engine.submit(len, kept))
    client.wait_for_workers(2, timeout=30)


@pytest.mark.parametrize("kind", ["array", "frame"])
def test_collections_give_the_answer_in_memory(kind, values, weights, in_memory, client):
    """Partitions differ in length, and one has no rows."""
    cuts = (0, 1499, 1499, 3004, 4500, ROWS)
    if kind == "array":
        array = pytest.importorskip("dask.array")
        data = array.from_array(values, chunks=(tuple(np.diff(cuts).tolist()), 2))
        rows = minorant.chunks(data, weights=weights, dask=client)
    else:
        rows = minorant.chunks(as_frame(values, weights, cuts), weights="w", dask=client)
    assert_close(mixture(rows), in_memory)


def test_a_collection_is_fitted_as_it_is(values, weights, in_memory, client):
    frame = as_frame(values, weights, (0, 3004, ROWS))
    with client.as_current():
        assert_close(mixture(frame, weights="w"), in_memory)
        estimator = GaussianMixture(3)
        rows = _in_chunks.opened(estimator, frame, reset=True, sample_weight="w")
    assert rows.names == NAMES
    assert estimator.feature_names_in_.tolist() == list(NAMES)


def test_interrupted_workers_go_on_to_the_last_bit(on_workers, folder, client, tmp_path):
    passes = []

    def pulled(progress):
        passes.append(progress.steps)
        if len(passes) == 3:
            raise KeyboardInterrupt

    place = {"checkpoint": minorant.Checkpoint(tmp_path / "climb", seconds=0)}
    stopped = mixture(on(folder, client), callbacks=(pulled,), **place)
    assert stopped.outcome is minorant.Outcome.INTERRUPTED
    seen = []
    again = mixture(on(folder, client), callbacks=(lambda p: seen.append(p.steps),), **place)
    assert_same(again, on_workers)
    assert seen[0] > passes[-1]


def test_categories_are_read_as_codes_by_workers(client, tmp_path):
    words = np.array(["b", "a", None], dtype=object)[np.arange(3000) % 3]
    write_table(tmp_path / "a.parquet", {"c": words, "x": np.arange(3000.0)})
    there = minorant.chunks(tmp_path, categories=["c"], dask=client)
    here = minorant.chunks(tmp_path, categories=["c"])
    seen = there.engine.survey(there, lambda table: None, True)
    jax.tree.map(np.testing.assert_array_equal, seen, survey(here, lambda table: None, True))
    assert (seen.look.minimum[0], seen.look.maximum[0]) == (0.0, 1.0)


def as_frame(values, weights, cuts):
    pandas, frames = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    whole = pandas.DataFrame(values, columns=list(NAMES)).assign(w=weights)
    parts = [whole[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    return frames.from_map(lambda part: part, parts, meta=whole[:0])


@pytest.mark.parametrize("roles", [{}, {"groups": "sequence"}, {"labels": "k"}])
def test_survey_and_drawn_rows_are_those_of_one_process(roles, folder, client, blocks):
    """To the last bit; with groups the number of chunks is found on a worker first."""
    there, here = on(folder, client, **roles), on(folder, client, **roles)._chunks
    seen = there.engine.survey(there, lambda table: None, True)
    jax.tree.map(np.testing.assert_array_equal, seen, survey(here, lambda table: None, True))
    index = np.arange(0, ROWS, 7)
    sources = [
        engine.source(chunks, blocks, np.ones(()), (ROWS, 3))
        for engine, chunks in ((there.engine, there), (Here(), here))
    ]
    jax.tree.map(np.testing.assert_array_equal, *[source.rows(index) for source in sources])
    jax.tree.map(np.testing.assert_array_equal, *[source.of_weight() for source in sources])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_answers_for_each_row_come_in_order_and_in_the_precision_set(
    dtype, folder, client, values, blocks
):
    there = on(folder, client)
    there.engine.survey(there, lambda table: None, False)
    source = there.engine.source(there, blocks, np.ones(()), (ROWS, 3))
    with _config.precision(np.dtype(dtype)):
        found = list(source.by_row(lambda shift, rows: rows.values[:, 0] + shift, dtype(2)))
    answers = np.concatenate([part for _, part in found])
    assert answers.dtype == dtype
    np.testing.assert_array_equal(answers, values[:, 0].astype(dtype) + dtype(2))
    np.testing.assert_array_equal(np.concatenate([table.values for table, _ in found]), values)


def refusing(limit):
    """A check that refuses rows whose x is this large."""

    def check(table):
        if table.values[:, 0].max() >= limit:
            raise ValueError("x is too large.")

    return check


def test_a_refused_row_is_named_as_in_one_process(folder, client, values):
    check = refusing(values[:, 0].max())
    there = on(folder, client)
    with pytest.raises(ValueError, match="x is too large") as one:
        survey(there._chunks, check, False)
    with pytest.raises(ValueError, match="x is too large") as other:
        there.engine.survey(there, check, False)
    assert str(one.value) == str(other.value)
    assert "whose first row is row" in str(one.value)


def test_what_workers_cannot_import_is_named(folder, client, monkeypatch):
    module = types.ModuleType("only_the_client_has_this")
    exec("def check(table): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    there = on(folder, client)
    with pytest.raises(ImportError, match="lack a package that the client has, only_the_client"):
        there.engine.survey(there, module.check, False)


def test_a_file_that_workers_do_not_see_is_named(client, tmp_path):
    write_table(tmp_path / "a.parquet", {"x": [1.0, 2.0]})
    there = FilesOnDask(ParquetChunks(tmp_path), Dask(client))
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"a.parquet.* every machine needs them"):
        there.engine.survey(there, lambda table: None, False)


def test_weights_that_are_all_zero_are_refused(client, tmp_path):
    write_table(tmp_path / "a.parquet", {"x": [1.0, 2.0], "w": [0.0, 0.0]})
    there = minorant.chunks(tmp_path, weights="w", dask=client)
    with pytest.raises(ValueError, match="weights are all zero"):
        there.engine.survey(there, lambda table: None, False)


@pytest.mark.parametrize(
    ("data", "options", "error", "said"),
    [
        (np.ones((3, 2)), {"dask": "local"}, TypeError, "files that workers read themselves"),
        ("rows", {"dask": 3}, ValueError, "dask must be a distributed.Client"),
        ("rows", {"dask": "host:8786"}, ValueError, "got 'host:8786'"),
        ("rows", {"dask": True}, ValueError, "there is none: make one"),
    ],
)
def test_what_cannot_be_given_to_workers(data, options, error, said, folder):
    data = folder if isinstance(data, str) else data
    with pytest.raises(error, match=said):
        minorant.chunks(data, **options)


def test_groups_of_a_collection_are_refused(client):
    array = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="groups cannot be told from the partitions"):
        minorant.chunks(array.ones((4, 2)), groups=np.arange(4), dask=client)


@pytest.mark.parametrize("seed", range(5))
def test_sums_do_not_depend_on_who_sums_what(seed):
    rng = np.random.default_rng(seed)
    terms = rng.normal(size=rng.integers(1, 40)) * 10.0 ** rng.integers(-8, 8)

    def summed(cuts):
        nodes = []
        for a, b in zip([0, *cuts], [*cuts, len(terms)], strict=True):
            part = []
            for place in range(a, b):
                part = pairwise.joined(part, [pairwise.Node(0, place, terms[place])])
            nodes = pairwise.joined(nodes, part)
        return pairwise.whole(nodes)

    alone = summed([])
    assert alone == pytest.approx(np.sum(terms), rel=1e-12, abs=1e-12 * np.abs(terms).sum())
    for _ in range(20):
        cuts = sorted(rng.integers(0, len(terms) + 1, rng.integers(0, 6)).tolist())
        assert summed(cuts) == alone
