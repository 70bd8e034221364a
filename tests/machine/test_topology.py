"""Reading what `nvidia-smi` prints."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from recorded import NVSWITCH, SLOTS, SWITCHES, TWO_CONSUMER

from partitioner.machine import Slot, Topology, parse_slots, parse_topology, read_topology


def test_two_consumer_cards_meet_at_the_host_bridge() -> None:
    assert parse_topology(TWO_CONSUMER) == {(0, 1): "PHB", (1, 0): "PHB"}


def test_network_cards_are_left_out() -> None:
    joints = parse_topology(NVSWITCH)
    assert set(joints.values()) == {"NV12"}
    assert {pair for pair in joints if pair[0] == 0} == {(0, other) for other in range(1, 8)}


def test_gpus_under_one_switch_are_found() -> None:
    topology = Topology(parse_topology(SWITCHES))
    assert topology.joints[0, 1] == "PIX"
    assert topology.joints[3, 7] == "SYS"
    assert topology.under_one_port() == ((0, 1), (2, 3))


def test_an_underlined_header_is_read() -> None:
    underlined = TWO_CONSUMER.replace("\tGPU0\tGPU1", "\t\x1b[4mGPU0\tGPU1\x1b[0m", 1)
    assert parse_topology(underlined) == parse_topology(TWO_CONSUMER)


@pytest.mark.parametrize("text", ["", "No devices were found", "GPU0", "GPU0 X\nGPU1", "\x00"])
def test_what_is_no_table_has_no_joints(text: str) -> None:
    assert parse_topology(text) == {}


def test_slots_know_their_generation_where_the_driver_does() -> None:
    slots = parse_slots(SLOTS)
    assert slots[0] == Slot("cuda:1", 4, 16)
    assert slots[3] == Slot("cuda:3", 0, 0)


def test_a_machine_without_the_tool_has_an_empty_topology() -> None:
    assert read_topology(lambda command: None) == Topology()


def test_both_tables_are_asked_for() -> None:
    asked: list[str] = []

    def answer(command: Sequence[str]) -> str:
        asked.append(" ".join(command))
        return SWITCHES if "topo" in command else SLOTS

    topology = read_topology(answer)
    assert "nvidia-smi topo -m" in asked
    assert len(topology.slots) == 4
    assert topology.joints == parse_topology(SWITCHES)
