"""Seconds per EM step on Parquet files: ``... benchmarks.peers.dask_steps N FOLDER K STEPS``.

N is the number of Dask workers of one thread; 0 is one process of one thread without Dask, held
to one core. All parameters are given. Printed with them the CPU seconds per step of each process
that computes, so that one thread is seen to be one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_WARM = 3  # first steps, in which programs are compiled


def main() -> None:
    """Measure and print."""
    workers, folder, k, steps = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if workers:
        print(json.dumps(_on_workers(workers, folder, k, steps)))
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import minorant

    print(json.dumps(_fitted(minorant.chunks(folder), k, steps, lambda: [time.process_time()])))


def _on_workers(workers: int, folder: str, k: int, steps: int) -> dict[str, Any]:
    from distributed import Client, LocalCluster

    import minorant

    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        LocalCluster(n_workers=workers, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        rows = minorant.chunks(folder, dask=client)
        found = _fitted(rows, k, steps, lambda: list(client.run(time.process_time).values()))
        own = time.process_time()
        return found | {"client": own}


def _fitted(rows: Any, k: int, steps: int, used: Any) -> dict[str, Any]:
    import jax
    import numpy as np

    import minorant
    from minorant.components import Gaussian

    start = np.load(Path(sys.argv[2]).parent / "start.npz")
    component = Gaussian(mean=start["means"], covariance=start["covariances"])
    model = minorant.Mixture(component, start["weights"], n_components=k)
    clock: list[float] = []
    spent: list[list[float]] = []

    def note(progress: Any) -> None:
        clock.append(time.perf_counter())
        if len(clock) in (_WARM, steps - 1):
            spent.append(used())

    with jax.enable_x64(True):
        began = time.perf_counter()
        fit = minorant.fit(model, rows, max_steps=steps, tolerance=0.0, callbacks=(note,))
    seconds = np.diff(clock)[_WARM:]
    cpu = (np.array(spent[1]) - np.array(spent[0])) / (steps - 1 - _WARM)
    return {
        "seconds": float(np.median(seconds)),
        "cpu": cpu.round(4).tolist(),
        "whole": time.perf_counter() - began,
        "bound": fit.bound,
    }


if __name__ == "__main__":
    main()
