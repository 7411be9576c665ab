"""Rows in chunks: every reader gives the table that is read whole, cut the same way every time."""

import decimal
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minorant.data.dataset import ParquetChunks
from minorant.data.in_batches import BatchChunks
from minorant.data.in_chunks import ArrayChunks, FrameChunks
from minorant.data.open_chunks import chunks
from minorant.data.tables import as_table

MAPS = Path("/proc/self/smaps")
ROWS = 1417
NAMES = ("x", "y", "z")


@pytest.fixture(scope="module")
def table():
    """Columns of each kind, gaps in all of them, and rows of 1 to 8 that belong together."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(ROWS, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 2] = np.round(values[:, 2] * 5)
    values[np.isnan(values).all(1)] = 1.0
    group = np.repeat(np.arange(ROWS), rng.integers(1, 9, ROWS))[:ROWS]
    return {
        **dict(zip(NAMES, values.T, strict=True)),
        "w": rng.random(ROWS)[group],
        "k": np.where(rng.random(ROWS) < 0.5, np.nan, rng.integers(0, 3, ROWS)),
        "g": group,
        "u": rng.normal(size=ROWS),
    }


ROLES = {"weights": "w", "labels": "k", "groups": "g", "inputs": ["u"]}


@pytest.fixture(scope="module")
def whole(table):
    """The same, read whole by the way that tables in memory take."""
    beside = (table["w"], table["k"], table["g"], table["u"])
    return as_table(np.stack([table[name] for name in NAMES], axis=1), *beside)[0]


def arrow(table, start=0, stop=None):
    part = {name: pa.array(cells[start:stop], from_pandas=True) for name, cells in table.items()}
    part["z"] = part["z"].cast(pa.int16())
    return pa.table(part)


def frame_of(table, kind):
    found = arrow(table)
    if kind == "arrow":
        return pa.concat_tables([found[:700], found[700:]])
    return found.to_pandas() if kind == "pandas" else pl.from_arrow(found)


@pytest.fixture(scope="module")
def places(table, tmp_path_factory):
    """The table in every kind of place that can be read in chunks, with its roles."""
    root = tmp_path_factory.mktemp("rows")
    cuts = [0, 200, 200, 201, 700, ROWS]
    (root / "several").mkdir()
    (root / "named").mkdir()
    for index, (start, stop) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        pq.write_table(arrow(table, start, stop), root / f"several/{index}.parquet", 57)
        (root / f"named/part={index}").mkdir()
        pq.write_table(arrow(table, start, stop), root / f"named/part={index}/rows.parquet")
    pq.write_table(arrow(table), root / "one.parquet", 100, compression="zstd")
    for name, coding in (("plain", None), ("coded", "lz4")):
        options = pa.ipc.IpcWriteOptions(compression=coding)
        with pa.ipc.new_file(root / f"{name}.arrow", arrow(table).schema, options=options) as file:
            file.write_table(arrow(table), 130)
    matrix = np.stack([table[name] for name in NAMES], axis=1)
    np.save(root / "rows.npy", matrix)
    np.save(root / "columns.npy", np.asfortranarray(matrix))
    return root


PATHS = {
    "one file": "one.parquet",
    "a folder": "several",
    "a pattern": "several/?.parquet",
    "a pattern of folders": "sev*",
    "Arrow": "plain.arrow",
    "Arrow, compressed": "coded.arrow",
    "folders with names": "named",
}


def reader(kind, places, table, roles=ROLES, **options):
    """Chunks of the table from one kind of place."""
    if kind in ("rows", "columns"):
        arrays = {role: table[np.atleast_1d(name)[0]] for role, name in roles.items()}
        return ArrayChunks(np.load(places / f"{kind}.npy", mmap_mode="r"), **arrays, **options)
    if kind == "folders with names" or "groups" not in roles:
        options["columns"] = NAMES
    options |= roles
    if kind in PATHS:
        return ParquetChunks(str(places / PATHS[kind]), **options)
    if kind == "several paths":
        return ParquetChunks(sorted((places / "several").iterdir()), **options)
    if kind in BATCHES:
        return BatchChunks(BATCHES[kind](table), **options)
    return FrameChunks(frame_of(table, kind), **options)


def in_frames(table):
    return [arrow(table, start, start + 90) for start in range(0, ROWS, 90)]


def in_mappings(table):
    def batches():
        for start in range(0, ROWS, 7):
            yield {name: cells[start : start + 7] for name, cells in table.items()}

    return batches


BATCHES = {"a list of frames": in_frames, "a function of mappings": in_mappings}
KINDS = (
    *PATHS, "several paths", "pandas", "polars", "arrow", "rows", "columns",
    *BATCHES,
)  # fmt: skip


def slow_cuts(group, rows):
    """Where chunks begin: after the last group that ends before ``rows``, or after a longer one."""
    ends = [i for i in range(1, len(group)) if group[i] != group[i - 1]] + [len(group)]
    cuts = [0]
    while cuts[-1] + rows <= len(group):
        later = [end for end in ends if end > cuts[-1]]
        inside = [end for end in later if end < cuts[-1] + rows]
        cuts.append(inside[-1] if inside else later[0])
    return cuts if cuts[-1] < len(group) else cuts[:-1]


def check_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine is None or mine.dtype == theirs.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_gives_the_table_that_is_read_whole(kind, places, table, whole):
    found = reader(kind, places, table, chunk_rows=64)
    cuts = [*slow_cuts(table["g"], 64), ROWS]
    assert found.count() is None
    for first in (0, 0, 1, 11, len(cuts) - 2, len(cuts) - 1, 10**6):
        tables = list(found.read(first))
        for start, stop, part in zip(cuts[first:-1], cuts[first + 1 :], tables, strict=True):
            check_same(part, whole.take(np.arange(start, stop)))
        assert found.count() == len(cuts) - 1
    assert len(found.names) == 3
    assert found.dtype == "float64"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [7, 256, ROWS, ROWS + 1])
def test_without_groups_all_chunks_but_the_last_have_one_length(kind, rows, places, table, whole):
    roles = {role: name for role, name in ROLES.items() if role != "groups"}
    found = reader(kind, places, table, roles, chunk_rows=rows)
    count = -(-ROWS // rows)
    if kind not in BATCHES:
        assert found.count() == count
    for first in (0, count // 2, count - 1, count):
        tables = list(found.read(first))
        assert len(tables) == count - first
        for index, part in enumerate(tables, first):
            expected = whole.take(np.arange(index * rows, min(index * rows + rows, ROWS)))
            check_same(part, expected._replace(groups=None))
        if first == 0:
            assert found.count() == count


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 1416, 5000])
def test_groups_longer_than_a_chunk_are_chunks_of_their_own(rows, table):
    values = np.arange(2.0 * ROWS).reshape(ROWS, 2)
    found = ArrayChunks(values, groups=table["g"], chunk_rows=rows)
    cuts = slow_cuts(table["g"], rows)
    lengths = [len(part.values) for part in found.read()]
    assert lengths == list(np.diff([*cuts, ROWS]))
    for first in range(0, len(cuts), max(len(cuts) // 5, 1)):
        assert [len(part.values) for part in found.read(first)] == lengths[first:]


def test_the_columns_that_folders_spell(places, table):
    named = str(places / "named")
    found = ParquetChunks(named, weights="part", columns=NAMES)
    weights = np.concatenate([part.weights for part in found.read()])
    np.testing.assert_array_equal(weights, np.repeat([0.0, 2, 3, 4], [200, 1, 499, 717]))
    assert ParquetChunks(named, columns=["part", "x"]).names == ("part", "x")
    assert ParquetChunks(named, columns=["x"], groups="part", chunk_rows=10).read(3) is not None
    only = ParquetChunks(f"{named}/part=[34]", columns=["part"])
    [part] = only.read()
    np.testing.assert_array_equal(part.values[:, 0], np.repeat([3.0, 4.0], [499, 717]))


def test_folders_that_spell_text_and_gaps(tmp_path):
    for index, name in enumerate(["b%20c", "a", "__HIVE_DEFAULT_PARTITION__"]):
        (tmp_path / f"area={name}").mkdir()
        pq.write_table(pa.table({"x": [float(index)] * 2}), tmp_path / f"area={name}/f.parquet")
    (tmp_path / "area=a/_SUCCESS").touch()
    assert ParquetChunks(str(tmp_path / "area=a/*")).names == ("x",)
    (tmp_path / "area=a/.f.parquet").touch()
    found = ParquetChunks(tmp_path, columns=["x"])
    [part] = found.read()
    np.testing.assert_array_equal(part.values[:, 0], [2.0, 2, 1, 1, 0, 0])
    with pytest.raises(ValueError, match="Column 'area' of the file .* holds text, not numbers"):
        ParquetChunks(tmp_path)
    with pytest.raises(ValueError, match=r"groups must name .*; row 0 \(row 0 of the file"):
        list(ParquetChunks(tmp_path, groups="area").read())
    files = [tmp_path / f"area={name}" for name in ("a", "b%20c")]
    grouped = ParquetChunks([str(f) for f in files], columns=["x"])
    assert grouped.names == ("x",)


CELLS = {
    "float64": pa.array([1.5, None, np.nan, -2.0]),
    "float32": pa.array([1.5, None, 3.0, -2.0], pa.float32()),
    "float16": pa.array(np.array([1.5, 2, 3, 4], np.float16)),
    "int8": pa.array([1, None, -3, 4], pa.int8()),
    "int64": pa.array([2**60, None, -3, 4]),
    "uint64": pa.array([2**64 - 1, 1, 2, 3], pa.uint64()),
    "truth": pa.array([True, None, False, True]),
    "decimal": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-2.00"), None]),
    "null": pa.nulls(4),
    "categories": pa.array([7, None, 7, 3]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", CELLS)
def test_cells_of_every_kind_of_number(kind, tmp_path):
    table = pa.table({"one": [1.0, 1.0, 1.0, 1.0], kind: CELLS[kind]})
    pq.write_table(table, tmp_path / "rows.parquet")
    expected = [np.nan if cell is None else float(cell) for cell in CELLS[kind].to_pylist()]
    batches = BatchChunks([table[:1], table[1:]])
    for found in (ParquetChunks(tmp_path / "rows.parquet"), FrameChunks(table), batches):
        [part] = found.read()
        assert part.values.dtype == found.dtype == "float64"
        np.testing.assert_array_equal(part.values[:, 1], expected)


def test_single_precision_stays_where_all_columns_have_it(tmp_path):
    single = pa.table({"x": pa.array([1.5, -2], pa.float32()), "w": [1.0, 2.0]})
    wide = pa.table({"x": [0.1, 0.2], "w": [1.0, 2.0]})
    pq.write_table(single, tmp_path / "a.parquet")
    alone = ParquetChunks(tmp_path, weights="w")
    [part] = alone.read()
    assert alone.dtype == part.values.dtype == "float32"
    assert part.weights.dtype == "float64"
    pq.write_table(wide, tmp_path / "b.parquet")
    [part] = ParquetChunks(tmp_path, weights="w").read()
    np.testing.assert_array_equal(part.values[:, 0], [1.5, -2.0, 0.1, 0.2])
    assert FrameChunks(single, weights="w").dtype == "float32"
    assert ArrayChunks(np.ones((2, 2), np.float32)).dtype == "float32"
    assert ArrayChunks(np.ones((2, 2), np.int8)).dtype == "float64"
    with pytest.raises(ValueError, match="first batch is of float32, but batch 1 is not"):
        list(BatchChunks([single, wide], weights="w").read())


def test_the_index_that_pandas_stores_is_no_column(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=["first", "second"])
    frame.to_parquet(tmp_path / "rows.parquet")
    assert ParquetChunks(tmp_path / "rows.parquet").names == ("x",)
    assert FrameChunks(frame).names == ("x",)


def test_pandas_columns_without_text_for_names_and_with_gaps_of_its_own():
    frame = pd.DataFrame({0: pd.array([1, None], "Int64"), 1: pd.array([1.5, 2], dtype=object)})
    assert FrameChunks(frame, weights="1").names == ("0",)
    [part] = FrameChunks(frame).read()
    np.testing.assert_array_equal(part.values, [[1.0, 1.5], [np.nan, 2.0]])


def test_text_groups_from_file_to_file(tmp_path):
    names = np.repeat(["b", "a", "c"], [3, 4, 2])
    for index, part in enumerate((slice(0, 5), slice(5, 9))):
        cells = pa.array(names[part])
        cells = cells.dictionary_encode() if index else cells
        pq.write_table(
            pa.table({"x": np.arange(9.0)[part], "who": cells}), tmp_path / f"{index}.pq"
        )
    found = ParquetChunks(tmp_path, groups="who", chunk_rows=4)
    codes = [part.groups.tolist() for part in found.read()]
    assert codes == [[0, 0, 0], [0, 0, 0, 0], [0, 0]]


def test_buffers_are_used_again_only_when_nothing_of_them_is_held():
    values = np.arange(400.0).reshape(200, 2)
    found = ArrayChunks(values, chunk_rows=10)
    held, seen = [], set()
    for index, part in enumerate(found.read()):
        seen.add(part.values.ctypes.data)
        if index % 3 == 0:
            held.append(part.values[2:4, 1])
        del part
    np.testing.assert_array_equal(held, [values[i + 2 : i + 4, 1] for i in range(0, 200, 30)])
    assert len(held) < len(seen) < 20


def test_memory_maps_are_not_kept_in_memory(tmp_path):
    if not MAPS.exists():
        pytest.skip("the system does not tell what is resident")
    np.save(tmp_path / "rows.npy", np.ones((1 << 18, 8)))
    array = np.load(tmp_path / "rows.npy", mmap_mode="r")
    most = 0
    for _ in ArrayChunks(array, memory="16MB").read():
        most = max(most, resident(tmp_path / "rows.npy"))
    assert most > 0
    assert most <= array.nbytes // 2


def resident(path):
    """Bytes of a mapped file that count as memory of this process."""
    with MAPS.open() as maps:
        lines = iter(maps)
        for line in lines:
            if line.rstrip().endswith(str(path)):
                return next(int(li.split()[1]) * 1024 for li in lines if li.startswith("Rss"))
    return 0


@pytest.mark.parametrize("kind", KINDS)
def test_identities_tell_rows_apart(kind, places, table):
    first = reader(kind, places, table)
    assert first.identity() == reader(kind, places, table).identity()
    other = {name: cells.copy() for name, cells in table.items()}
    other["x"][3] += 1e-9
    if kind not in (*PATHS, "several paths", "rows", "columns"):
        assert first.identity() != reader(kind, places, other).identity()


def test_identities_of_files(places, table):
    path = places / "one.parquet"
    found = ParquetChunks(path).identity()
    assert found != ParquetChunks(path, columns=["x"]).identity()
    assert found != ParquetChunks(path, chunk_rows=4).identity()
    assert found != ParquetChunks(places / "several").identity()
    mapped = np.load(places / "rows.npy", mmap_mode="r")
    names = {ArrayChunks(part).identity() for part in (mapped, mapped[1:], mapped[:, 1:])}
    assert len(names) == 3
    assert ArrayChunks(mapped).identity() in names


@pytest.mark.parametrize("kind", ["a folder", "rows", "columns", "arrow"])
def test_chunks_travel_to_another_process(kind, places, table, whole):
    sent = pickle.dumps(reader(kind, places, table))
    assert kind in ("arrow", "a folder") or len(sent) < 64 * ROWS
    [part] = pickle.loads(sent).read()
    check_same(part, whole)


def test_memory_maps_travel_as_places_in_files(places):
    mapped = np.load(places / "rows.npy", mmap_mode="r")
    for part in (mapped, mapped[5:, 1:], mapped[::3]):
        found = ArrayChunks(part, empty_rows=True)
        sent = pickle.dumps(found)
        assert len(sent) < 2000
        received = pickle.loads(sent)
        np.testing.assert_array_equal(next(received.read()).values, part)
        assert received.identity() == found.identity()


def test_the_door_takes_each_kind_of_data(places, table, whole):
    path = str(places / "one.parquet")
    assert isinstance(chunks(path, columns=NAMES), ParquetChunks)
    assert isinstance(chunks([path], columns=NAMES), ParquetChunks)
    array = np.stack([table[name] for name in NAMES], axis=1)
    kinds = {
        ArrayChunks: chunks(array, **{r: table[np.atleast_1d(c)[0]] for r, c in ROLES.items()}),
        FrameChunks: chunks(arrow(table), **ROLES),
        BatchChunks: chunks(in_mappings(table), **ROLES),
    }
    for kind, found in kinds.items():
        assert type(found) is kind
        assert chunks(found) is found
        [part] = found.read()
        check_same(part, whole)
    assert isinstance(chunks(arrow(table).to_batches()[0], **ROLES), FrameChunks)
    assert chunks(array, memory="2 MB").memory == 2_000_000
