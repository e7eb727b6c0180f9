"""The solver layer: ``q(p) = argmax_x p·x − C(x)``, with its derivative and a certificate."""

from alignray.solver.layer import SolverLayer
from alignray.solver.solution import Solution

__all__ = ["Solution", "SolverLayer"]
