"""Real processes on gloo against the whole model."""

from functools import partial

import pytest
import torch
from torch import nn

from cost_models import RooflineCostModel
from partitioner import Cluster
from partitioner.distributed import LocalPipeline
from partitioner.distributed.stage import splits_safely
from partitioner.graph import Meetings, annotate
from tests.distributed.launch import launch
from tests.distributed.models import batch_of, layout_of, loss_of, model_of
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


@pytest.mark.parametrize("name", ["called_twice", "tied", "unet"])
def test_the_timetable_knows_which_stages_split(name):
    """By the cost graph as by the graph of gradients; the first stage is never asked."""
    layout = layout_of(name, "zero-bubble", 2, 2)
    graph = annotate(
        layout.captured, model_of(name), Cluster.of("1x1GiB"), RooflineCostModel(), training=True
    )
    batch = layout.micro(layout.batch(*batch_of(name)))[0]
    wires, found = (), []
    for stage in LocalPipeline(model_of(name), layout, ["cpu"] * 2, loss_of).stages:
        given = tuple(wire.detach().requires_grad_(wire.requires_grad) for wire in wires)
        wires = stage(*given, **{name: batch[name] for name in stage.part.inputs})
        roots = wires if stage.part != layout.parts[-1] else [loss_of(layout.returned(wires))]
        found.append(splits_safely(roots, given, stage.parameters()))
    meetings = Meetings(graph)
    assert [meetings.split(part) for part in layout.parts[1:]] == found[1:]
