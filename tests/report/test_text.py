"""What tables and explanations say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from partitioner.placement import Certificate, ClusterRecord, MemoryUse, PlanDocument
from partitioner.report import ComparisonRow, comparison_table, explain, plan_table
from partitioner.spec import Cluster, Device

Make = Callable[..., PlanDocument]
TIGHT = {name: MemoryUse(1024, 1024, 0, 0, 0, 2 << 20, 3 << 20) for name in ("cuda:0", "cuda:1")}
ROOMY = {name: MemoryUse(1024, 1024, 0, 0, 0, 4096, 2**30) for name in ("cuda:0", "cuda:1")}


def test_the_table_of_a_split_plan(plan_of: Make, golden: Callable[[str, str], None]) -> None:
    golden("seqnet_split.txt", plan_table(plan_of()) + "\n")


def test_the_table_of_a_plan_on_one_device(
    plan_of: Make, golden: Callable[[str, str], None]
) -> None:
    golden("seqnet_whole.txt", plan_table(plan_of(split=False)) + "\n")


def test_the_explanation(plan_of: Make, golden: Callable[[str, str], None]) -> None:
    golden("seqnet_explained.txt", explain(plan_of()) + "\n")


@pytest.mark.parametrize("width", [60, 80, 110])
def test_tables_keep_to_their_width(plan_of: Make, width: int) -> None:
    lines = plan_table(plan_of(), width=width).splitlines()
    assert max(map(len, lines)) <= width
    text = "".join(lines)
    assert "3 MiB" in text
    assert ("activations" in text) == (width == 110)


def test_an_unproved_plan_says_how_far_from_the_best_it_may_be(plan_of: Make) -> None:
    certificate = Certificate("feasible", 6e-5, 5.8e-5, 2 / 60, "HiGHS 1.16")
    document = plan_of(certificate=certificate)
    assert "within 3.4% of the best possible for latency" in plan_table(document)
    assert "More time may find a better one" in " ".join(explain(document).split())
    boundless = plan_of(certificate=Certificate("feasible", 6e-5, 0.0, 1.0, "by hand"))
    assert "best found, with no bound" in plan_table(boundless)


def test_what_was_assumed_is_said(plan_of: Make) -> None:
    undeclared = Cluster((Device("cuda:0", memory="4MiB"), Device("cuda:1", memory="4MiB")))
    document = plan_of(cluster=ClusterRecord.of(undeclared))
    for text in (plan_table(document), " ".join(explain(document).split())):
        assert "the kind of cuda:0 and cuda:1 was not declared: reckoned as 'generic-gpu'" in text
        assert "links were not declared: reckoned as 'pcie4-x16'" in text
    assert "not declared" not in plan_table(plan_of())


def test_operators_that_were_priced_by_bytes_are_named(plan_of: Make) -> None:
    document = plan_of(unpriced=("aten.linalg_inv_ex.default", "Gate"))
    for text in (plan_table(document), explain(document)):
        words = " ".join(text.split())
        assert "no formula tells the work of aten.linalg_inv_ex.default and Gate: reckoned" in words
    assert "no formula" not in plan_table(plan_of())


def test_constraints_and_further_notes_are_shown(plan_of: Make) -> None:
    document = plan_of(constraints=("pin lin2=cuda:1",))
    assert "constraint: pin lin2=cuda:1" in plan_table(document)
    assert "note: 2 operators were priced by bytes" in plan_table(
        document, notes=["2 operators were priced by bytes"]
    )
    assert "Demanded by you: pin lin2=cuda:1." in explain(document)
    assert "Memory or a constraint forces the split" in explain(document)


def test_the_explanation_is_a_screenful(plan_of: Make) -> None:
    outlook = ("With 1 MiB more on cuda:0, one device would be enough.",)
    for document in (plan_of(), plan_of(split=False)):
        text = explain(document, outlook)
        assert len(text.splitlines()) <= 24
        assert outlook[0] in text


def test_why_there_is_one_device(plan_of: Make) -> None:
    text = explain(plan_of(split=False))
    assert "All of it fits on cuda:0" in text
    assert "no split is faster" in " ".join(text.split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Memory forces the split: on cuda:0 alone a step would take 36 us, but 4 MiB"),
        ({"step_seconds": 30e-6, "memory": ROOMY}, "parts can run at the same time"),
        (
            {"step_seconds": 30e-6, "memory": TIGHT},
            "the peaks add up to 4 MiB, the largest limit is 3 MiB",
        ),
        ({"objective": "throughput"}, "no device or link is busy for longer than 24 us"),
        (
            {
                "objective": "memory",
                "certificate": Certificate("optimal", 0.75, 0.75, 0.0, "HiGHS 1.16"),
            },
            "as empty as it can be: 75% full",
        ),
    ],
    ids=["memory", "time", "both", "throughput", "balance"],
)
def test_why_there_is_a_split(plan_of: Make, changes: dict[str, object], expected: str) -> None:
    assert expected in " ".join(explain(plan_of(**changes)).split())


def test_inference_has_no_gradients(plan_of: Make) -> None:
    document = plan_of(mode="inference", optimizer=None)
    assert "SeqNet on cuda:0 and cuda:1, inference" in plan_table(document)
    assert "weights and activations" in " ".join(explain(document).split())


def test_comparisons_put_the_best_first_and_what_does_not_fit_last() -> None:
    rows = [
        ComparisonRow("slow", 2e-3, 2e-3, 1e-3, {"cuda:0": 2**30, "cuda:1": 0}, 0),
        ComparisonRow("too large", 5e-4, 5e-4, 5e-4, {"cuda:0": 2**40, "cuda:1": 0}, 0, fits=False),
        ComparisonRow("best", 1e-3, 1e-3, 1e-3, {"cuda:0": 2**20, "cuda:1": 2**20}, 1024),
    ]
    lines = comparison_table(rows, "latency").splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["best", "slow", "too large"]
    assert "1.000" in lines[2]
    assert "2.000" in lines[3]
    assert "does not fit" in lines[4]
    assert "peak cuda:1" in lines[0]


def test_many_devices_share_a_column() -> None:
    peaks = {f"cuda:{i}": i * 2**20 for i in range(8)}
    table = comparison_table([ComparisonRow("wide", 0.5, 1.0, 1.0, peaks, 0)], "memory")
    assert "highest peak" in table
    assert "7 MiB" in table
    assert "50%" in table
