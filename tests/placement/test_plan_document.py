from __future__ import annotations

import contextlib
import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import (
    FIRST,
    SECOND,
    SEQNET_SPLIT,
    plan_of,
    seqnet,
    seqnet_plan,
    unit_cluster,
)
from torch import nn

from partitioner.errors import PlanError
from partitioner.placement import Certificate, PlanDocument
from partitioner.spec import Cluster, Colocate, Device, Pin

KEYS = [
    "schema",
    "objective",
    "mode",
    "optimizer",
    "devices",
    "placement",
    "parameters",
    "transfers",
    "memory",
    "step_seconds",
    "bottleneck_seconds",
    "certificate",
    "constraints",
    "cluster",
    "model",
    "inputs",
    "program",
    "costs",
    "outlook",
    "memory_curves",
    "rehearsal",
]
OPTIONAL = ("outlook", "memory_curves", "rehearsal")
"""What older plans lack."""


class Verbs(PlanDocument, frozen=True):
    """A document with a verb on top."""

    def nodes(self) -> int:
        return len(self.placement)


def test_the_plan_says_what_follows_from_the_placement() -> None:
    plan = seqnet_plan()
    assert plan.devices == (FIRST, SECOND)
    assert plan.placement == SEQNET_SPLIT
    assert plan.parameters == {
        "lin1.weight": FIRST,
        "lin1.bias": FIRST,
        "lin2.weight": SECOND,
        "lin2.bias": SECOND,
    }
    assert [(t.tensor, t.source, t.destination, t.nbytes, t.phase) for t in plan.transfers] == [
        ("relu", FIRST, SECOND, 1600, "forward"),
        ("relu", SECOND, FIRST, 1600, "backward"),
    ]
    assert plan.memory[FIRST].parameters == 313600 + 400
    assert plan.memory[SECOND].limit == 10**9
    assert plan.step_seconds == pytest.approx(6 * 3.0 + 2 * 2.6e-6)
    assert plan.bottleneck_seconds == pytest.approx(12.0)
    assert plan.certificate.status == "feasible"
    assert plan.model.class_name.endswith("SeqNet")


def test_json_has_the_promised_keys_in_order() -> None:
    document = json.loads(seqnet_plan().to_json())
    assert list(document) == KEYS
    assert document["schema"] == 1
    assert set(document["transfers"][0]) == {
        "tensor",
        "source",
        "destination",
        "nbytes",
        "seconds",
        "phase",
    }
    assert set(document["memory"][FIRST]) == {
        "parameters",
        "gradients",
        "optimizer",
        "activations",
        "workspace",
        "peak",
        "limit",
    }
    assert set(document["model"]) == {"class", "state"}


def test_older_plans_that_lack_what_came_later_can_be_read() -> None:
    document = json.loads(seqnet_plan().to_json())
    for key in OPTIONAL:
        document.pop(key, None)
    plan = PlanDocument.from_json(json.dumps(document))
    assert (plan.placement, plan.memory_curves) == (seqnet_plan().placement, {})


def test_a_plan_survives_json() -> None:
    plan = plan_of(
        seqnet(),
        SEQNET_SPLIT,
        unit_cluster(bandwidth=1 / 3),
        constraints=[Pin("lin1", FIRST), Colocate("lin2", "log_softmax")],
    )
    again = PlanDocument.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.step_seconds.hex() == plan.step_seconds.hex()
    assert plan.constraints == ("pin lin1=cuda:0", "colocate lin2,log_softmax")


def test_operators_without_a_price_are_kept_where_there_are_any() -> None:
    plan = seqnet_plan()
    assert "unpriced" not in json.loads(plan.to_json())
    guessed = msgspec.structs.replace(plan, unpriced=("aten.linalg_inv_ex.default",))
    assert PlanDocument.from_json(guessed.to_json()) == guessed


def test_json_is_the_same_from_run_to_run_whatever_the_clock_says() -> None:
    plan = seqnet_plan()
    slower = msgspec.structs.replace(
        plan, certificate=msgspec.structs.replace(plan.certificate, seconds=99.5)
    )
    assert slower == plan
    assert slower.to_json() == plan.to_json()
    assert json.loads(plan.to_json())["certificate"]["seconds"] is None
    assert len({slower.certificate, plan.certificate}) == 1
    assert plan.certificate != msgspec.structs.replace(plan.certificate, solver="another")


def test_json_has_lines_that_a_person_can_read() -> None:
    lines = seqnet_plan().to_json().splitlines()
    assert '    "lin1": "cuda:0",' in lines
    assert max(map(len, lines)) < 200


def test_reading_keeps_the_class() -> None:
    plan = Verbs.from_json(seqnet_plan().to_json())
    assert isinstance(plan, Verbs)
    assert plan.nodes() == 6
    assert plan.to_json() == seqnet_plan().to_json()


def test_a_module_may_hold_a_plan_and_be_copied_and_pickled() -> None:
    plan = seqnet_plan()
    holder = nn.Linear(1, 1)
    holder.plan = plan  # type: ignore[assignment]
    assert copy.deepcopy(holder).plan == plan
    assert pickle.loads(pickle.dumps(holder)).plan == plan


def test_a_plan_is_frozen() -> None:
    with pytest.raises(AttributeError):
        seqnet_plan().mode = "inference"  # type: ignore[misc]


def test_the_planned_devices_can_be_had_without_their_kinds() -> None:
    cluster = Cluster.of("2xa100-40gb")
    plan = plan_of(seqnet(), SEQNET_SPLIT, cluster)
    memory = cluster.devices[0].memory
    assert plan.virtual_cluster() == Cluster(
        (Device(FIRST, memory=memory), Device(SECOND, memory=memory))
    )
    assert plan.cluster.devices[0].kind == "a100-40gb"


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0, 1e9, allow_nan=False),
    st.floats(0, 1e9, allow_nan=False),
)
def test_floats_are_exact(objective: float, seconds: float) -> None:
    certificate = Certificate("feasible", objective, 0.0, 1.0 if objective else 0.0, "by hand")
    plan = msgspec.structs.replace(
        seqnet_plan(), objective="memory", step_seconds=seconds, certificate=certificate
    )
    again = PlanDocument.from_json(plan.to_json())
    assert (again.certificate.objective, again.step_seconds) == (objective, seconds)


Change = Callable[[dict[str, Any]], object]


def _set(path: str, value: object) -> Change:
    def change(document: dict[str, Any]) -> None:
        *outer, last = path.split("/")
        part: Any = document
        for key in outer:
            part = part[int(key)] if isinstance(part, list) else part[key]
        part[int(last) if isinstance(part, list) else last] = value

    return change


def _drop(path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        *outer, last = path.split("/")
        part: Any = document
        for key in outer:
            part = part[int(key)] if isinstance(part, list) else part[key]
        del part[int(last) if isinstance(part, list) else last]

    return change


BAD_DOCUMENTS: list[tuple[Change, str]] = [
    (_drop("schema"), "the key 'schema' is missing"),
    (_set("schema", 2), "schema 2, and only schema 1"),
    (_set("schema", "1"), "$.schema"),
    (_set("schema", None), "the key 'schema' is missing"),
    *((_drop(key), f"`{key}`") for key in KEYS[1:] if key not in OPTIONAL),
    (_set("extra", 1), "`extra`"),
    (_set("objective", "latncy"), "objective: there is no 'latncy'; did you mean 'latency'"),
    (_set("objective", 3), "$.objective"),
    (_set("mode", "training"), "mode: there is no 'training'; did you mean 'train'"),
    (_set("optimizer", 3), "$.optimizer"),
    (_set("devices", []), "devices: there is none"),
    (_set("devices", "cuda:0"), "$.devices"),
    (_set("devices", [FIRST, FIRST]), "devices: 'cuda:0' is there twice"),
    (_set("devices", [FIRST, "gpu:1"]), "devices: PyTorch knows no device 'gpu:1'"),
    (_set("devices", ["cuda", SECOND]), "devices: 'cuda' is not spelt as 'cuda:0'"),
    (_set("devices", [FIRST]), "cluster.devices: names"),
    (_set("placement/lin1", "cuda:2"), "placement.lin1: unknown device 'cuda:2'; did you mean"),
    (_set("placement/lin1", None), "$.placement"),
    (_set("placement", []), "$.placement"),
    (_drop("placement/lin1"), "placement: 'lin1' is missing"),
    (_set("placement/lin3", FIRST), "placement.lin3: the program has no such name"),
    (_set("placement/relu", SECOND), "'relu' is placed on 'cuda:1', not on 'cuda:0'"),
    (_set("parameters/lin1.weight", "cpu"), "parameters.lin1.weight: unknown device 'cpu'"),
    (_drop("parameters/lin1.weight"), "parameters: 'lin1.weight' is missing"),
    (_set("parameters/lin9.weight", FIRST), "parameters.lin9.weight: model.state has no such"),
    (_set("transfers/0", 3), "$.transfers"),
    (_set("transfers/0/nbytes", -1), "$.transfers[0].nbytes"),
    (_set("transfers/0/nbytes", 1.5), "$.transfers[0].nbytes"),
    (_set("transfers/0/seconds", -1.0), "$.transfers[0].seconds"),
    (_set("transfers/0/phase", "sideways"), "$.transfers[0].phase"),
    (_set("transfers/0/tensor", "relu2"), "transfers[0].tensor: the program has no node 'relu2'"),
    (_set("transfers/0/source", SECOND), "transfers[0]: from 'cuda:1' to itself"),
    (_set("transfers/0/destination", "cuda:5"), "transfers[0].destination: unknown device"),
    (_set("transfers/0/bytes", 1), "`bytes`"),
    (_drop("transfers/0/seconds"), "`seconds`"),
    (
        lambda d: d["transfers"].append(d["transfers"][0]),
        "transfers[2]: 'relu' moves twice to one device",
    ),
    (_drop("memory/cuda:0"), "memory: 'cuda:0' is missing"),
    (_set("memory/cpu", None), "$.memory"),
    (_set("memory/cuda:0/peak", -1), "$.memory[...].peak"),
    (_set("memory/cuda:0/peak", 10**9 + 1), "memory.cuda:0: a peak of 1000000001 bytes"),
    (_set("memory/cuda:0/limit", "1GiB"), "$.memory[...].limit"),
    (_set("step_seconds", "fast"), "$.step_seconds"),
    (_set("step_seconds", -1), "$.step_seconds"),
    (_set("step_seconds", 3.0), "certificate.objective"),
    (_set("bottleneck_seconds", None), "$.bottleneck_seconds"),
    (_set("certificate/status", "good"), "$.certificate.status"),
    (_set("certificate/objective", 1.0), "certificate.objective: 1.0 is not the latency"),
    (_set("certificate/bound", 1e9), "certificate.bound: 1000000000.0 is above the objective"),
    (_set("certificate/gap", 0.5), "certificate.gap"),
    (_set("certificate/solver", None), "$.certificate.solver"),
    (_set("constraints", ["pin lin1"]), "constraints[0]: 'pin lin1' names no device"),
    (_set("constraints", "contiguous"), "$.constraints"),
    (_set("cluster/devices/0/name", SECOND), "cluster.devices: names"),
    (_set("cluster/devices/0/memory", -1), "$.cluster.devices[0].memory"),
    (_set("cluster/devices/0/color", "red"), "`color`"),
    (_set("cluster/links/0/between", [FIRST]), "$.cluster.links[0].between"),
    (_set("cluster/links/0/between", [FIRST, FIRST]), "cluster.links: a link from device"),
    (_set("cluster/links/0/between", [FIRST, "cuda:7"]), "cluster.links: unknown device 'cuda:7'"),
    (_set("cluster/links/0/between", None), "cluster.links: a link is between two devices"),
    (_set("cluster/links/0/bandwidth", 0), "bandwidth must be above 0"),
    (_set("cluster/links/0/bandwidth", None), "the bandwidth is missing"),
    (_set("cluster/links/0/via", "cpu"), "nothing crosses it directly"),
    (_set("cluster/links/0/shared", "switch"), "$.cluster.links[0].shared"),
    (_drop("model/class"), "`class`"),
    (
        _set("memory_curves/cuda:0/seconds", [0.0, 1.0]),
        "not one number of bytes for each of its times",
    ),
    (_set("memory_curves/cuda:0/seconds/0", -1.0), "$.memory_curves[...].seconds[0]"),
    (_set("memory_curves/cuda:0/parameters/0", -1), "$.memory_curves[...].parameters[0]"),
    (_drop("memory_curves/cuda:0/at_peak"), "`at_peak`"),
    (_set("model/state/0/role", "weight"), "model.state: there is no 'weight'"),
    (_set("model/state/0/tensor/shape", [-1]), "$.model.state[0].tensor.shape[0]"),
    (_set("model/state/0/names", ["other"]), "parameters.lin1.weight: model.state has no such"),
    (_set("program", 3), "$.program"),
    (_drop("program/nodes/6"), "the plan's program does not end with its output"),
    (_set("program/nodes/3/target", "os.system"), "node 'relu' of the plan"),
    (_set("program/nodes/3/target", "torch.load"), "node 'relu' of the plan"),
    (_set("program/nodes/3/op", "run"), "there is no operation 'run'"),
    (_set("program/nodes/3/args", [{"node": "lin2"}]), "node 'relu' of the plan"),
    (_set("program/nodes/2/state", ["lin2.weight"]), "'lin1', which owns it, is not"),
    (_set("program/colocated", [["lin1", "lin2"]]), "must share a device"),
    (_set("transfers", []), "the forward's move of 'relu' (1600 bytes)"),
    (_set("transfers/0/nbytes", 1), "the forward's move of 'relu' (1 bytes)"),
    (_set("constraints", ["pin lin1=cuda:1"]), "'lin1' is on 'cuda:0', but pinned to 'cuda:1'"),
    (_set("constraints", ["colocate lin1,lin2"]), "were to be colocated"),
    (_set("constraints", ["separate lin1,relu"]), "were to be separate"),
    (_set("constraints", ["pin lin3=cuda:1"]), "did you mean 'lin"),
    (_drop("costs/lin1"), "costs: 'lin1' is missing"),
    (_set("costs/lin1/forward_seconds", {SECOND: 1.0}), "costs.lin1.forward_seconds: nothing"),
    (_set("costs/lin1/forward_seconds/cpu", 1.0), "costs.lin1.forward_seconds: unknown device"),
    (_set("costs/lin1/flops", -1), "$.costs[...].flops"),
]


@pytest.mark.parametrize(("change", "fragment"), BAD_DOCUMENTS)
def test_bad_documents(change: Change, fragment: str) -> None:
    document = json.loads(seqnet_plan().to_json())
    change(document)
    with pytest.raises(PlanError) as error:
        PlanDocument.from_json(json.dumps(document))
    assert fragment in str(error.value)


GOOD = seqnet_plan().to_json()

BAD_TEXTS = [
    ("", "line 1, column 1"),
    ("{", "line 1, column 2"),
    ("[]", "Expected `object`"),
    ("3", "Expected `object`"),
    ("null", "Expected `object`"),
    ("{}", "the key 'schema' is missing"),
    ("plan", "line 1, column 1"),
    (GOOD[: len(GOOD) // 2], "in line"),
    (GOOD + "}", "Extra data in line"),
    (GOOD.replace('"mode": "train"', '"mode": "train'), "in line 4"),
    (GOOD.replace('"schema": 1,', '"schema": 1'), "in line 3"),
    (GOOD.replace('"step_seconds": ', '"step_seconds": NaN'), "no JSON"),
    (GOOD.replace('"step_seconds": ', '"step_seconds": 1e999, "x": '), "$.step_seconds"),
    ('{"schema": 1, "x": ' + "[" * 100_000, "no JSON"),
    (b"\xff\xfe", "no JSON"),
    (b'{"schema": 1, "\xff": 1}', "no JSON"),
    ("\ufeff" + GOOD, "no JSON"),
]


@pytest.mark.parametrize(("text", "fragment"), BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_texts_that_are_no_plan(text: str | bytes, fragment: str) -> None:
    with pytest.raises(PlanError) as error:
        PlanDocument.from_json(text)
    assert fragment in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.sampled_from('{}[]",:0-x \n'))
def test_a_damaged_character_raises_nothing_but_a_plan_error(where: int, character: str) -> None:
    with contextlib.suppress(PlanError):
        PlanDocument.from_json(GOOD[:where] + character + GOOD[where + 1 :])
