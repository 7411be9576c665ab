"""Rows out of memory: speed and memory against rows in memory and peers, and as n, K, d grow."""

from __future__ import annotations

import math
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import large_files, measure, options
from benchmarks.report import Section, save

D, K = 8, 16
LARGEST, HELD, PEERS = 10**8, 10**7, 10**6
GROWTH = (10**5, 10**6, 10**7, 10**8)
BUDGET = "1500MB"
NOTE = (
    "A Gaussian mixture with full covariances in float64, plain EM from a given start; seconds of "
    "a step are the median over steps after the first (the first holds the compiler, and for files "
    "the copy of standardised blocks). Millions of rows per second. Peak: the process's high-water "
    "mark, MiB. Spark: MLlib's GaussianMixture in local mode on the same cores, its rows cached. "
    "The two bare matrix products of a step, timed alone, say how many rows any step could take."
)


def ours(where: str, n: int, steps: int, wait: float, d: int = D, k: int = K) -> dict[str, Any]:
    """One climb of minorant."""
    budget = () if where == "memory" else (BUDGET,)
    return measure.module("peers.large_minorant", where, n, d, k, steps, *budget, wait=wait)


def row(what: str, n: int, found: dict[str, Any], d: int = D, k: int = K) -> dict[str, Any]:
    """One line of the table."""
    return {
        "rows": what,
        "(n, d, K)": str((n, d, k)),
        "s per step": found["step"],
        "Mrows/s": n / found["step"] / 1e6,
        "peak MiB": found.get("peak", float("nan")),
        "others": found["others"],
    }


def slope(sizes: Any, seconds: Any) -> float:
    """The exponent of growth, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def room_for(n: int) -> bool:
    """Whether the disk has room for files and blocks of n rows."""
    folder = large_files.folder()
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free > 3 * n * D * 8


def against_memory(section: Section, largest: int, held: int, wait: float) -> dict[str, Any]:
    """The rows in files against rows in memory; the climb on the files."""
    path = large_files.parquet(largest, D, K)
    inside = ours("memory", held, 40, wait)
    outside = ours(str(path), largest, 6, wait)
    section.rows += [row("in memory", held, inside), row("Parquet", largest, outside)]
    ratio = (largest / outside["step"]) / (held / inside["step"])
    work = f"Parquet folder of {largest:.0e} rows, (d, K) = {(D, K)}"
    section.target(work, ">= 80% of the in-memory rows/s", f"{ratio:.0%}", ratio >= 0.8)
    peak = outside["peak"]
    section.target(work, "peak memory <= 2 GB", f"{peak:.0f} MiB", peak <= 2e9 / 2**20)
    return outside


def against_peers(section: Section, n: int, python: str | None, wait: float) -> None:
    """Spark and scikit-learn on the same rows."""
    path = large_files.parquet(n, D, K)
    mine = ours(str(path), n, 20, wait)
    section.rows.append(row("Parquet", n, mine))
    theirs = measure.module("peers.sklearn_steps", n, D, K, 6, wait=wait)
    theirs["step"] = statistics.median(theirs["seconds"])
    section.rows.append(row("scikit-learn, in memory", n, theirs))
    speed = theirs["step"] / mine["step"]
    section.target(f"scikit-learn, {n:.0e} rows", "(none set)", f"{speed:.1f}x", True)
    if python is None:
        section.note += " Spark was left out: no --peer-python."
        return
    script = Path(__file__).parent / "peers" / "large_spark.py"
    cores = len(os.sched_getaffinity(0))
    spark = measure.child([python, str(script), str(path), str(D), str(K), str(cores)], wait=wait)
    section.rows.append(row("Spark", n, spark))
    speed = spark["step"] / mine["step"]
    section.target(f"Spark, {n:.0e} rows", ">= 20x its rows/s", f"{speed:.1f}x", speed >= 20)
    bare = fastest_products(section, n, wait)
    reached = f"{spark['step'] / bare:.1f}x"
    section.target(f"Spark, {n:.0e} rows: a step's two products alone", "(none set)", reached, True)


def fastest_products(section: Section, n: int, wait: float) -> float:
    """Seconds of the two matrix products of a step alone: no step takes less."""
    found = measure.module("peers.products", n, D, K, wait=wait)
    forms = {name: statistics.median(all_) for name, all_ in found["seconds"].items()}
    fastest = min(forms, key=lambda name: forms[name] if name != "our step" else math.inf)
    found["step"] = forms[fastest]
    section.rows.append(row(f"two bare products, {fastest}", n, found))
    return forms[fastest]


def growth(
    section: Section, sizes: tuple[int, ...], last: dict[str, Any], n: int, wait: float
) -> None:
    """Exponents in n (files; the largest is measured), and in K and d (memory)."""
    shorter = sizes[:-1]
    found = [ours(str(large_files.parquet(size, D, K)), size, 6, wait) for size in shorter]
    section.rows += [row("Parquet", size, one) for size, one in zip(shorter, found, strict=True)]
    found.append(last)
    exponent = slope(sizes, [one["step"] for one in found])
    span = f"{min(sizes):.0e} to {max(sizes):.0e}"
    section.target(f"time with n, {span}", "exponent <= 1.02", f"{exponent:.3f}", exponent <= 1.02)
    for name, values in (("K", (8, 16, 32, 64)), ("d", (4, 8, 16, 32))):
        shapes = [(D, value) if name == "K" else (value, K) for value in values]
        steps = [ours("memory", n, 40, wait, *shape) for shape in shapes]
        for shape, one in zip(shapes, steps, strict=True):
            section.rows.append(row("in memory", n, one, *shape))
        exponent = slope(values, [one["step"] for one in steps])
        limit = math.inf if name == "K" else 2.0
        said = "(none set)" if name == "K" else "<= 2: the features are products of two cells"
        work = f"time with {name}, {min(values)} to {max(values)}"
        section.target(work, said, f"{exponent:.2f}", exponent <= limit)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    section = Section("large_data", "Rows out of memory", NOTE)
    if chosen.quick:
        largest, held, peers, sizes, n = 200_000, 100_000, 50_000, (10_000, 200_000), 20_000
    else:
        largest = LARGEST if room_for(LARGEST) else HELD
        held, peers, n = HELD, PEERS, PEERS
        sizes = tuple(size for size in GROWTH if size <= largest)
    last = against_memory(section, largest, held, chosen.wait)
    against_peers(section, peers, chosen.peer_python, chosen.wait)
    growth(section, sizes, last, n, chosen.wait)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
