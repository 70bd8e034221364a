"""Placements that do not fit are refused by the names of the nodes."""

from __future__ import annotations

import pytest

from partitioner.emit import place
from partitioner.errors import PlanError
from tests.emit.side_by_side import captured
from tests.zoo import ZOO


def placed(name: str, placement: dict[str, str]) -> None:
    place(ZOO[name].build(), captured(name), placement)


def everywhere(name: str, device: str = "cpu") -> dict[str, str]:
    return dict.fromkeys(captured(name).nodes, device)


def test_a_missing_node() -> None:
    placement = everywhere("seqnet")
    del placement["lin1"]
    with pytest.raises(PlanError, match="no device for node 'lin1'"):
        placed("seqnet", placement)


def test_all_nodes_missing() -> None:
    with pytest.raises(PlanError, match=r"no device for 6 nodes: 'x', .* and 2 more"):
        placed("seqnet", {})


def test_an_unknown_node_and_its_nearest_name() -> None:
    with pytest.raises(PlanError, match=r"node 'lin3' that the model lacks; near 'lin3': 'lin"):
        placed("seqnet", {**everywhere("seqnet"), "lin3": "cpu"})


@pytest.mark.parametrize("device", ["gpu:0", "", "cuda:zero", "cuda:0:1"])
def test_a_name_that_is_no_device(device: str) -> None:
    with pytest.raises(PlanError, match="which is no device"):
        placed("seqnet", {**everywhere("seqnet"), "lin1": device})


@pytest.mark.parametrize("name", ["in_place", "counter", "called_twice", "pieces", "recurrent"])
def test_nodes_that_must_share_a_device(name: str) -> None:
    for group in captured(name).colocated:
        placement = {**everywhere(name, "cuda:0"), group[-1]: "cuda:1"}
        with pytest.raises(PlanError, match=f"must share a device.*'{group[-1]}' on 'cuda:1'"):
            placed(name, placement)
