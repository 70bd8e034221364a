"""One step of the model on fake tensors, node by node: what runs, and what is kept how long.

The recorded graph runs as one piece, with autograd connected, so that the backward is the one that
PyTorch will run: the engine executes backward functions in the reverse order of their creation,
which their sequence numbers tell, and so each belongs to the node that was running when its number
was given. Operators, births and deaths of storages are written down by node and program point.

::

    forward   node 0 | node 1 | ... | node n-1 |            points 0 .. n-1
    loss                                        |           point n
    backward           node n-1 | ... | node 0              points n .. 2n-1
    optimizer                                    |          point 2n
"""

from __future__ import annotations

from contextlib import nullcontext, suppress

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from partitioner.capture import Captured, fake_clone, in_mode, quiet
from partitioner.graph.loss import OUTPUT_LOSS, Loss
from partitioner.graph.run import Run
from partitioner.graph.trace import Rehearsal
from partitioner.graph.whole_calls import WholeCalls
from partitioner.virtual import native_dropout


def rehearse(
    captured: Captured,
    model: nn.Module,
    *,
    training: bool,
    devices: int = 1,
    on_cuda: bool = False,
    loss: Loss = OUTPUT_LOSS,
) -> Rehearsal:
    """Run one step of `captured` on fake tensors of the example's sizes.

    Args:
        captured: the recording.
        model: the recorded model or a clone of it; not touched.
        training: with the backward of `loss`; else one forward without gradients.
        devices: how many there are to choose from: with one, the model's own `forward` will run.
        on_cuda: with the operators that CUDA takes, where they keep other bytes than the CPU's.
        loss: of a training step.

    Raises:
        CostModelError: a node does not run; the message names it.
        SpecError: the loss does not take what the model returns.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with quiet(), native_dropout() if on_cuda else nullcontext():
        run = Run(_clone(captured, model, mode), captured, mode, loss)
        with mode:
            rehearsal = run.step(training)
        whole = WholeCalls(
            _clone(captured, model, mode), captured, mode, run.operators, devices=devices
        )
        if whole.whole or whole.root:
            with mode, suppress(Exception):  # what decides by its data runs node by node only
                whole.lay_over(rehearsal, run.forward_end, training)
    return rehearsal


def _clone(captured: Captured, model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    return in_mode(fake_clone(model, mode), captured.training)
