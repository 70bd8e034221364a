"""What limits a plan, and what the next GPU or GiB would bring: looked up, not guessed.

Each sentence comes from a larger problem at which `glance` had a quick look: what it found is there
to be had at least, by the figures of the cost model; what its bound excludes cannot be had at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from partitioner.priced import Priced
from partitioner.report import objective_text, percent
from partitioner.solve import Evaluation, Glance, Problem, evaluate, glance, with_demands
from partitioner.spec import format_nbytes, most_roomy, with_twins

LARGE = 20_000
"""Nodes times devices beyond which nothing is looked up."""
LITTLE = 1e-3
"""A smaller share is no gain."""
MORE = 2**30
"""The next GiB; of smaller devices, an eighth of what they have."""


def outlook(subject: Priced, problem: Problem, assignment: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences on what more devices, memory or freedom would bring.

    Args:
        subject: what was planned.
        problem: that was solved, under limits that the dry run confirmed.
        assignment: that was found, device name by node name.
    """
    if len(problem.nodes) * len(problem.devices) > LARGE:
        return ("What more devices or memory would bring was not looked up: the graph is large.",)
    now = evaluate(problem, assignment)
    return tuple(_Outlook(subject, problem, assignment, now).sentences())


@dataclass(frozen=True)
class _Outlook:
    subject: Priced
    problem: Problem
    assignment: Mapping[str, str]
    now: Evaluation

    def sentences(self) -> Iterator[str]:
        problem = self.problem
        if problem.demands:
            yield self._told("Without your constraints", with_demands(problem, ()))
        yield from self._memory()
        yield self._one_more_device()

    def _memory(self) -> Iterator[str]:
        problem = self.problem
        limited = [d for d, limit in enumerate(problem.capacity_nbytes) if limit is not None]
        if not limited:
            return
        if problem.objective != "memory":
            free = replace(problem, capacity_nbytes=(None,) * len(problem.devices))
            seen = self._seen(free)
            if self._most(seen) <= LITTLE:
                yield "Memory does not limit it: no amount would gain anything; that is proved."
                return
            yield self._sentence("With memory without limit", seen)
            if self._least(seen) <= LITTLE:
                return
        device = max(limited, key=self._share)
        limit = problem.capacity_nbytes[device] or 0
        more = MORE if limit >= 8 * MORE else max(1, limit // 8)
        larger = tuple(
            (capacity or 0) + more if index == device else capacity
            for index, capacity in enumerate(problem.capacity_nbytes)
        )
        lead = f"With {format_nbytes(more)} more on {problem.devices[device]}"
        yield self._told(lead, replace(problem, capacity_nbytes=larger))

    def _share(self, device: int) -> float:
        """How full a device is, as far as the problem tells."""
        limit = self.problem.capacity_nbytes[device]
        return self.now.peak_nbytes[device] / limit if limit else 1.0

    def _one_more_device(self) -> str:
        twin = most_roomy(self.subject.cluster)
        larger = self.subject.priced_anew(cluster=with_twins(self.subject.cluster, twin)).problem()
        own = self.problem.capacity_nbytes
        capacities = (*own, own[self.problem.devices.index(twin)])
        return self._told(
            f"With one more device like {twin}", replace(larger, capacity_nbytes=capacities)
        )

    def _told(self, lead: str, problem: Problem) -> str:
        return self._sentence(lead, self._seen(problem))

    def _seen(self, problem: Problem) -> Glance:
        return glance(problem, self.assignment)

    def _least(self, seen: Glance) -> float:
        """The share that is gained at least."""
        return 1 - seen.objective / self.now.objective if self.now.objective else 0.0

    def _most(self, seen: Glance) -> float:
        """The share that can be gained at most."""
        return 1 - seen.bound / self.now.objective if self.now.objective else 0.0

    def _sentence(self, lead: str, seen: Glance) -> str:
        least, most = self._least(seen), self._most(seen)
        if most <= LITTLE:
            return f"{lead}, nothing is gained; that is proved."
        if least <= LITTLE:
            return f"{lead}, nothing better was found; no more than {percent(most)} can be gained."
        objective = self.problem.objective
        what = {
            "latency": "a step takes",
            "throughput": "the busiest device or link takes",
            "memory": "the fullest device holds",
        }[objective]
        new = objective_text(objective, seen.objective)
        old = objective_text(objective, self.now.objective)
        sure = f"{percent(least)} less"
        if most - least > LITTLE:
            sure = f"at least {percent(least)} less, at most {percent(most)}"
        return f"{lead}, {what} {new} instead of {old}: {sure}."
