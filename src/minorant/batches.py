"""What an encoder is climbed on: batches of rows in memory, or of rows dealt from chunks.

Rows out of memory are dealt into sections (:mod:`minorant.data.dealt`). Every block of steps draws
its batches from a part of one section, about as many rows as its batches hold; parts follow one
another at random until all rows had their turn, and in another order after that. What the rows of a
part are worth is scaled by one over the chance of each to be among them, so that the bound on a
batch is on average that on all rows, whatever the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import count_parameters
from minorant._types import Rows
from minorant.data.dealt import Deal, Dealt, Records, weights_of
from minorant.data.engines import room
from minorant.data.summary import has_gaps
from minorant.preparation import Prepared
from minorant.solvers._adam import BLOCK
from minorant.solvers.minibatch import RowBound
from minorant.streaming import Stream

_EVALUATIONS = 512  # draws of a step, over all of its rows
_JUDGED_ROWS = 2048
_JUDGED_DRAWS = 16
_HELD_OUT = 0.15
_FEW_ROWS = 100  # too few to hold any out
_SECTION_BYTES = 1 << 28
_SECTIONS_IN_ROOM = 8  # of the room for blocks: the section under way, and what is made of it


class Batches(NamedTuple):
    """What is climbed, and what says when to stop.

    Attributes:
        climbed: the bound on batches of all rows, or of those of the first block of steps.
        exam: the bound on the rows that judge, on held draws, without what a batch adds.
        supply: the bound that the block of steps that begins with this number is climbed on; None
            where ``climbed`` has all rows.
    """

    climbed: RowBound
    exam: RowBound
    supply: Callable[[int], RowBound] | None = None


def batches_of(prepared: Prepared, seed: int) -> Batches:
    """Batches of the rows that are climbed on; the rest, or where none are held out all, judge.

    Raises:
        OSError: when rows cannot be read.
    """
    if isinstance(prepared.stream, Stream):
        return _of_stream(prepared, prepared.stream, seed)
    return _of_table(prepared, seed)


def held_out_share(prepared: Prepared) -> float:
    """The share of rows that only say when to stop."""
    asked = _encoder(prepared).held_out
    if asked is not None:
        return asked
    n, numbers = prepared.n_rows(), count_parameters(prepared.template, prepared.fixed)
    return _HELD_OUT if numbers > n > _FEW_ROWS else 0.0


class _Maker(NamedTuple):
    """How some rows become a bound.

    ``fill`` is what missing cells hold: what some row has in that column, for what a likelihood
    gives outside its support has NaN for a gradient, even where unused. ``total`` is the weight of
    all rows that are climbed on.
    """

    prepared: Prepared
    fill: Float[np.ndarray, " d"]
    gaps: bool
    total: float

    def bound(
        self,
        values: Float[np.ndarray, "m d"],
        weights: Float[np.ndarray, " m"],
        batch: int,
        draws: int,
        worth: float = 1.0,
    ) -> RowBound:
        """The bound on batches of these rows, which are worth a share of all."""
        dtype, model = self.prepared.dtype, self.prepared.template
        observed = ~np.isnan(values) if self.gaps else None
        filled = np.where(np.isnan(values), self.fill, values).astype(dtype)
        return RowBound(
            model,  # pyright: ignore[reportArgumentType]
            Rows(filled, np.ones(len(values), dtype), observed),
            (np.cumsum(weights) * (worth / weights.sum())).astype(dtype),
            np.asarray(self.total, dtype),
            self.prepared.fixed,
            _encoder(self.prepared).bound,
            batch,
            draws,
        )

    def climbed(
        self, values: np.ndarray, weights: np.ndarray, batch: int, worth: float = 1.0
    ) -> RowBound:
        """For steps: few draws of each row of a batch."""
        bound = _encoder(self.prepared).bound
        groups = max(_EVALUATIONS // (batch * bound.draws), _least_groups(self.prepared))
        return self.bound(values, weights, batch, bound.draws * groups, worth)

    def exam(self, values: np.ndarray, weights: np.ndarray) -> RowBound:
        """For judging: all of the rows, many draws of each."""
        least = _encoder(self.prepared).bound.draws
        return self.bound(values, weights, len(values), least * -(-_JUDGED_DRAWS // least))


def _encoder(prepared: Prepared) -> Any:
    template: Any = prepared.template
    return template.family


def _least_groups(prepared: Prepared) -> int:
    """Draws that jump are compared with one another."""
    template: Any = prepared.template
    return 1 if template.is_smooth() else 4


def _of_table(prepared: Prepared, seed: int) -> Batches:
    table = prepared.table
    weights = np.ones(len(table.values)) if table.weights is None else table.weights
    order = np.random.default_rng(seed).permutation(np.flatnonzero(weights > 0))
    held = round(held_out_share(prepared) * len(order))
    climbed_on, judged_on = np.sort(order[held:]), np.sort(order[:held] if held else order)
    judged_on = judged_on[:: _stride(len(judged_on))]
    first = np.argmax(~np.isnan(table.values), axis=0)
    fill = table.values[first, np.arange(table.values.shape[1])]
    total = float(weights[climbed_on].sum())
    maker = _Maker(prepared, fill, has_gaps(table.values), total)
    batch = min(_encoder(prepared).batch, len(climbed_on))
    return Batches(
        maker.climbed(table.values[climbed_on], weights[climbed_on], batch),
        maker.exam(table.values[judged_on], weights[judged_on]),
    )


def _of_stream(prepared: Prepared, stream: Stream, seed: int) -> Batches:
    seen, share, pool = stream.seen, held_out_share(prepared), BLOCK * _encoder(prepared).batch
    space, size = room(prepared.source.chunks.memory), _bytes_of_row(prepared)
    section = max(min(_SECTION_BYTES, space // _SECTIONS_IN_ROOM), pool * size)
    deal = Deal(seed, -(-seen.counted * size // section), share)
    held = round(share * seen.counted)
    looked = _Looked(held > 0, _stride(held or seen.counted))
    ends = np.append(seen.first_rows, seen.n_rows)
    lengths = np.diff(ends).tolist()
    dealt = Dealt(prepared.source.chunks, deal, lengths, prepared.dtype, space // 2)
    dealt.begin(looked.look)
    maker = _Maker(prepared, looked.fill, not seen.complete, looked.total)
    supply = _Supply(maker, dealt, pool)
    judging = np.concatenate(looked.judging)
    return Batches(supply(0), maker.exam(judging["values"], weights_of(judging)), supply)


def _stride(count: int) -> int:
    """Every so-many-th of the rows that may judge does."""
    return max(-(-count // _JUDGED_ROWS), 1)


def _bytes_of_row(prepared: Prepared) -> int:
    return len(prepared.names) * prepared.dtype.itemsize + 8


class _Looked:
    """What is seen of rows while they are dealt: who judges, cells to fill in, the weight."""

    def __init__(self, held_out: bool, stride: int) -> None:
        self.judging: list[Records] = []
        self.fill: np.ndarray = np.empty(0)
        self.total = 0.0
        self._held_out, self._stride, self._count = held_out, stride, 0

    def look(self, records: Records, places: Int[np.ndarray, " n"]) -> None:
        """At the rows of a chunk, and where they were dealt to."""
        may_judge = records[places < 0] if self._held_out else records
        self.judging.append(may_judge[-self._count % self._stride :: self._stride].copy())
        self._count += len(may_judge)
        self.total += float(weights_of(records)[places >= 0].sum())
        self._fill_in(records["values"])

    def _fill_in(self, values: Float[np.ndarray, "n d"]) -> None:
        if not len(self.fill):
            self.fill = np.full(values.shape[1], np.nan)
        if len(values) and np.isnan(self.fill).any():
            first = np.argmax(~np.isnan(values), axis=0)
            found = values[first, np.arange(values.shape[1])]
            self.fill = np.where(np.isnan(self.fill), found, self.fill)


class _Supply:
    """The rows of block after block of steps: parts of sections, all of them round after round."""

    def __init__(self, maker: _Maker, dealt: Dealt, pool: int) -> None:
        """Parts of about ``pool`` rows."""
        self._maker, self._dealt = maker, dealt
        sizes = dealt.sizes
        self._parts = max(round(float(sizes.mean()) / pool), 1)
        self._rows = int(-(-sizes.max() // self._parts))
        self._batch = min(_encoder(maker.prepared).batch, self._rows)
        self._block, self._made = -1, None
        self._held: tuple[tuple[int, int], Any, Any] = ((-1, -1), None, None)

    def __call__(self, step: int) -> RowBound:
        """What the block that begins with this step is climbed on."""
        if self._made is None or step // BLOCK != self._block:
            self._block = step // BLOCK
            self._made = self._of_block(self._block)
        return self._made

    def _of_block(self, block: int) -> RowBound:
        sections = self._dealt.deal.sections
        turn, place = divmod(block, sections * self._parts)
        order = np.random.default_rng([self._dealt.deal.seed, 1, turn]).permutation(sections)
        records, mixed = self._section(turn, int(order[place // self._parts]))
        index = np.sort(np.array_split(mixed, self._parts)[place % self._parts])
        part, chance = records[index], len(index) / (sections * len(records))
        worth = float(weights_of(part).sum()) / (chance * self._maker.total)
        return self._padded(part, worth)

    def _section(self, turn: int, number: int) -> tuple[Records, Int[np.ndarray, " n"]]:
        """A section and the order that its rows are taken in."""
        if self._held[0] != (turn, number):
            self._held = ((-1, -1), None, None)  # one section at a time is held in memory
            records = self._dealt.section(number)
            rng = np.random.default_rng([self._dealt.deal.seed, 2, turn, number])
            self._held = ((turn, number), records, rng.permutation(len(records)))
        return self._held[1:]

    def _padded(self, part: Records, worth: float) -> RowBound:
        """As many rows for every block, so that one program serves all: the last one repeated."""
        values, weights = part["values"], weights_of(part)
        more = self._rows - len(part)
        values = np.concatenate([values, np.repeat(values[-1:], more, axis=0)])
        weights = np.concatenate([weights, np.zeros(more)])
        return self._maker.climbed(values, weights, self._batch, worth)
