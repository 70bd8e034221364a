"""Orders against those of `torch.distributed.pipelining`."""

import pytest
from torch.distributed.pipelining import schedules as torch_schedules

from partitioner import SpecError
from partitioner.schedule import SCHEDULES, Kind, in_flight, orders, peak_in_flight


class ListeningStage:
    """A stage that computes nothing and sends nothing, and writes down what it is asked to do."""

    def __init__(self, stage_index, num_stages):
        self.stage_index, self.num_stages, self.asked = stage_index, num_stages, []
        self.is_first, self.is_last = stage_index == 0, stage_index == num_stages - 1
        self.has_backward = True

    def forward_one_chunk(self, micro_batch, *args, **kwargs):
        self.asked.append(f"{self.stage_index}F{micro_batch}")

    def backward_one_chunk(self, micro_batch, **kwargs):
        self.asked.append(f"{self.stage_index}B{micro_batch}")

    def _none(self, *args):
        return []

    get_fwd_recv_ops = get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = _none
    perform_reduce_grad = _none


def asked_by_torch(name, rank, ranks, micro_batches):
    """What torch's schedule asks of a stage when it runs a step."""
    stage = ListeningStage(rank, ranks)
    made = object.__new__(getattr(torch_schedules, name))
    vars(made).update(
        _stage=stage, _num_stages=ranks, _n_microbatches=micro_batches, _has_backward=True,
        _loss_fn=None, _internal_losses=[], scale_grads=True, _stage_initialized=True,
        _stage_forward_initialized=True, _stage_backward_initialized=True,
    )  # fmt: skip
    made._initialize_stage = lambda *args: None
    made._step_microbatches()
    return stage.asked


def torch_orders(schedule, ranks, micro_batches, stages_per_rank):
    """What torch does, without its idle slots and reductions."""
    if schedule in ("gpipe", "1f1b"):
        name = {"gpipe": "ScheduleGPipe", "1f1b": "Schedule1F1B"}[schedule]
        return [asked_by_torch(name, rank, ranks, micro_batches) for rank in range(ranks)]
    name = {
        "interleaved": "ScheduleInterleaved1F1B",
        "zero-bubble": "ScheduleInterleavedZeroBubble",
    }[schedule]
    made = object.__new__(getattr(torch_schedules, name))
    vars(made).update(
        pp_group_size=ranks,
        n_local_stages=stages_per_rank,
        _n_microbatches=micro_batches,
        microbatches_per_round=micro_batches // max(1, micro_batches // ranks),
    )
    found = {rank: made._calculate_single_rank_operations(rank) for rank in range(ranks)}
    return [
        [str(a) for a in found[rank] if a is not None and "REDUCE" not in str(a)]
        for rank in range(ranks)
    ]


CASES = [
    (schedule, ranks, ranks * rounds, chunks)
    for schedule in SCHEDULES
    for ranks in (1, 2, 3, 4)
    for rounds in (1, 2, 3)
    for chunks in ((1,) if schedule in ("gpipe", "1f1b") else (1, 2, 3))
]


@pytest.mark.parametrize(("schedule", "ranks", "micro_batches", "chunks"), CASES)
def test_orders_are_those_of_torch(schedule, ranks, micro_batches, chunks):
    ours = [
        [str(action) for action in order]
        for order in orders(schedule, ranks, micro_batches, stages_per_rank=chunks)
    ]
    theirs = torch_orders(schedule, ranks, micro_batches, chunks)
    assert ours == theirs


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_micro_batch_passes_every_stage_once(ranks):
    for schedule in SCHEDULES:
        chunks = 2 if schedule in ("interleaved", "zero-bubble") else 1
        found = orders(schedule, ranks, 2 * ranks, stages_per_rank=chunks)
        for rank, order in enumerate(found):
            assert len(set(order)) == len(order)
            stages = {action.stage for action in order}
            assert stages == {chunk * ranks + rank for chunk in range(chunks)}
            kinds = {action.kind for action in order}
            assert len(order) == len(kinds) * len(stages) * 2 * ranks


def test_1f1b_keeps_fewer_micro_batches_than_gpipe():
    kept = {
        schedule: [next(iter(in_flight(order).values())) for order in orders(schedule, 4, 8)]
        for schedule in ("gpipe", "1f1b")
    }
    assert kept == {"gpipe": [8, 8, 8, 8], "1f1b": [4, 3, 2, 1]}


def test_a_split_backward_keeps_a_micro_batch_until_its_weights_are_done():
    order = orders("zero-bubble", 2, 2)[1]
    assert [str(a) for a in order] == ["1F0", "1I0", "1F1", "1I1", "1W0", "1W1"]
    assert in_flight(order) == {1: 2}


def test_bytes_of_several_stages_on_a_rank_add_up():
    order = orders("interleaved", 2, 2, stages_per_rank=2)[0]
    each = in_flight(order)
    assert peak_in_flight(order, {0: 10, 2: 1}) <= 10 * each[0] + each[2]
    assert peak_in_flight(order, {0: 10}) == 10 * each[0]


def test_inference_has_forwards_only():
    for order in orders("1f1b", 3, 5, training=False):
        assert {action.kind for action in order} == {Kind.FORWARD}
        assert in_flight(order) == {order[0].stage: 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1f2b", 2, 2, 1), "did you mean '1f1b'"),
        (("1f1b", 4, 3, 1), "needs at least as many as there are stages \\(4\\)"),
        (("gpipe", 2, 2, 2), "one stage a rank"),
        (("interleaved", 2, 5, 2), "take 4 or 6"),
        (("gpipe", 2, 0, 1), "at least 1"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(arguments, said):
    schedule, ranks, micro_batches, chunks = arguments
    with pytest.raises(SpecError, match=said):
        orders(schedule, ranks, micro_batches, stages_per_rank=chunks)
