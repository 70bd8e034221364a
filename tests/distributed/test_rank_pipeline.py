"""Real processes on gloo against the whole model."""

from functools import partial

import pytest
import torch
from torch import nn

from partitioner.distributed.stage import splits_safely
from tests.distributed.launch import launch
from tests.distributed.worker import SCHEDULES, differing_replicas, read_own, record, train


@pytest.mark.parametrize(
    ("processes", "runs"),
    [
        (2, {
            "unet": SCHEDULES,
            "hf_gpt2_labels": SCHEDULES,
            "hf_bert_labels": SCHEDULES[1:2],
            "hf_llama_no_cache": SCHEDULES[2:4],
            "hf_t5_labels": SCHEDULES[4:],
            "residual_cnn": SCHEDULES[:1],
            "called_twice": SCHEDULES[4:],
        }),
        (4, {
            "unet": SCHEDULES,
            "hf_gpt2_labels": SCHEDULES[1:2],
            "hf_t5_labels": SCHEDULES[3:4],
            "residual_cnn": SCHEDULES[2:3],
        }),
    ],
    ids=("two", "four"),
)  # fmt: skip
def test_processes_train_as_one_does(tmp_path, processes, runs):
    done = launch(tmp_path, processes, train, runs, before=partial(record, tuple(runs)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("right:") == sum(map(len, runs.values()))


def test_a_process_reads_only_its_own_tensors(tmp_path):
    done = launch(tmp_path, 2, read_own, str(tmp_path / "weights.safetensors"))
    assert done.returncode == 0, done.stderr[-3000:]


def test_replicas_with_different_plans_refuse_to_start(tmp_path):
    done = launch(tmp_path, 2, differing_replicas)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_backward_is_split_where_each_parameter_branches_off_once():
    wire = torch.randn(2, 4, requires_grad=True)
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    parameters = [*a.parameters(), *b.parameters()]
    apart = b(torch.ones(2, 4))

    def safe(*outputs, wire=wire):
        return splits_safely(outputs, [wire], parameters)

    assert safe(b(a(wire)))
    assert safe(a(wire) + apart)
    assert not safe(a(b(a(wire))))
    assert not safe(a(wire), apart)
    still = torch.randn(2, 4)
    assert not safe(b(a(still)), wire=still)
