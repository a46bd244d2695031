"""Merging runs of the index: adjacent runs of one level become one of the next, a few segments at a time.

A merge is nothing but a place in each of its inputs. A step reads on from there and gives the next segments of the
output; only when they are durable do the places move. So a step that could not be stored is simply made again. After a
crash the places follow from the output so far: where the last key is in each input.
Turned down: a tree of winners (4 comparisons instead of 15, each of which waits for the one before: half as fast).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.compiled import njit
from ledger.errors import LedgerCorrupt
from ledger.runs import BlobName, ReadSegment, Run, fences_blob, first_key, run_id, segment_blob

FAN_IN = 16
"""The most runs that are merged into one."""

_KEY_MAX = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a step of a merge gives.

    Args:
        puts: the blobs to store.
        num_items: how many items were merged.
        positions: int64[k], where the inputs are read next.
        fences: the first keys of the segments in `puts`.
        run: the output, if it is complete; its fences are then in `puts`, too.
    """

    puts: tuple[tuple[BlobName, bytes], ...]
    num_items: int
    positions: NDArray[np.int64]
    fences: tuple[int, ...]
    run: Run | None


class Merge:
    """One merge that is under way.

    Args:
        inputs: up to `FAN_IN` adjacent runs of one level, in order; they stay readable until the merge is complete.
    Cost: a segment of each input is kept in memory: 12 bytes x 8,188 x 16, 1.6 MB. About 20 ns an item.
    """

    def __init__(self, inputs: tuple[Run, ...]) -> None:
        assert len(inputs) <= FAN_IN
        first = inputs[0]
        self.inputs = inputs
        self.id = run_id(first.family, first.level + 1, first.first)
        self._num_items = sum(run.num_items for run in inputs)
        self._positions = np.zeros(len(inputs), np.int64)
        self._fences: list[int] = []
        self._keys = np.empty((len(inputs), first.segment_items), np.uint64)
        self._offsets = np.empty((len(inputs), first.segment_items), np.uint32)
        self._in_window = [-1] * len(inputs)  # which segment of each input is in memory
        self._shifts = np.array([run.first - first.first for run in inputs], np.uint32)

    def take_up(self, num_segments: int, read: ReadSegment) -> bool:
        """Go on behind the first segments of the output, which are stored. False if they are not this merge's, or are
        damaged: then it begins anew.

        Cost: reads them.
        """
        try:
            output, ranks = self._ranks(num_segments, read)
        except LedgerCorrupt:
            return False
        positions = np.array([low for low, _ in ranks], np.int64)
        num_left = output.num_items - int(positions.sum())
        for place, (low, high) in enumerate(ranks):  # equal keys go by window, as in `_merge_windows`
            num_equal = max(0, min(high - low, num_left))
            positions[place] += num_equal
            num_left -= num_equal
        if num_left or not 0 < output.num_items < self._num_items:
            return False
        self._positions = positions
        self._fences = output.fences.tolist()
        return True

    def _ranks(self, num_segments: int, read: ReadSegment) -> tuple[Run, list[tuple[int, int]]]:
        """The output so far, and of each input how many items have a lesser key than its last one, and none greater."""
        fences = [first_key(read(self.id, number)) for number in range(num_segments)]
        output = self._output(tuple(fences), num_segments * self.inputs[0].segment_items)
        keys = [output.arrays(number, read)[0] for number in range(num_segments)]
        last = int(keys[-1][-1])
        return output, [(run.rank(last, "left", read), run.rank(last, "right", read)) for run in self.inputs]

    def step(self, num_items_max: int, read: ReadSegment) -> Step:
        """Merge as many whole segments as that allows.

        Raises:
            LedgerCorrupt: a segment of an input is damaged or missing; it says which.
        """
        positions = self._positions.copy()
        fences: list[int] = []
        puts: list[tuple[BlobName, bytes]] = []
        num_left = self._num_items - int(positions.sum())
        num_merged = 0
        while num_left and (size := min(self.inputs[0].segment_items, num_left)) <= num_items_max - num_merged:
            number = len(self._fences) + len(fences)
            keys, offsets = self._next_items(size, positions, read)
            puts.append(((self.id, number), segment_blob(self.id, number, keys, offsets)))
            fences.append(int(keys[0]))
            num_merged += size
            num_left -= size
        run = None if num_left else self._output((*self._fences, *fences), self._num_items)
        if run and run.num_items:
            puts.append(((run.id, len(run.fences)), fences_blob(run.id, run.fences)))
        return Step(tuple(puts), num_merged, positions, tuple(fences), run)

    def applied(self, step: Step) -> None:
        """Go on after that step: what it gave is durable."""
        self._positions = step.positions
        self._fences += step.fences

    def _next_items(
        self, size: int, positions: NDArray[np.int64], read: ReadSegment
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """The next items in order, uint64[size] keys and uint32[size] offsets; moves the positions."""
        keys, offsets = np.empty(size, np.uint64), np.empty(size, np.uint32)
        done = 0
        while done < size:
            starts, ends = self._fill_windows(positions, read)
            places = starts.copy()
            done = _merge_windows(self._keys, self._offsets, self._shifts, places, ends, keys, offsets, done)
            positions += places - starts
        return keys, offsets

    def _fill_windows(
        self, positions: NDArray[np.int64], read: ReadSegment
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Have the segment at each position in memory: where to begin in it and where it ends, equal at a run's end."""
        starts = positions % self.inputs[0].segment_items
        ends = starts.copy()
        for place, run in enumerate(self.inputs):
            position = int(positions[place])
            if position == run.num_items:
                continue
            number = position // run.segment_items
            ends[place] = min(run.segment_items, run.num_items - number * run.segment_items)
            if self._in_window[place] != number:
                keys, offsets = run.arrays(number, read)
                self._keys[place, : len(keys)] = keys
                self._offsets[place, : len(keys)] = offsets
                self._in_window[place] = number
        return starts, ends

    def _output(self, fences: tuple[int, ...], num_items: int) -> Run:
        """Of which so many items are stored."""
        first, last = self.inputs[0], self.inputs[-1]
        return Run.of(
            family=first.family,
            level=first.level + 1,
            first=first.first,
            num_entries=last.end - first.first,
            num_items=num_items,
            segment_items=first.segment_items,
            fences=np.array(fences, np.uint64),
        )


@njit(nogil=True)
def _merge_windows(
    keys: Any, offsets: Any, shifts: Any, places: Any, ends: Any, out_keys: Any, out_offsets: Any, done: int
) -> int:
    """Merge until the output is full or a window has run dry.

    The least of the 16 first keys is found by comparing them all: the loop has no branch to be foreseen, and the keys,
    being hashes, let none be.

    Args:
        keys, offsets: uint64[k, s] and uint32[k, s], the windows.
        shifts: uint32[k], what is added to the offsets of each.
        places, ends: int64[k], where each is read from, moved on here, and where it ends.
        out_keys, out_offsets: uint64[n] and uint32[n], written from place `done` on.
    Returns:
        How much of the output is written.
    """
    heads = np.full(FAN_IN, _KEY_MAX)
    for window in range(len(places)):
        if places[window] < ends[window]:
            heads[window] = keys[window, places[window]]
    while done < len(out_keys):
        least, winner = heads[0], 0
        for window in range(1, FAN_IN):
            is_less = heads[window] < least  # equal keys go by window: the older run first
            least = heads[window] if is_less else least
            winner = window if is_less else winner
        if least == _KEY_MAX:  # an item of that key, or an empty window
            while places[winner] == ends[winner]:
                winner += 1
        place = places[winner]
        out_keys[done] = least
        out_offsets[done] = offsets[winner, place] + shifts[winner]
        done += 1
        places[winner] = place + 1
        if place + 1 == ends[winner]:
            break
        heads[winner] = keys[winner, place + 1]
    return done
