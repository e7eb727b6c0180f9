"""A user's own convex problem, written in CVXPY, as a term of a cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor

from alignray.costs.term import CvxpyDecision, Decision, Term
from alignray.errors import CostError


@dataclass(frozen=True, slots=True)
class CvxpyTerm(Term):
    """The least value of a CVXPY problem in the decision: any convex C(x), with any convex constraints.

    A problem, and not an expression, is what CVXPY has for a cost with its constraints; it may have variables of its
    own, which are minimised over. It needs ``backend="cvxpylayers"``, and joins other terms by ``+``.

    Example:
        >>> def build(decision: CvxpyDecision) -> cp.Problem:
        ...     x = decision.x
        ...     return cp.Problem(cp.Minimize(cp.quad_form(x, covariance)), [cp.sum(x) == 1, x >= 0])
        >>> layer = SolverLayer(CvxpyTerm(build), backend="cvxpylayers")

    The whole cost has to be strongly convex, so that the decision is unique and has a derivative. CVXPY cannot tell
    whether a problem is: that this one makes it so is the word of whoever writes it. Where it is not true, add a
    `Quadratic`.

    On a padded row x is held at 0, but is there: constants of n rows fit, and so must the constraints.

    Attributes:
        build: From a decision as CVXPY variables, ``x (n,)``, ``exposures (k,)`` and ``previous (n,)``, to a
            ``cvxpy.Problem`` that minimises and meets CVXPY's DCP rules, without parameters of its own. It is called
            for each size ``(n, k)``, and by `value` and `violation`.
        reads_factors: Whether ``build`` reads the exposures, so that the layer needs factors.
        reads_previous: Whether ``build`` reads the previous decision.

    Raises:
        CostError: ``build`` cannot be called.
    """

    build: Callable[[CvxpyDecision], Any]
    _: KW_ONLY
    reads_factors: bool = False  # type: ignore[misc]  # of the class for other terms, of what is built for this one
    reads_previous: bool = False  # type: ignore[misc]
    name: ClassVar[str] = "cvxpy"
    strongly_convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Term.__post_init__(self)
        if not callable(self.build) or not isinstance(self.build, Hashable):
            raise CostError(f"build of {self.name}: expected a function to a cvxpy.Problem, got {self.build!r}")

    def value(self, decision: Decision) -> Tensor:
        """C(x) ``[...]``, infinite where it is not defined; a number, through which no gradient passes.

        A backward pass that reaches it is refused, rather than given a gradient that lacks this term.

        Raises:
            CostError: The factors are missing, or ``build`` does not fit them.
        """
        values = [math.inf if problem is None else _number(problem.objective) for problem in self._solved(decision)]
        return cast("Tensor", _Constant.apply(decision.x, decision.x.new_tensor(values)))  # type: ignore[no-untyped-call]

    def violation(self, decision: Decision) -> Tensor | None:
        """The largest violation of a constraint, in its own unit; see `Term.violation`.

        Raises:
            CostError: See `value`.
        """
        values = [
            math.inf if problem is None else max((_largest(limit) for limit in problem.constraints), default=0.0)
            for problem in self._solved(decision)
        ]
        return decision.x.new_tensor(values).reshape(decision.x.shape[:-1])

    def cvxpy(self, decision: CvxpyDecision, *tunable: Any) -> Any:  # noqa: ARG002
        """The objective; see `Term.cvxpy`.

        Raises:
            CostError: ``build`` fails, or makes something else than a convex problem in the decision.
        """
        return _posed(self, decision).objective.expr

    def cvxpy_constraints(self, decision: CvxpyDecision, *tunable: Any) -> list[Any]:  # noqa: ARG002
        """See `Term.cvxpy_constraints` and `cvxpy`."""
        return list(_posed(self, decision).constraints)

    def _solved(self, decision: Decision) -> Iterator[Any]:
        """The problem once an era, with the decision's numbers in it and its own variables at their best.

        None where they have no value: what ties them to the decision cannot hold.
        """
        import cvxpy as cp
        import numpy as np

        given: dict[str, Tensor] = {"x": decision.x}
        if self.reads_factors:
            if decision.exposures is None:
                raise CostError(f"F: expected the factors [..., n, k], since the cost has a {self.name}; got None")
            given["exposures"] = decision.exposures
        if self.reads_previous:
            given["previous"] = torch.zeros_like(decision.x) if decision.previous is None else decision.previous
        batch = decision.x.shape[:-1]
        eras = math.prod(batch)
        rows = {
            name: value.detach().to("cpu", torch.float64).expand(*batch, -1).reshape(eras, value.shape[-1]).numpy()
            for name, value in given.items()
        }
        symbols = {n: cp.Variable(v.shape[-1]) if v.shape[-1] else cp.Constant(np.zeros(0)) for n, v in rows.items()}
        x, exposures, previous = (symbols.get(name, cp.Variable(1)) for name in ("x", "exposures", "previous"))
        problem = _posed(self, CvxpyDecision(x, exposures, previous))
        held = [_Held.of(symbols[name], values) for name, values in rows.items() if values.shape[-1]]
        own = {variable.id for variable in problem.variables()} - {part.symbol.id for part in held}
        linked = [limit for limit in problem.constraints if own & {variable.id for variable in limit.variables()}]
        inner = cp.Problem(problem.objective, linked + [part.constraint() for part in held])
        rounding = 1e-8 if decision.x.dtype == torch.float64 else 1e-6
        for era in range(eras):
            if own:
                for part in held:
                    part.set(era, rounding)
                inner.solve(solver=cp.CLARABEL)
            for part in held:
                part.symbol.value = part.values[era]
            yield problem if not own or inner.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A variable that is held at numbers, but for their rounding: to the last digit no equation would hold.

    Attributes:
        symbol: The variable ``(m,)``.
        values: The numbers of each era ``[eras, m]``.
        low: A parameter ``(m,)``.
        high: A parameter ``(m,)``.
    """

    symbol: Any
    values: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, symbol: Any, values: Any) -> _Held:
        import cvxpy as cp

        return cls(symbol, values, cp.Parameter(symbol.shape), cp.Parameter(symbol.shape))

    def constraint(self) -> Any:
        import cvxpy as cp

        return cp.vstack([self.symbol - self.low, self.high - self.symbol]) >= 0

    def set(self, era: int, rounding: float) -> None:
        slack = rounding * max(1.0, float(abs(self.values[era]).max()))
        self.low.value, self.high.value = self.values[era] - slack, self.values[era] + slack


@lru_cache(maxsize=64)
def _posed(term: CvxpyTerm, decision: CvxpyDecision) -> Any:
    """The problem of a term, checked; one for each decision, since objective and constraints may share variables.

    Raises:
        CostError: It is no convex problem in the decision.
    """
    problem = _built(term, decision)
    expected = f"build of {term.name}: expected a convex problem in decision.x"
    if problem.parameters():
        names = ", ".join(parameter.name() for parameter in problem.parameters())
        raise CostError(f"{expected} and in constants, got cvxpy.Parameter {names}; give them as numbers")
    if problem.is_mixed_integer():
        raise CostError(f"{expected}, got integer variables")
    if not problem.objective.is_dcp():
        raise CostError(f"{expected} by CVXPY's DCP rules, got the objective {problem.objective.expr}")
    for constraint in problem.constraints:
        if not constraint.is_dcp():
            raise CostError(f"{expected} by CVXPY's DCP rules, got the constraint {constraint}")
    read = {variable.id for variable in problem.variables()}
    if decision.x.id not in read:
        raise CostError(f"{expected}, got a problem that does not read it")
    for flag, part in (("reads_factors", decision.exposures), ("reads_previous", decision.previous)):
        if not getattr(term, flag) and getattr(part, "id", None) in read:
            raise CostError(f"{flag} of {term.name}: expected True, since build reads {part}, got False")
    return problem


def _built(term: CvxpyTerm, decision: CvxpyDecision) -> Any:
    """What ``build`` makes of a decision.

    Raises:
        CostError: It fails, or makes no problem that minimises.
    """
    import cvxpy as cp

    try:
        problem = term.build(decision)
    except Exception as error:  # whatever the user's code raises: it is told, with where it comes from
        raise CostError(
            f"build of {term.name}: expected a cvxpy.Problem for x of shape {list(decision.x.shape)}, "
            f"got {type(error).__name__}: {error}"
        ) from error
    if not isinstance(problem, cp.Problem) or not isinstance(problem.objective, cp.Minimize):
        got = "cvxpy.Problem that maximises" if isinstance(problem, cp.Problem) else repr(problem)
        raise CostError(f"build of {term.name}: expected a cvxpy.Problem that minimises, got {got}")
    return problem


class _Constant(torch.autograd.Function):
    """Numbers that depend on x, but have no derivative in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.reshape(x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> NoReturn:  # noqa: ARG004
        raise CostError(
            f"{CvxpyTerm.name}: expected no gradient through C(x), got a backward pass; detach x, "
            "as the aligned objective does"
        )


def _number(objective: Any) -> float:
    """The value of an objective, infinite where it is not defined."""
    import numpy as np

    with np.errstate(all="ignore"):
        value = objective.value
    return math.inf if value is None or np.isnan(value) else float(value)


def _largest(constraint: Any) -> float:
    """The largest violation of a constraint, of which CVXPY gives one for each entry or one in all."""
    import numpy as np

    with np.errstate(all="ignore"):
        largest = float(np.max(constraint.violation(), initial=0.0))
    return math.inf if math.isnan(largest) else largest
