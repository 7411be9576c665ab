"""What a test may ask for: a float type in its own scope, seeds, a warm compilation cache.

Compiling dominates the suite. Programs of the test process itself are compiled by XLA's older loop
emitters, in one piece and with less optimisation, which takes half of the time; what tests start as
processes of their own (the command line, the demo, what once hung) is compiled as it is for users.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from minorant import _config

_QUICK = (
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false "
    "--xla_cpu_copy_insertion_use_region_analysis=false"
)
_KNOWS_THEM = (0, 10)  # a release that does not know a flag ends the process


def pytest_configure(config: pytest.Config) -> None:
    """Start JAX with the quick options, unless options were given, and put the variable back."""
    del config
    if "XLA_FLAGS" in os.environ or jax.__version_info__[:2] != _KNOWS_THEM:
        return
    os.environ["XLA_FLAGS"] = _QUICK
    jax.devices()
    del os.environ["XLA_FLAGS"]


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(request: pytest.FixtureRequest) -> None:
    """Compiled programs kept beside pytest's own cache, so that a second run costs little."""
    cache = getattr(request.config, "cache", None)  # absent under -p no:cacheprovider
    if cache is not None:
        os.environ.setdefault(_config.CACHE_VARIABLE, str(cache.mkdir("compiled")))
    _config.enable_compilation_cache()


@pytest.fixture(params=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[np.dtype]:
    """Both float types in turn; JAX computes in it while the test runs."""
    chosen = np.dtype(request.param)
    with _config.precision(chosen):
        yield chosen


@pytest.fixture
def float64() -> Iterator[np.dtype]:
    """Double precision while the test runs."""
    with jax.enable_x64(True):
        yield np.dtype(np.float64)


@pytest.fixture
def float32() -> Iterator[np.dtype]:
    """Single precision while the test runs."""
    with jax.enable_x64(False):
        yield np.dtype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed: a failure can be run again."""
    return np.random.default_rng(20240229)


_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 20_000  # Linux allows a process 65,530; every compiled program takes dozens
_state = {"tests": 0}


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let compiled programs go before the process runs out of memory maps and crashes."""
    del item, nextitem
    _state["tests"] += 1
    if _state["tests"] % 20 or not _MAPS.exists():
        return
    with _MAPS.open() as maps:
        if sum(1 for _ in maps) > _MOST_MAPS:
            jax.clear_caches()
            gc.collect()
