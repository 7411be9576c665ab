"""Compilation cache and precision: set up at the first fit, never at import."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

CACHE_VARIABLE = "MINORANT_CACHE"


def cache_directory() -> Path | None:
    """Where compiled programs are kept; None when ``MINORANT_CACHE`` is ``off``.

    ``MINORANT_CACHE`` may name a directory; otherwise it is ``minorant`` under the user's cache
    directory.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() in {"off", "0", "no"}:
        return None
    if chosen:
        return Path(chosen)
    return _user_cache() / "minorant" / "compiled"


def enable_compilation_cache() -> None:
    """Turn on JAX's persistent cache, unless the user turned it off or chose one already."""
    directory = cache_directory()
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if directory is None or chosen:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to costs compile time, not the fit
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# The kernel emitters that XLA uses by default take longer to compile than the older ones and gain
# only where there is much to compute; what runs once needs no optimisation at all.
_CPU_OPTIONS: dict[str, dict[str, Any]] = {
    "once": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
    "small": {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False},
}


_SMALL = 1 << 17  # numbers; compiling then takes longer than computing


def quick_jit(function: Callable[..., Any], use: str) -> Callable[..., Any]:
    """``jax.jit`` that compiles faster on a CPU, for what runs ``"once"`` or on ``"small"`` data.

    Where the installed compiler does not know an option, or elsewhere, it is ``jax.jit``.
    """
    plain = jax.jit(function)
    quick = jax.jit(function, compiler_options=_CPU_OPTIONS[use])

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return plain(*arguments)
        try:
            return quick(*arguments)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            return plain(*arguments)

    return call


def small_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.jit`` that compiles faster on a CPU where all arguments together are small."""
    plain, quick = jax.jit(function), quick_jit(function, "small")

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        cells = sum(np.size(leaf) for leaf in jax.tree.leaves(arguments))
        return quick(*arguments) if cells < _SMALL else plain(*arguments)

    return call


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager[None]:
    """A scope in which JAX computes in ``dtype``; nothing outside it changes."""
    return jax.enable_x64(np.dtype(dtype) == np.float64)


def one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    """A scope in which BLAS and LAPACK work on the calling thread alone.

    Compiled programs run on threads of their own; a factorisation inside one that starts more waits
    for cores that its caller holds, many times as long as it takes on one.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
