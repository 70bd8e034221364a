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

from partitioner.capture import Captured, Fakes, decided_by_positions, fake_clone, in_mode, quiet
from partitioner.graph.loss import OUTPUT_LOSS, Loss
from partitioner.graph.optimizer_state import OptimizerFactory, OptimizerMemory, optimizer_memory
from partitioner.graph.run import Run
from partitioner.graph.trace import Rehearsal
from partitioner.graph.whole_calls import WholeCalls
from partitioner.spec import Cluster, is_host
from partitioner.virtual import native_dropout


class Rehearsals:
    """A step of one recorded model on every cluster that asks, run once for those alike.

    Of the devices it matters only whether there are several, and whether they are GPUs.

    Args:
        captured: the recording, in the mode that is planned.
        model: the recorded model; not touched.
        training: as for `rehearse`.
        loss: as for `rehearse`.
    """

    def __init__(
        self, captured: Captured, model: nn.Module, *, training: bool, loss: Loss = OUTPUT_LOSS
    ) -> None:
        self.captured = captured
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.training = training
        self._loss = loss
        self._steps: dict[tuple[bool, bool], Rehearsal] = {}
        self._optimizers: list[tuple[OptimizerFactory, OptimizerMemory]] = []

    def on(self, cluster: Cluster) -> Rehearsal:
        """The step on `cluster`.

        Raises:
            CostModelError: as of `rehearse`.
            SpecError: as of `rehearse`.
        """
        several = len(cluster.devices) > 1
        on_cuda = not all(is_host(name) for name in cluster.names)
        if (several, on_cuda) not in self._steps:
            self._steps[several, on_cuda] = rehearse(
                self.captured,
                self.model,
                training=self.training,
                several=several,
                on_cuda=on_cuda,
                loss=self._loss,
            )
        return self._steps[several, on_cuda]

    def optimizer(self, cluster: Cluster, make: OptimizerFactory) -> OptimizerMemory:
        """What the optimizer of the parameters that get a gradient takes.

        Raises:
            SpecError: it cannot take a step.
        """
        for known, memory in self._optimizers:
            if known is make:
                return memory
        gradients = self.on(cluster).gradients
        trainable = {
            name: spec.tensor
            for name, spec in self.captured.state.items()
            if spec.role == "parameter" and name in gradients
        }
        memory = optimizer_memory(trainable, make)
        self._optimizers.append((make, memory))
        return memory


def rehearse(
    captured: Captured,
    model: nn.Module,
    *,
    training: bool,
    several: bool = False,
    on_cuda: bool = False,
    loss: Loss = OUTPUT_LOSS,
) -> Rehearsal:
    """Run one step of `captured` on fake tensors of the example's sizes.

    Args:
        captured: the recording.
        model: the recorded model or a clone of it; not touched.
        training: with the backward of `loss`; else one forward without gradients.
        several: whether there are several devices: with one, the model's own `forward` will run.
        on_cuda: with the operators that CUDA takes, where they keep other bytes than the CPU's.
        loss: of a training step.

    Raises:
        CostModelError: a node does not run; the message names it.
        SpecError: the loss does not take what the model returns.
    """
    mode = Fakes()
    with quiet(), native_dropout() if on_cuda else nullcontext():
        run = Run(_clone(captured, model, mode), captured, mode, loss)
        with mode:
            rehearsal = run.step(training)
        whole = WholeCalls(
            _clone(captured, model, mode), captured, mode, run.operators, several=several
        )
        if whole.whole or whole.root:
            # What decides by its data runs node by node only.
            with mode, decided_by_positions(), suppress(Exception):
                whole.lay_over(rehearsal, run.forward_end, training)
    return rehearsal


def _clone(captured: Captured, model: nn.Module, mode: Fakes) -> nn.Module:
    return in_mode(fake_clone(model, mode), captured.training)
