"""Two Dask workers of one thread against one process of one thread, on Parquet files."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measure, options
from benchmarks.data import simulated
from benchmarks.report import Section, save

SHAPE, SMALL_SHAPE = (10_000_000, 8, 16), (2_000_000, 8, 16)
STEPS = 12
FILES = 10
NOTE = (
    "Seconds per EM step, the median of nine after three, fp64, all parameters given; `cpu`: CPU "
    "seconds per step of each process that computes. `0 workers`: one process without Dask, held "
    "to one core. Scheduler and client share the cores with the workers."
)


def written(folder: Path, shape: tuple[int, int, int]) -> None:
    """The rows in files, a stretch at a time, and where the climb starts."""
    n, d, k = shape
    start = simulated(n // FILES, d, k)
    given = {"means": start.means, "covariances": start.covariances, "weights": start.weights}
    np.savez(folder / "start.npz", **given)
    (folder / "rows").mkdir()
    rng = np.random.default_rng(1)
    for file in range(FILES):
        rows = start.rows + 0.1 * rng.normal(size=start.rows.shape)
        table = pa.table({f"x{j}": column for j, column in enumerate(rows.T)})
        pq.write_table(table, folder / "rows" / f"{file}.parquet", compression="none")


def row(shape: tuple[int, int, int], workers: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table."""
    seconds = [one["seconds"] for one in found]
    return {
        "(n, d, K)": str(shape),
        "workers": workers,
        "seconds": measure.summary(seconds),
        "rows per second": round(shape[0] / statistics.median(seconds)),
        "cpu": ", ".join(f"{one:.3f}" for one in found[0]["cpu"]),
        "others": max(one["others"] for one in found),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    shape = SMALL_SHAPE if chosen.quick else SHAPE
    section = Section("dask_workers", "Dask workers", NOTE)
    found: dict[int, list[dict[str, Any]]] = {0: [], 1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        written(Path(name), shape)
        for _ in range(1 if chosen.quick else chosen.rounds):
            for workers, samples in found.items():
                asked = (workers, Path(name) / "rows", shape[2], STEPS)
                one = measure.module("peers.dask_steps", *asked, wait=chosen.wait)
                samples.append(one)
                print(workers, one, file=sys.stderr, flush=True)
    section.rows = [row(shape, workers, samples) for workers, samples in found.items()]
    one, two = (statistics.median(s["seconds"] for s in found[w]) for w in (0, 2))
    others = max(sample["others"] for samples in found.values() for sample in samples)
    work = f"two Dask workers of one thread against one process of one thread, {shape}"
    section.target(work, ">= 1.7x", f"{one / two:.2f}x", one / two >= 1.7, others)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
