"""Which device a tensor is on, how it gets there, and which devices may meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partitioner.virtual import VirtualGpus, virtual_gpus

FIRST, SECOND, CPU = torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cpu")


@pytest.fixture(autouse=True)
def gpus() -> Iterator[VirtualGpus]:
    with virtual_gpus(2) as gpus:
        yield gpus


def test_a_tensor_says_where_it_is() -> None:
    tensor = torch.ones(2, device="cuda:1")
    assert tensor.device == SECOND
    assert tensor.is_cuda
    assert not tensor.is_cpu
    assert tensor.get_device() == 1
    assert tensor.type() == "torch.cuda.FloatTensor"
    assert "device='cuda:1'" in repr(tensor)
    assert torch.ones(2).get_device() == -1
    assert torch.ones(2).type() == "torch.FloatTensor"


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.to("cuda:1"),
        lambda x: x.to(torch.device("cuda", 1)),
        lambda x: x.to(1),
        lambda x: x.to(device="cuda:1", non_blocking=True),
        lambda x: x.to("cuda:1", torch.float64),
        lambda x: x.to("cuda:1", copy=True),
        lambda x: x.to(torch.zeros((), device="cuda:1")),
        lambda x: x.to(tensor=torch.zeros((), device="cuda:1")),
        lambda x: x.cuda(1),
        lambda x: x.cuda(device="cuda:1", non_blocking=True),
        lambda x: x.type_as(torch.zeros((), device="cuda:1")),
        lambda x: torch.as_tensor(x, device="cuda:1"),
        lambda x: torch.as_tensor(x, dtype=torch.float32, device="cuda:1"),
        lambda x: torch.asarray(x, device="cuda:1"),
        lambda x: torch.empty(3, device="cuda:1").copy_(x),
        lambda x: nn.ParameterList([x]).to("cuda:1")[0].data,
        lambda x: nn.ParameterList([x]).to(1)[0].data,
        lambda x: nn.ParameterList([x]).to(torch.zeros(1, device="cuda:1"))[0].data,
    ],
)
def test_every_way_of_moving(move: Callable[[Tensor], Tensor]) -> None:
    here = torch.tensor([1.0, 2.0, 3.0])
    there = move(here)
    assert there.device == SECOND
    assert there.tolist() == [1.0, 2.0, 3.0]
    assert here.device == CPU
    assert there.cpu().device == there.to("cpu").device == CPU


def test_moving_to_where_it_is_gives_the_same_tensor() -> None:
    tensor = torch.ones(2, device="cuda:0")
    assert tensor.to("cuda:0") is tensor
    assert tensor.cuda(0) is tensor
    assert tensor.cuda() is tensor
    copied = tensor.to("cuda:0", copy=True)
    assert copied is not tensor
    assert copied.device == FIRST
    assert tensor.to(torch.float64).device == FIRST


def test_cuda_without_an_index_is_the_current_device() -> None:
    assert torch.ones(1).cuda().device == FIRST
    torch.cuda.set_device(1)
    assert torch.ones(1).cuda().device == SECOND
    assert torch.ones(1, device="cuda").device == SECOND
    with torch.cuda.device(0):
        assert torch.ones(1).to("cuda").device == FIRST
    assert torch.cuda.current_device() == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda device: torch.zeros(2, 3, device=device),
        lambda device: torch.full((2,), 3.0, device=device),
        lambda device: torch.arange(4, device=device),
        lambda device: torch.linspace(0, 1, 3, device=device),
        lambda device: torch.eye(2, device=device),
        lambda device: torch.randn(2, device=device),
        lambda device: torch.randperm(3, device=device),
        lambda device: torch.normal(0.0, 1.0, (2,), device=device),
        lambda device: torch.tensor([1, 2], device=device),
        lambda device: torch.tensor(torch.ones(2).tolist(), device=device),
        lambda device: torch.as_tensor([1.0], device=device),
        lambda device: torch.tril_indices(2, 2, device=device),
        lambda device: torch.zeros_like(torch.ones(2), device=device),
        lambda device: torch.ones(1).new_zeros(2, device=device),
        lambda device: torch.empty(2, device=device, pin_memory=False),
        lambda device: nn.Parameter(torch.empty(2, device=device)),
        lambda device: nn.Linear(2, 2, device=device).weight,
        lambda device: nn.Linear(2, 2, device="meta").to_empty(device=device).weight,
        lambda device: nn.Transformer.generate_square_subsequent_mask(2, device=device),
    ],
)
def test_factories_with_a_device(make: Callable[[object], Tensor]) -> None:
    assert make("cuda:1").device == SECOND
    assert make(torch.device("cuda", 0)).device == FIRST
    assert make("cpu").device == CPU


@pytest.mark.parametrize(
    "make",
    [
        torch.zeros_like,
        torch.rand_like,
        lambda x: x.new_ones(3),
        lambda x: x.new_tensor([1.0]),
        lambda x: x.new_full((2,), 1.0),
        lambda x: x * 2,
        lambda x: 1 - x,
        lambda x: x[0],
        lambda x: x.T.contiguous(),
        lambda x: x[[0, 1]],
        lambda x: x.sum(),
        lambda x: x.detach().data,
        lambda x: torch.cat([x, x]),
        lambda x: F.dropout(x),
        lambda x: x.to_sparse(),
        lambda x: x.to_sparse().to_dense(),
        lambda x: x.unique(),
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: torch.fft.fft(x).abs(),
        lambda x: torch.vmap(torch.sin)(x),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
        lambda x: F.interpolate(x[None, None], scale_factor=2.0),
    ],
)
def test_results_stay_with_their_argument(make: Callable[[Tensor], Tensor]) -> None:
    assert make(torch.ones(2, 2, device="cuda:1")).device == SECOND
    assert make(torch.ones(2, 2)).device == CPU


def test_the_default_device_counts_where_nothing_is_said() -> None:
    with torch.device("cuda:1"):
        assert torch.ones(1).device == SECOND
        assert torch.tensor([1.0]).device == SECOND
        assert nn.Linear(1, 1).weight.device == SECOND
        assert torch.ones(1, device="cpu").device == CPU
    torch.set_default_device("cuda:0")
    assert torch.rand(1).device == FIRST
    assert torch.get_default_device() == FIRST
    torch.set_default_device(None)
    assert torch.rand(1).device == CPU


def test_what_python_functions_make_inside_follows_their_arguments() -> None:
    attention = nn.MultiheadAttention(4, 2, add_zero_attn=True, add_bias_kv=True).to("cuda:1")
    tokens = torch.ones(3, 1, 4, device="cuda:1")
    output, weights = attention(tokens, tokens, tokens)
    assert output.device == weights.device == SECOND


def mismatch(first: str, second: str) -> str:
    return (
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{first} and {second}!"
    )


@pytest.mark.parametrize(
    "operation",
    [
        torch.add,
        torch.mm,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: x.add_(y),
        lambda x, y: F.linear(x, y),
        lambda x, y: F.mse_loss(x, y),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: torch.add(x, x, out=y),
        lambda x, y: torch._foreach_add([x, x], [x, y]),
        lambda x, y: F.conv2d(x[None, None], y[None, None]),
    ],
)
def test_operations_across_devices_are_refused(
    operation: Callable[[Tensor, Tensor], object],
) -> None:
    on_first, on_second, on_cpu = (torch.ones(2, 2, device=d) for d in ("cuda:0", "cuda:1", "cpu"))
    with pytest.raises(RuntimeError) as error:
        operation(on_first, on_second)
    assert str(error.value) == mismatch("cuda:0", "cuda:1")
    with pytest.raises(RuntimeError) as error:
        operation(on_cpu, on_first)
    assert str(error.value) == mismatch("cuda:0", "cpu")


def test_numbers_on_the_cpu_may_meet_gpu_tensors() -> None:
    tensor, number = torch.ones(3, device="cuda:0"), torch.tensor(2.0)
    assert (tensor * number).device == (number * tensor).device == FIRST
    assert torch.where(tensor > 0, number, tensor).device == FIRST
    assert tensor.masked_fill(tensor > 0, number).tolist() == [2.0, 2.0, 2.0]
    tensor[0] = number
    tensor[1] = 5.0
    assert tensor.tolist() == [2.0, 5.0, 1.0]


def test_a_number_on_a_gpu_may_not_meet_cpu_tensors() -> None:
    number = torch.tensor(2.0, device="cuda:0")
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        torch.ones(3) * number
    total = torch.tensor(0.0)
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        total += number


def test_indices_may_be_on_the_cpu() -> None:
    tensor = torch.arange(4.0, device="cuda:0")
    assert tensor[torch.tensor([1, 2])].device == FIRST
    assert tensor[torch.tensor([1, 2], device="cuda:0")].tolist() == [1.0, 2.0]
    tensor[torch.tensor([0])] = torch.tensor([9.0], device="cuda:0")
    assert tensor[0].item() == 9.0
    elsewhere = torch.tensor([0], device="cuda:1")
    for indexed in (tensor, tensor.cpu()):
        with pytest.raises(RuntimeError) as error:
            indexed[elsewhere]
        assert str(error.value) == (
            "indices should be either on cpu or on the same device as the indexed tensor "
            f"({indexed.device})"
        )
    with pytest.raises(RuntimeError, match="cuda:0 and cuda:1"):
        tensor[torch.tensor([0])] = torch.ones(1, device="cuda:1")


def test_lengths_stay_on_the_cpu() -> None:
    recurrent = nn.LSTM(2, 3, batch_first=True).to("cuda:0")
    tokens = torch.randn(2, 4, 2, device="cuda:0")
    packed = nn.utils.rnn.pack_padded_sequence(tokens, torch.tensor([4, 2]), batch_first=True)
    assert packed.batch_sizes.device == CPU
    output, lengths = nn.utils.rnn.pad_packed_sequence(recurrent(packed)[0], batch_first=True)
    assert output.device == FIRST
    assert lengths.tolist() == [4, 2]
    log_probabilities = torch.randn(4, 1, 5, device="cuda:0", requires_grad=True).log_softmax(-1)
    loss = F.ctc_loss(
        log_probabilities,
        torch.tensor([[1, 2]], device="cuda:0"),
        torch.tensor([4]),
        torch.tensor([2]),
    )
    loss.backward()
    assert loss.device == FIRST


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.ones(1, device="cuda:7"),
        lambda: torch.ones(1).to("cuda:7"),
        lambda: torch.ones(1).cuda(7),
        lambda: nn.Linear(1, 1).to("cuda:7"),
        lambda: torch.cuda.set_device(7),
        lambda: torch.cuda.memory_allocated(7),
        lambda: torch.cuda.synchronize("cuda:7"),
    ],
)
def test_a_gpu_that_is_not_there(ask: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="CUDA error: invalid device ordinal"):
        ask()


def test_numpy_wants_the_cpu() -> None:
    tensor = torch.ones(2, device="cuda:0")
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        tensor.numpy()
    assert tensor.cpu().numpy().tolist() == tensor.numpy(force=True).tolist() == [1.0, 1.0]
    assert torch.from_numpy(tensor.cpu().numpy()).to("cuda:1").device == SECOND


def test_a_gradient_lies_beside_its_tensor() -> None:
    weight = torch.zeros(2, device="cuda:1", requires_grad=True)
    with pytest.raises(RuntimeError, match="located on device with index '0'"):
        weight.grad = torch.ones(2, device="cuda:0")
    with pytest.raises(RuntimeError, match="gradient with device type 'cpu'"):
        weight.grad = torch.ones(2)
    weight.grad = torch.ones(2, device="cuda:1")


def test_meta_tensors_are_left_alone(gpus: VirtualGpus) -> None:
    assert torch.empty(3, device="meta").device.type == "meta"
    assert torch.ones(3, device="cuda:0").to("meta").device.type == "meta"
    assert torch.empty_like(torch.ones(3, device="cuda:0"), device="meta").is_meta
    assert gpus["cuda:0"].allocated_nbytes == 0
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        torch.empty(3, device="meta").to("cuda:0")


def test_data_can_be_put_on_another_device_in_place() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.data = parameter.data.to("cuda:1")
    assert parameter.device == SECOND
    assert parameter.is_leaf
    module = nn.Linear(2, 2)
    weight = module.weight
    module.to("cuda:0")
    assert module.weight is weight
    assert weight.device == FIRST


def test_inference_mode_checks_and_computes() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to("cuda:0").eval()
    with torch.inference_mode():
        assert module(torch.ones(2, 3, device="cuda:0")).reshape(-1).device == FIRST
        with pytest.raises(RuntimeError, match="cuda:0 and cuda:1"):
            module(torch.ones(2, 3, device="cuda:1"))


def test_a_histogram_of_integers_is_counted_as_on_cuda() -> None:
    counts = torch.histc(torch.tensor([0, 2, 2, 1], device="cuda:0").int(), 3, 0, 2)
    assert counts.dtype == torch.int32
    assert counts.tolist() == [1, 1, 2]
