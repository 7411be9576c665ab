"""Rows dealt into sections: every row once, evenly along the rows, wherever sections are kept."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from minorant.data import dealt
from minorant.data.dealt import Deal, Dealt, weights_of
from minorant.data.in_chunks import ArrayChunks

N, ROOMY = 230, 1 << 20
ROWS = np.random.default_rng(0).normal(size=(N, 2))
WEIGHTS = np.where(np.arange(N) % 7, 1.0 + np.arange(N) % 3, 0.0)
LENGTHS = [64, 64, 64, 38]


def made(room, held_out=0.0, weights=WEIGHTS):
    """The sections of rows in chunks of 64, and what was shown of the rows held out."""
    chunks = ArrayChunks(ROWS, weights=weights, chunk_rows=64)
    found = Dealt(chunks, Deal(5, 4, held_out), LENGTHS, np.dtype(float), room)
    held = []
    found.begin(lambda records, places: held.append(records[places < 0]))
    return found, np.concatenate(held)


def test_of_every_few_rows_one_goes_to_each_section():
    places = Deal(3, 5).places(2, 1000, 23)
    hands = places[:20].reshape(4, 5)
    assert (np.sort(hands, axis=1) == np.arange(5)).all()
    assert len(set(places[20:])) == 3
    assert not (np.sort(hands, axis=0) == hands).all()
    assert (places == Deal(3, 5).places(2, 1000, 23)).all()
    assert (places != Deal(3, 5).places(1, 1000, 23)).any()
    assert (places != Deal(4, 5).places(2, 1000, 23)).any()


def test_a_row_is_as_likely_to_go_to_any_section():
    found = np.stack([Deal(seed, 3).places(0, 0, 7) for seed in range(3000)])
    share = np.stack([(found == section).mean(axis=0) for section in range(3)])
    assert np.abs(share - 1 / 3).max() < 4.5 * np.sqrt(2 / 9 / 3000)


@pytest.mark.parametrize("share", [0.15, 0.5, 0.004])
def test_the_share_that_is_held_out_is_exact(share):
    deal, first, held = Deal(1, 2, share), 0, 0
    for chunk, n in enumerate(LENGTHS * 3):
        held += int((deal.places(chunk, first, n) < 0).sum())
        first += n
    assert held == round(share * first)


@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weighted", "plain"])
def test_every_row_that_weighs_something_is_in_one_section(weights):
    found, held = made(ROOMY, 0.2, weights)
    sections = [found.section(k) for k in range(4)]
    everything = np.concatenate([*sections, held])
    counted = np.flatnonzero(np.ones(N) if weights is None else weights)
    order = np.argsort(everything["values"][:, 0])
    expected = np.argsort(ROWS[counted, 0])
    assert np.array_equal(everything["values"][order], ROWS[counted][expected])
    assert np.array_equal(
        weights_of(everything)[order],
        (np.ones(N) if weights is None else weights)[counted][expected],
    )
    assert max(map(len, sections)) - min(map(len, sections)) <= len(LENGTHS)


def test_where_sections_are_kept_changes_no_row(monkeypatch):
    kept, _ = made(ROOMY)
    assert isinstance(kept._store, dealt._InMemory)
    in_file, _ = made(0)
    assert isinstance(in_file._store, dealt._InFile)
    monkeypatch.setattr(dealt, "free_bytes", lambda: 0)
    nowhere, _ = made(0)
    assert nowhere._store is None
    for section in range(4):
        for other in (in_file, nowhere):
            assert np.array_equal(kept.section(section), other.section(section))


def test_a_disk_that_fills_up_costs_passes_only(monkeypatch):
    kept, _ = made(ROOMY)
    written, write = [], dealt.write_at

    def full(descriptor, array, offset):
        written.append(offset)
        if len(written) == 6:  # in the second chunk
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor, array, offset)

    monkeypatch.setattr(dealt, "write_at", full)
    broken, _ = made(0)
    assert len(written) == 6
    assert broken._store is None
    for section in range(4):
        assert np.array_equal(kept.section(section), broken.section(section))
