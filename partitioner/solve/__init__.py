"""Tables in, a proven assignment out: `CostGraph` + what the user declares -> `Solution`."""

from partitioner.solve.evaluate import Evaluation, evaluate
from partitioner.solve.formulate import formulate
from partitioner.solve.problem import Demand, Flow, Hold, Hop, Problem, Solution, Status
from partitioner.solve.search import solve

__all__ = [
    "Demand",
    "Evaluation",
    "Flow",
    "Hold",
    "Hop",
    "Problem",
    "Solution",
    "Status",
    "evaluate",
    "formulate",
    "solve",
]
