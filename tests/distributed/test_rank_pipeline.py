"""Real processes on gloo against the whole model."""

from pathlib import Path

import torch
from torch import nn

from partitioner.distributed.stage import splits_safely
from tests.distributed.launch import launch
from tests.distributed.worker import differing_replicas, read_own, train


def right(folder: Path, processes: int, *names: str) -> int:
    """How many runs of models under schedules train as the whole model does."""
    done = launch(folder, processes, train, list(names))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.count("right:")


def test_two_processes_train_as_one_does(tmp_path):
    names = ("unet", "hf_gpt2_labels", "hf_bert_labels", "hf_llama_no_cache", "called_twice")
    assert right(tmp_path, 2, *names) == len(names) * 5


def test_four_processes_train_as_one_does(tmp_path):
    assert right(tmp_path, 4, "unet") == 5


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
