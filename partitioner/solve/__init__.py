"""Tables in, a proven assignment out: `CostGraph` + what the user declares -> `Solution`."""

from partitioner.solve.evaluate import Evaluation, evaluate
from partitioner.solve.formulate import formulate, with_demands
from partitioner.solve.formulate_stages import formulate_stages
from partitioner.solve.glance import Glance, glance
from partitioner.solve.infeasible import Lack, least_lack, never_fits
from partitioner.solve.problem import Demand, Flow, Hold, Hop, Problem, Solution, Status
from partitioner.solve.search import solve
from partitioner.solve.stages import (
    Shortfall,
    StageHold,
    StageProblem,
    StageSolution,
    lower_bound,
    solve_stages,
)

__all__ = [
    "Demand",
    "Evaluation",
    "Flow",
    "Glance",
    "Hold",
    "Hop",
    "Lack",
    "Problem",
    "Shortfall",
    "Solution",
    "StageHold",
    "StageProblem",
    "StageSolution",
    "Status",
    "evaluate",
    "formulate",
    "formulate_stages",
    "glance",
    "least_lack",
    "lower_bound",
    "never_fits",
    "solve",
    "solve_stages",
    "with_demands",
]
