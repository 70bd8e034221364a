"""`split_points`: the stages of a pipeline in the form of `torch.distributed.pipelining`.

That form names the modules before which the model is split; each is called once, and all that is
called after it belongs to the new stage or to a later one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import fx

from partitioner.capture import NodeInfo, Program, graph_of
from partitioner.errors import PlanError
from partitioner.spec import enclosing

if TYPE_CHECKING:
    from torch.distributed.pipelining import SplitPoint


def split_points(program: Program, stages: Mapping[str, int]) -> dict[str, SplitPoint]:
    """The module with which each stage but the first begins.

    Args:
        program: the recorded graph.
        stages: stage number by node, from 0; nodes that are absent follow their readers.

    Raises:
        PlanError: a stage begins inside a module, or before a module that is called again; the
            message names it.
    """
    from torch.distributed.pipelining import SplitPoint  # takes seconds

    graph, infos = graph_of(program)
    nodes = [node for node in graph.nodes if node.name in stages]
    owners = {node.name: _owner(node, infos) for node in nodes}
    earliest: dict[str, int] = {}
    for node in nodes:
        for path in enclosing(owners[node.name]):
            earliest[path] = min(stages[node.name], earliest.get(path, stages[node.name]))
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    found: dict[str, SplitPoint] = {}
    now = 0
    for node in nodes:
        stage = stages[node.name]
        if stage < now:
            raise PlanError(
                f"split points cannot say these stages: '{node.name}' of stage {stage} runs after "
                f"stage {now} has begun"
            )
        if stage == now:
            continue
        now, owner = stage, owners[node.name]
        path = next((each for each in enclosing(owner) if earliest[each] == stage), "")
        if not path:
            raise PlanError(
                f"split points cannot say these stages: stage {stage} begins inside module "
                f"'{owner}', at {infos[node.name].line or node.name}; Colocate('{owner or '*'}') "
                "keeps it whole"
            )
        again = next((t for t, n in calls.items() if n > 1 and path in enclosing(t)), None)
        if again is not None:
            raise PlanError(
                f"split points cannot say these stages: stage {stage} begins with '{path}', of "
                f"which '{again}' is called {calls[again]} times"
            )
        found[path] = SplitPoint.BEGINNING
    return found


def _owner(node: fx.Node, infos: Mapping[str, NodeInfo]) -> str:
    return str(node.target) if node.op == "call_module" else infos[node.name].module_path
