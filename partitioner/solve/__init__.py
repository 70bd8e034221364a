"""Tables in, a proven assignment out: `CostGraph` + what the user declares -> `Solution`."""

from partitioner.solve.evaluate import Evaluation, evaluate
from partitioner.solve.formulate import formulate, with_demands
from partitioner.solve.glance import Glance, glance
from partitioner.solve.infeasible import Lack, least_lack, never_fits
from partitioner.solve.problem import Demand, Flow, Hold, Problem, Solution, Status
from partitioner.solve.search import solve

__all__ = [
    "Demand",
    "Evaluation",
    "Flow",
    "Glance",
    "Hold",
    "Lack",
    "Problem",
    "Solution",
    "Status",
    "evaluate",
    "formulate",
    "glance",
    "least_lack",
    "never_fits",
    "solve",
    "with_demands",
]
