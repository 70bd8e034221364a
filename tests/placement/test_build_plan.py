"""The way from a model to a plan, with real costs and the solver."""

from __future__ import annotations

import pytest
import torch
from small_plans import FIRST, SECOND, SeqNet, costs_of, seqnet, unit_cluster
from torch import nn

from cost_models import RooflineCostModel
from partitioner.capture import capture
from partitioner.errors import SolverError, SpecError
from partitioner.graph import annotate
from partitioner.placement import (
    PlanDocument,
    alternate_placement,
    build_plan,
    cost_graph_of,
    state_placement,
    step_seconds,
)
from partitioner.solve import Solution, Status, formulate, solve
from partitioner.spec import Cluster, Constraint, Contiguous, Pin


def planned(
    model: nn.Module, example: torch.Tensor, devices: str, constraints: list[Constraint]
) -> PlanDocument:
    captured = capture(model, (example,), {}, training=True)
    cluster = Cluster.of(devices)
    graph = annotate(captured, model, cluster, RooflineCostModel(), training=True, optimizer="adam")
    plan = build_plan(
        captured,
        graph,
        cluster,
        solve(formulate(graph, cluster, "latency", constraints)),
        objective="latency",
        mode="train",
        optimizer="adam",
        constraints=constraints,
    )
    again = PlanDocument.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    return plan


def test_one_device_is_enough_where_everything_fits() -> None:
    plan = planned(SeqNet(), torch.zeros(4, 1, 28, 28), "2x1GiB", [])
    assert set(plan.placement.values()) == {FIRST}
    assert plan.certificate.status == "optimal"
    assert plan.transfers == ()
    assert plan.memory[FIRST].optimizer >= 2 * plan.memory[FIRST].parameters
    assert plan.memory[SECOND].peak == 0


@pytest.mark.parametrize("pattern", ["lin2", "lin2.bias", "lin2.weight"])
def test_a_pin_may_name_any_parameter(pattern: str) -> None:
    plan = planned(
        SeqNet(), torch.zeros(4, 1, 28, 28), "2x1GiB", [Pin(pattern, SECOND), Pin("lin1", FIRST)]
    )
    assert (plan.placement["lin1"], plan.placement["lin2"]) == (FIRST, SECOND)
    assert plan.parameters["lin2.bias"] == SECOND


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


def test_a_pin_may_name_a_tied_parameter_by_any_of_its_names() -> None:
    plan = planned(
        TiedHead(), torch.zeros(2, 3, dtype=torch.long), "2x1GiB", [Pin("head.weight", SECOND)]
    )
    assert plan.parameters == {"embedding.weight": SECOND, "head.weight": SECOND}


def test_the_costs_of_a_plan_can_be_had_as_a_graph() -> None:
    plan = planned(SeqNet(), torch.zeros(4, 1, 28, 28), "2x1GiB", [])
    graph = cost_graph_of(plan)
    assert step_seconds(graph, plan.placement, plan.virtual_cluster()) == plan.step_seconds
    apart = {**plan.placement, "lin2": SECOND, "log_softmax": SECOND}
    assert step_seconds(graph, apart, plan.virtual_cluster()) > plan.step_seconds


class TwoHeads(nn.Module):
    """Has a head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.extra = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.relu(self.body(x))
        return (self.head(x), self.extra(x)) if self.training else (self.head(x),)


def test_state_of_the_other_mode_follows_what_it_reads() -> None:
    captured = capture(TwoHeads().eval(), (torch.zeros(2, 4),), {}, training=False)
    placement = {node: FIRST if node in ("x", "body") else SECOND for node in captured.nodes}
    assert state_placement(captured, placement) == {
        "body.weight": FIRST,
        "body.bias": FIRST,
        "head.weight": SECOND,
        "head.bias": SECOND,
        "extra.weight": SECOND,
        "extra.bias": SECOND,
    }
    assert alternate_placement(captured, placement)["extra"] == SECOND


def solution(**changes: object) -> Solution:
    parts: dict[str, object] = {
        "status": Status.OPTIMAL,
        "assignment": dict.fromkeys(seqnet().nodes, FIRST),
        "objective": 18.0,
        "bound": 18.0,
        "seconds": 0.5,
        "solver": "an oracle",
    }
    return Solution(**{**parts, **changes})  # type: ignore[arg-type]


def built(made: Solution, **changes: object) -> PlanDocument:
    cluster = unit_cluster()
    words: dict[str, object] = {"objective": "latency", "mode": "train", "optimizer": None}
    graph = costs_of(seqnet(), cluster)
    return build_plan(seqnet(), graph, cluster, made, **{**words, **changes})  # type: ignore[arg-type]


def test_an_honest_solution_becomes_a_plan() -> None:
    plan = built(solution())
    assert (plan.step_seconds, plan.certificate.gap, plan.certificate.seconds) == (18.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("made", "fragment"),
    [
        (
            solution(objective=17.0, bound=17.0),
            "claims 17 as latency, and the placement comes to 18",
        ),
        (solution(bound=19.0), "nothing is below 19"),
        (solution(assignment={}), "'x' is on no device"),
        (solution(assignment=dict.fromkeys(seqnet().nodes, "cuda:9")), "'cuda:9', which is not"),
        (
            solution(assignment={**dict.fromkeys(seqnet().nodes, FIRST), "ghost": FIRST}),
            "'ghost' is placed, but no node",
        ),
    ],
)
def test_a_solver_that_breaks_its_word_is_found_out(made: Solution, fragment: str) -> None:
    with pytest.raises(SolverError) as error:
        built(made)
    assert fragment in str(error.value)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"objective": "speed"}, "unknown objective 'speed'"),
        ({"mode": "trian"}, "unknown mode 'trian'; did you mean 'train'"),
        ({"constraints": [Pin("lin3", FIRST)]}, "did you mean 'lin"),
    ],
)
def test_words_that_make_no_sense_are_the_users_fault(
    changes: dict[str, object], fragment: str
) -> None:
    with pytest.raises(SpecError) as error:
        built(solution(), **changes)
    assert fragment in str(error.value)


def test_constraints_are_kept_as_text() -> None:
    plan = built(solution(), constraints=[Contiguous(), Pin("lin*", FIRST)])
    assert plan.constraints == ("contiguous", "pin lin*=cuda:0")
