"""Compilation cache and precision: set up at the first fit, never at import."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

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


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager[None]:
    """A scope in which JAX computes in ``dtype``; nothing outside it changes."""
    return jax.enable_x64(np.dtype(dtype) == np.float64)


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
