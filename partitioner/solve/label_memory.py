"""What labels (`labels.py`) hold where, by columns: program points that later nodes treat alike.

Once all that can still be added at two points is the same, only the fuller one matters, so that the
two become one column. In the middle of a model, all points that are past are a single column.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.segments import bits
from partitioner.solve.state import Tables
from partitioner.solve.waists import Users

Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]


class LabelMemory:
    """The columns of one place in the order, and the bytes of every label in them.

    Attributes:
        held: by label, device with a limit and column.
        parts: by hold with nodes placed and to be placed, the devices that have it, as bit sets.
        need: by column, bytes that are on no device yet and will be on one at least.
        need_inside: the part of them that nodes of `inside` ask for.
        most: by column, bytes that one device can still be given.
    """

    def __init__(self, tables: Tables, inside: Collection[int]) -> None:
        problem = tables.problem
        self.limited = [d for d, c in enumerate(problem.capacity_nbytes) if c is not None]
        self.all_limited = len(self.limited) == len(problem.devices)
        self.room = np.array([problem.capacity_nbytes[d] for d in self.limited], dtype=np.int64)
        tight = self._tight_points(tables)
        self.column_of = np.arange(len(tight))
        self.need = np.zeros(len(tight), dtype=np.int64)
        self.need_inside = np.zeros(len(tight), dtype=np.int64)
        self.most = np.zeros(len(tight), dtype=np.int64)
        self.sets = np.zeros(len(tight), dtype=np.uint64)
        self.of_group: list[list[int]] = [[] for _ in tables.groups]
        self.begin: dict[int, list[int]] = {}
        self.end: dict[int, list[int]] = {}
        self.spans: list[tuple[int, int, int]] = []
        self.until: list[int] = []
        self.names: list[np.uint64] = []
        self.asked: list[bool] = []
        generator = random.Random(0)
        for hold in problem.holds:
            low = int(np.searchsorted(tight, hold.first))
            high = int(np.searchsorted(tight, hold.last, side="right"))
            if low >= high:
                continue
            index = len(self.spans)
            groups = sorted({tables.group_of[node] for node in hold.nodes})
            starts = [tables.groups[group][0] for group in groups]
            for group in groups:
                self.of_group[group].append(index)
            self.begin.setdefault(min(starts), []).append(index)
            self.end.setdefault(max(starts), []).append(index)
            self.until.append(max(starts))
            self.spans.append((low, high, hold.nbytes))
            self.names.append(np.uint64(generator.getrandbits(64)))
            self.asked.append(any(node in inside for node in hold.nodes))
            self.need[low:high] += hold.nbytes
            self.need_inside[low:high] += hold.nbytes * self.asked[-1]
            self.most[low:high] += hold.nbytes
            self.sets[low:high] += self.names[-1]
        self.parts: dict[int, Integers] = {}
        self.held = np.zeros((1, len(self.limited), len(tight)), dtype=np.int64)
        self._join()

    def _tight_points(self, tables: Tables) -> Integers:
        """Program points at which not everything fits on each device."""
        problem = tables.problem
        total = np.zeros(problem.points + 1, dtype=np.int64)
        for hold in problem.holds:
            total[hold.first] += hold.nbytes
            total[hold.last + 1] -= hold.nbytes
        if not self.limited:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(total.cumsum()[:-1] > self.room.min())

    def _columns(self, hold: int) -> Integers:
        low, high, _ = self.spans[hold]
        return np.unique(self.column_of[low:high])

    def place(
        self, node: int, group: int, parent: Integers, device: Integers
    ) -> tuple[Integers, Flags]:
        """What all hold once a group is placed at its first node, and where that can be enough."""
        for hold in self.begin.get(node, ()):
            columns = self._columns(hold)
            self.need[columns] -= self.spans[hold][2]
            self.need_inside[columns] -= self.spans[hold][2] * self.asked[hold]
        held = self.held[parent]
        for index, there in enumerate(self.limited):
            here = device == there
            for hold in self.of_group[group]:
                fresh = here
                if hold in self.parts:
                    fresh = here & ((self.parts[hold][parent] >> there & 1) == 0)
                rows, columns = np.flatnonzero(fresh), self._columns(hold)
                held[rows[:, None], index, columns[None, :]] += self.spans[hold][2]
        full = (held > self.room[None, :, None]).any(axis=(1, 2))
        if self.all_limited:
            together = held.sum(axis=1) + self.need[None, :]
            full = full | (together > self.room.sum()).any(axis=1)
        return held, np.logical_not(full)

    def fit(self, users: Users, held: Integers) -> list[Flags | None]:
        """By devices in use from now on: whether they have room for `need_inside`; None if any."""
        room = self.room[None, :, None] - held
        found: list[Flags | None] = []
        for used in range(users.width):
            some = bits(used) if users.by_set else []
            if not some or any(there not in self.limited for there in some):
                found.append(None)
                continue
            indices = [self.limited.index(there) for there in some]
            found.append((room[:, indices].sum(axis=1) >= self.need_inside).all(axis=1))
        return found

    def move_on(
        self, node: int, group: int, before: Integers, bit: Integers, held: Integers
    ) -> None:
        """Go to the labels after a node: their parents, the device of each as a bit, its bytes."""
        parts = self.parts
        self.parts = {
            hold: column[before] for hold, column in parts.items() if self.until[hold] > node
        }
        for hold in self.of_group[group]:
            if self.until[hold] > node:
                column = self.parts.get(hold, np.zeros(len(before), dtype=np.int64))
                self.parts[hold] = column | bit
        self.held = held
        ended = self.end.get(node, ())
        for hold in ended:
            columns = self._columns(hold)
            self.most[columns] -= self.spans[hold][2]
            self.sets[columns] -= self.names[hold]
        if ended:
            self._join()

    def _join(self) -> None:
        """Make one column of those that have everything still to come in common."""
        _, first, column = np.unique(self.sets, return_index=True, return_inverse=True)
        column = column.reshape(-1)
        if len(first) == len(self.sets):
            return
        self.column_of = column[self.column_of]
        order = np.argsort(column, kind="stable")
        starts = np.searchsorted(column[order], np.arange(len(first)))
        self.held = np.maximum.reduceat(self.held[:, :, order], starts, axis=2)
        self.need, self.need_inside = self.need[first], self.need_inside[first]
        self.most, self.sets = self.most[first], self.sets[first]

    def deciding(self) -> Integers:
        """By label, its bytes where they can ever be too many, else 0."""
        safe = self.held + self.most <= self.room[None, :, None]
        return np.where(safe, 0, self.held).reshape(len(self.held), -1)

    def merge(self, merged: Integers, rows: Integers, starts: Integers) -> None:
        """Of every run of rows make one that holds no more, and has all parts, of any of them."""
        self.held[merged] = np.minimum.reduceat(self.held[rows], starts, axis=0)
        for column in self.parts.values():
            column[merged] = np.bitwise_or.reduceat(column[rows], starts)

    def select(self, kept: Integers) -> None:
        """Keep some labels."""
        self.held = self.held[kept]
        self.parts = {hold: column[kept] for hold, column in self.parts.items()}
