"""From a `Problem` to a verified `Solution`: bounds, heuristics, the integer programme, ties.

::

    contract ─► bound ─► line's splits, descent ─► covers ─► integer programme ─► ties ─► recount
                  └──────────────── met: proven at once ────────────────────────────┘

A large problem is coarsened first; then the bound is the large problem's, and stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

from partitioner.errors import SolverError, TimeLimitError
from partitioner.solve import company
from partitioner.solve.bounds import lower_bound
from partitioner.solve.configurations import configuration_bound
from partitioner.solve.contract import contract
from partitioner.solve.dominated import without_dominated
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count, switches
from partitioner.solve.followers import follow
from partitioner.solve.ideals import best_ordered_split
from partitioner.solve.improve import Rank, by_objective, descend, kicked
from partitioner.solve.infeasible import Verdict, explain, least_lack, never_fits
from partitioner.solve.intervals import lines, splits
from partitioner.solve.labels import applies, best_in_order
from partitioner.solve.large import coarsened, is_large
from partitioner.solve.neighbourhoods import shared_out_anew
from partitioner.solve.problem import Problem, Solution, Status
from partitioner.solve.programme import (
    Aim,
    Answer,
    Interrupted,
    Limits,
    Programme,
    programme_entries,
)
from partitioner.solve.state import State, Tables
from partitioner.solve.tidy import tidy
from partitioner.solve.waists import cheapest_walk

PROVEN = 1e-7
"""A relative gap that counts as none: what rounding leaves of costs of any scale."""
UNITS = 4e6
"""Most effort of the heuristics: a few seconds."""
UNITS_EACH = 2e4
"""Effort of the heuristics for each decision, up to `UNITS`."""
TIE_UNITS = 1e6
"""Effort for ties among equally good plans."""
MOST_ENTRIES = 120_000
"""A programme with about this many non-zero entries is too large to be worth a start."""
WORTHWHILE = 1e-3
"""Small programmes are spared for gaps below this."""
PATIENCE = 3
"""When a time limit leaves time, a programme may be so many times larger."""
PROGRAMME_SHARE = 0.75
"""Of a time limit: until then the integer programme may go on beyond its effort."""
WORK = 2e11
"""Effort of an integer programme times the square of its entries."""
CONFIGURATION_UNITS = 3e7
"""Effort of covers by shares."""
CONFIGURATION_SHARE = 0.5
"""Of what is left of a time limit, for them."""
LINES = 24
"""Linear orders that are split into intervals."""
IDEAL_UNITS = 2e7
"""Effort of the dynamic programme over ideals."""
FIRST_WIDTH = 200
"""Labels at a time, at first."""
LABELLED_ENTRIES = 8_000
"""A larger programme is not tried once labels have been, unless a time limit leaves time."""
LABEL_UNITS = 5e6
"""Effort of all labels; when a time limit leaves time, they go on after the integer programme."""
KICK_UNITS = 1e6
"""Effort of kicks from what labels found."""
MOST_LABELS = 20_000
"""Labels at a time, at most."""
SMALL = 4_000
"""Ties are settled by an integer programme as well if it has at most so many entries."""
TINY = 32
"""Or if there are at most so many places, devices for each group: lanes take many entries."""

Progress = Callable[[str], None]


def solve(
    problem: Problem,
    *,
    time_limit: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    start: Mapping[str, str] | None = None,
) -> Solution:
    """Find the best assignment, and how good any could be at most.

    Args:
        problem: what to assign, at what cost, under which limits.
        time_limit: seconds. The search is a fixed amount of work, so that the answer is the same on
            every machine; a limit cuts it short, or lets it go on where it ends without a proof.
            So a proven answer is the same under every limit that it is found within, and a longer
            search than the fixed one has no worse an answer.
        seed: of everything randomised.
        progress: called with a line of text at each step.
        start: device name by node name, from which to search as well; without effect where it does
            not place every node on a device that is there.

    Raises:
        InfeasibleError: no assignment satisfies every limit and constraint.
        TimeLimitError: none was found in time, though there may be one.
        SolverError: the answer does not survive a recount.
    """
    started = time.monotonic()
    search = _Search(problem, started, time_limit, seed, progress or (lambda line: None))
    search.begin_at(start or {})
    try:
        search.run()
    except KeyboardInterrupt:
        if search.best is None:
            raise
        search.say("interrupted: the best plan so far")
        return replace(search.solution(), interrupted=True)
    return search.solution()


class _Search:
    """The best assignment and the best bound so far."""

    def __init__(
        self,
        problem: Problem,
        started: float,
        time_limit: float | None,
        seed: int,
        say: Progress,
    ) -> None:
        self.original = problem
        self.coarse = coarsened(problem) if is_large(problem) else None
        if self.coarse is not None:
            problem = self.coarse.problem
        self.started = started
        self.deadline = None if time_limit is None else started + time_limit
        self.patient = self.deadline is not None and self.coarse is None
        self.seed = seed
        self.say = say
        self.problem, self.contraction = without_dominated(*contract(problem))
        self.tables = Tables(self.problem)
        self.best: list[int] | None = None
        self.value = inf
        self.bound = 0.0
        self.solver = "bounds and search"
        self.starts: list[list[int]] = []

    def begin_at(self, assignment: Mapping[str, str]) -> None:
        """Search from an assignment as well, if it says of every node where it is."""
        place = {name: index for index, name in enumerate(self.original.devices)}
        placed = [place.get(assignment.get(node, ""), -1) for node in self.original.nodes]
        if -1 in placed or not all(self.tables.choices):
            return
        if self.coarse is not None:
            placed = self.coarse.contraction.shrink(placed)
        placed = self.contraction.shrink(placed)
        devices = [
            placed[group[0]] if placed[group[0]] in choices else choices[0]
            for group, choices in zip(self.tables.groups, self.tables.choices, strict=True)
        ]
        self.starts.append([devices[group] for group in self.tables.group_of])

    def run(self) -> None:
        if not all(self.tables.choices) or never_fits(self.problem):
            raise explain(self.original, self.deadline, self.seed)
        schedule = _Schedule(self.problem) if self.problem.objective == "latency" else None
        if self.coarse is not None:
            self.bound = self.coarse.bound
            if self.coarse.placed is not None:
                self.starts.append(self.contraction.shrink(self.coarse.placed))
        elif schedule is None:
            self.bound = lower_bound(self.tables)
        else:
            self.bound = lower_bound(schedule.relaxed, schedule.walk)
            if schedule.walk.placed is not None:
                self.starts.append(schedule.contraction.expand(schedule.walk.placed))
        if self.bound == inf:
            raise explain(self.original, self.deadline, self.seed)
        self._heuristics()
        if not self.done():
            self._configurations()
        most = MOST_ENTRIES
        labelled = schedule if schedule is not None and applies(schedule.relaxed) else None
        if labelled is not None and not self.proven():
            self._in_order(labelled, LABEL_UNITS)
            if self.best is not None and not self.problem.roads:
                most = LABELLED_ENTRIES
        if not self.done():
            self._programme(most)
        if labelled is not None and self.deadline is not None and not self.proven():
            self._in_order(labelled, inf)
        if not self.proven():
            self._until_the_deadline()
        if self.best is not None:
            self._ties()

    def proven(self) -> bool:
        return self.best is not None and self.value - self.bound <= PROVEN * self.value

    def done(self) -> bool:
        """Proven, or as close as it makes sense for a problem that was coarsened."""
        close = PROVEN if self.coarse is None else WORTHWHILE
        return self.best is not None and self.value - self.bound <= close * self.value

    def offer(self, placed: Sequence[int]) -> None:
        """Keep an assignment if a recount says that it is feasible and better."""
        recount = count(self.problem, placed)
        if recount.feasible and (self.best is None or recount.objective < self.value * (1 - 1e-12)):
            self.best, self.value = list(placed), recount.objective
            self.say(self._state())

    def _state(self) -> str:
        """The best plan, the bound and the gap between them, in a line."""
        gap = (self.value - self.bound) / self.value if 0 < self.value < inf else 0.0
        return f"plan of {self.value:.6g}, bound {self.bound:.6g}, gap {gap:.2%}"

    def _heuristics(self) -> None:
        effort = Effort(min(UNITS, UNITS_EACH * len(self.tables.groups)), self.deadline)
        starts: list[tuple[Rank, list[int]]] = []
        for placed in self._starts():
            state = State(self.tables, placed)
            starts.append((by_objective(state), placed))
            self.offer(placed)
            if self.done() or effort.late():
                return
        devices = len(self.problem.devices)
        if devices == 1 or len(self.tables.groups) * devices <= 24:
            return
        if self.problem.objective == "throughput":
            for line in lines(self.tables, self.seed, LINES):
                for placed in splits(self.tables, line):
                    starts.append((by_objective(State(self.tables, placed)), placed))
                    self.offer(placed)
                if self.done() or effort.late():
                    return
        starts.sort()
        for place, (_, placed) in enumerate(starts[:4]):
            state = State(self.tables, placed)
            descend(state, effort.part(0.25))
            self.offer(state.placed)
            if self.done() or effort.late():
                return
            starts[place] = (by_objective(state), list(state.placed))
        placed = min(starts)[1]
        found, _ = kicked(self.tables, placed, effort, self.seed, self._good_enough)
        self.offer(found)
        if self.problem.contiguous and not self.done():
            self._ideals()
        if self.problem.objective == "throughput" and not self.done():
            self._share_out()

    def _share_out(self) -> None:
        """Small integer programmes over the busiest devices."""
        if self.best is None or len(self.problem.devices) < 3:
            return
        try:
            found = shared_out_anew(
                self.problem,
                self.best,
                self.bound * (1 + WORTHWHILE),
                deadline=self.deadline,
                seed=self.seed,
            )
        except Interrupted as interruption:
            raise KeyboardInterrupt from interruption
        self.offer(found)

    def _ideals(self) -> None:
        """The best ordered split, where its dynamic programme applies."""
        known = self.value * (1 - 1e-9)
        ordered = best_ordered_split(self.tables, known, Effort(IDEAL_UNITS, self.deadline))
        if ordered is None:
            return
        if ordered.placed is not None:
            self.offer(ordered.placed)
        if ordered.exact:
            self._raise_bound(min(ordered.value, known))

    def _in_order(self, schedule: _Schedule, units: float) -> None:
        """Labels along the order of execution, more and more of them at a time."""
        effort = Effort(units, self.deadline)
        while schedule.width <= MOST_LABELS and not effort.late():
            left = effort.units
            known = self.value * (1 - 1e-9)
            found = best_in_order(schedule.relaxed, schedule.walk, known, schedule.width, effort)
            self.bound = max(self.bound, min(found.bound, known))
            if self.bound == inf:
                raise explain(self.original, self.deadline, self.seed)
            if found.placed is not None:
                self.offer(schedule.contraction.expand(found.placed))
            self.say(f"{schedule.width} labels: {self._state()}")
            if found.complete and not self.proven():
                self._with_followers(schedule, effort)
            self._around_the_best()
            wider = effort.units / max(1.0, left - effort.units)
            if found.complete or self.proven() or self.best is None or wider < 1.5:
                return
            schedule.width = round(schedule.width * min(4.0, wider))

    def _around_the_best(self) -> None:
        """Kicks from the best plan so far."""
        if self.best is not None and not self.proven():
            effort = Effort(KICK_UNITS, self.deadline)
            found, _ = kicked(self.tables, self.best, effort, self.seed, self._good_enough)
            self.offer(found)

    def _with_followers(self, schedule: _Schedule, effort: Effort) -> None:
        """Where the relaxed optimum does not fit: followers hold what they do."""
        known = self.value * (1 - 1e-9)
        found = best_in_order(schedule.tables, schedule.walk, known, schedule.width, effort)
        if found.placed is not None:
            self.offer(schedule.contraction.expand(found.placed))

    def _until_the_deadline(self) -> None:
        """More kicks in what is left of a time limit."""
        turn = 0
        while self.patient and self.best is not None:
            effort = Effort(min(UNITS, UNITS_EACH * len(self.tables.groups)), self.deadline)
            if effort.late() or self.done() or len(self.tables.groups) < 2:
                return
            turn += 1
            found, _ = kicked(
                self.tables, self.best, effort, self.seed + 7919 * turn, self._good_enough
            )
            self.offer(found)
            if self.problem.objective == "throughput":
                self._share_out()

    def _good_enough(self, rank: Rank) -> bool:
        close = PROVEN if self.coarse is None else WORTHWHILE
        return rank[0] == 0 and rank[1] == 0 and rank[2] - self.bound <= close * rank[2]

    def _starts(self) -> Iterator[list[int]]:
        """What the bound suggests, everything on one device, intervals of the line."""
        yield from self.starts
        for device in range(len(self.problem.devices)):
            yield [
                device if device in choices else choices[0]
                for choices in (self.tables.choices[group] for group in self.tables.group_of)
            ]
        yield from splits(self.tables)

    def _configurations(self) -> None:
        """What covers by whole shares prove, where devices pay for what crosses their border."""
        if self.best is None or self.coarse is not None or not company.applies(self.tables):
            return
        deadline = None
        if self.deadline is not None:
            now = time.monotonic()
            deadline = now + CONFIGURATION_SHARE * (self.deadline - now)
        effort = Effort(CONFIGURATION_UNITS, deadline)
        bound = configuration_bound(self.tables, self.value, self.bound, effort)
        if self._raise_bound(bound):
            self.say(f"covers by shares: {self._state()}")

    def _programme(self, most: int) -> None:
        entries = programme_entries(self.tables)
        if entries > (MOST_ENTRIES * PATIENCE if self.patient else most):
            self.say(f"too large for the integer programme ({entries} entries)")
            if self.best is None:
                self._any_that_fits()
            return
        self.say(f"integer programme of about {entries} entries")
        until = None
        if self.patient and self.deadline is not None:
            until = self.started + PROGRAMME_SHARE * (self.deadline - self.started)
        limits = Limits(
            deadline=self.deadline,
            effort=0 if entries > most else int(max(10, min(4000, WORK / entries**2))),
            until=until,
            seed=self.seed,
            known=self.value,
            floor=self.bound,
        )
        start: list[int] | None = None
        if self.best is not None:
            start = self.best
            if not self.problem.contiguous:
                start = self.tables.canonical(self.best, self.tables.heaviest)
        try:
            answer = Programme(self.tables, Aim.OBJECTIVE, limits).solve(start)
        except Interrupted as interruption:
            self._take(interruption.answer)
            raise KeyboardInterrupt from interruption
        self._take(answer)
        if self.best is None:
            if answer.complete:
                raise explain(self.original, self.deadline, self.seed)
            self._any_that_fits()
            if not self.done():
                self._programme(most)

    def _any_that_fits(self) -> None:
        """A search for room alone, where the search for the objective found nothing that fits."""
        lack = least_lack(self.original, self.deadline, self.seed)
        if lack.placed is not None:
            self.offer(self.contraction.shrink(lack.placed))
        unknown = lack.verdict is Verdict.UNKNOWN
        if self.best is None and unknown and self.deadline is not None:
            raise TimeLimitError(
                "no plan was found in time, though there may be one; allow more time or more memory"
            )
        if self.best is None:
            raise explain(self.original, self.deadline, self.seed)

    def _take(self, answer: Answer) -> None:
        if answer.placed is not None:
            before = self.value
            self.offer(answer.placed)
            if self.value < before:
                self.solver = answer.solver
        if self._raise_bound(min(answer.bound, self.value)):
            self.solver = answer.solver

    def _raise_bound(self, bound: float) -> bool:
        """A better bound, if it is one of the whole problem as well."""
        if self.coarse is not None or bound <= self.bound:
            return False
        self.bound = bound
        return True

    def _ties(self) -> None:
        """Among equally good assignments: less traffic, fewer transfers, fewer switches."""
        assert self.best is not None
        self._settle(self.tables.canonical(self.best, range(len(self.tables.groups))))
        state = State(self.tables, self.best)
        tidy(state, Effort(TIE_UNITS, self.deadline))
        self._settle(state.placed)
        late = self.deadline is not None and time.monotonic() >= self.deadline
        places = len(self.tables.groups) * len(self.problem.devices)
        small = places <= TINY or programme_entries(self.tables) <= SMALL
        if not small or not self.proven() or late:
            return
        for aim in (Aim.MOVED, Aim.MOVES):
            recount = count(self.problem, self.best)
            if not recount.moves:
                return
            limits = Limits(
                deadline=self.deadline,
                effort=400,
                seed=self.seed,
                known=self.value,
                floor=self.bound,
                moved_nbytes=recount.moved_nbytes,
            )
            try:
                answer = Programme(self.tables, aim, limits).solve()
            except Interrupted as interruption:
                raise KeyboardInterrupt from interruption
            if answer.placed is not None:
                self._settle(self.tables.canonical(answer.placed, range(len(self.tables.groups))))
        state = State(self.tables, self.best)
        tidy(state, Effort(TIE_UNITS, self.deadline))
        self._settle(state.placed)

    def _settle(self, placed: Sequence[int]) -> None:
        """Keep an assignment that is as good and wins a tie."""
        assert self.best is not None
        new, old = count(self.problem, placed), count(self.problem, self.best)
        if new.feasible and (
            new.objective <= old.objective * (1 + 1e-12)
            and (new.moved_nbytes, new.moves, switches(placed), list(placed))
            < (old.moved_nbytes, old.moves, switches(self.best), self.best)
        ):
            self.best, self.value = list(placed), new.objective

    def solution(self) -> Solution:
        """The best assignment, recounted on the problem as it was given."""
        assert self.best is not None
        placed = self.contraction.expand(self.best)
        if self.coarse is not None:
            placed = self.coarse.contraction.expand(placed)
        recount = count(self.original, placed)
        if not recount.feasible:
            raise SolverError(f"the plan breaks a limit: {'; '.join(recount.violations[:3])}")
        rounding = inf if self.coarse is not None else 1e-9 * self.value
        if abs(recount.objective - self.value) > rounding:
            raise SolverError(
                f"the search counted {self.value:.9g}, the plan costs {recount.objective:.9g}"
            )
        self.value = recount.objective
        proven = self.proven()
        return Solution(
            status=Status.OPTIMAL if proven else Status.FEASIBLE,
            assignment={
                node: self.original.devices[device]
                for node, device in zip(self.original.nodes, placed, strict=True)
            },
            objective=recount.objective,
            bound=min(self.bound, recount.objective),
            seconds=time.monotonic() - self.started,
            solver=self.solver,
        )


class _Schedule:
    """A latency problem without its followers.

    Attributes:
        tables: followers hold what they hold on their anchor's device.
        relaxed: followers hold nothing.
        walk: the cheapest one of the relaxed problem.
        width: labels at a time in the next attempt.
    """

    def __init__(self, problem: Problem) -> None:
        followed = follow(problem)
        self.contraction = followed.contraction
        self.tables = Tables(followed.problem)
        self.relaxed = Tables(followed.relaxed)
        self.walk = cheapest_walk(self.relaxed)
        self.width = FIRST_WIDTH
