"""Measuring: child processes that print one JSON line, and the cores that others used meanwhile.

Every timed thing runs in a process of its own, one at a time. ``others`` is the mean number of
cores that all other processes used while it ran (busy time of the machine less the child's own); a
row with ``others`` above 0.1 is not evidence on a machine with two cores.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
QUIET = 0.1
_PACKAGES = ("minorant", "jax", "jaxlib", "numpy", "scipy", "scikit-learn", "threadpoolctl")


def busy() -> float:
    """Seconds that all cores have worked since boot; 0 where the system does not say."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return 0.0
    ticks = [int(field) for field in first.split()[1:]]
    return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(limit: float) -> None:
    """Wait until others use little, ``limit`` seconds at most."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        before = busy()
        time.sleep(1.0)
        if busy() - before < 1.5 * QUIET:
            return


def child(command: list[str], *, wait: float = 0.0, threads: int | None = None, **more: str) -> Any:
    """Run a command; its last line of output as JSON, with ``others`` and ``wall`` added.

    Args:
        command: what to run, from the root of the repository.
        wait: seconds to wait at most for a quiet machine.
        threads: threads that BLAS and OpenMP may use; None: what they choose themselves.
        more: environment variables.
    """
    wait_until_quiet(wait)
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = (
        os.environ | more | ({} if threads is None else dict.fromkeys(limits, str(threads)))
    )
    work, own, began = busy(), _children(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - began
    others = max(0.0, (busy() - work - (_children() - own)) / wall)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()[-1500:]}")
    lines = done.stdout.strip().splitlines()
    found = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return found | {"others": round(others, 3), "wall": wall}


def module(name: str, *arguments: Any, python: str | None = None, **options: Any) -> Any:
    """``python -m benchmarks.<name> arguments`` as a child."""
    command = [python or sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    return child(command, **options)


def summary(values: list[float]) -> dict[str, float]:
    """Median, minimum, maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
