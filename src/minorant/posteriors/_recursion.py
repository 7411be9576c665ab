"""How a posterior goes through time: step by step, or all steps at once by a parallel scan.

Step by step a sequence of n rows takes n dependent steps (fewer where it is cut into lanes). A
scan over an associative product takes about ``16 + log2(n / 16)`` of them, for two to three times
the arithmetic on larger objects: more work, for processors that have thousands of places to do it.
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax

_MOST_CELLS = 1 << 27  # numbers of one kind that a scan may hold at once: 1 GiB in float64


class AbstractRecursion(eqx.Module):
    """Says whether the steps of sequences are taken all at once."""

    @abstractmethod
    def is_parallel(self, length: int, cells: int) -> bool:
        """Whether sequences of ``length`` rows go by a scan over arrays of ``cells`` numbers."""


class Sequential(AbstractRecursion):
    """Step by step, sequences side by side and long ones in lanes.

    Example:
        >>> from minorant.posteriors import Sequential
        >>> Sequential().is_parallel(10**6, 10**7)
        False
    """

    def is_parallel(self, length: int, cells: int) -> bool:
        """Never."""
        del length, cells
        return False


class ParallelScan(AbstractRecursion):
    """All steps at once, by a scan over an associative product.

    Example:
        >>> from minorant.posteriors import ParallelScan
        >>> ParallelScan().is_parallel(2, 8)
        True

    Not for: CPUs, where it is several times slower than step by step; paths of states (Viterbi,
    draws) and second derivatives, which go step by step all the same.

    Särkkä & García-Fernández (2021), "Temporal parallelization of Bayesian smoothers", IEEE
    Transactions on Automatic Control 66(1).
    """

    def is_parallel(self, length: int, cells: int) -> bool:
        """Always."""
        del length, cells
        return True


class ByDevice(AbstractRecursion):
    """A scan on an accelerator for long sequences, step by step else; the default.

    Args:
        from_length: rows of a sequence from which on an accelerator scans.

    Example:
        >>> from minorant.posteriors import ByDevice
        >>> ByDevice(from_length=1024).is_parallel(512, 10**5)
        False

    The rule is by kind of device: it was measured on a CPU (where a scan loses at every length),
    and on no accelerator.
    """

    from_length: int = eqx.field(static=True, default=2048)

    def is_parallel(self, length: int, cells: int) -> bool:
        """Long sequences on an accelerator, as far as memory goes."""
        long = length >= self.from_length and cells <= _MOST_CELLS
        return long and jax.default_backend() != "cpu"


def is_parallel(recursion: AbstractRecursion | None, length: int, cells: int) -> bool:
    """What a recursion says; None: by device."""
    return (ByDevice() if recursion is None else recursion).is_parallel(length, cells)
