"""Samplers: where in a space the next trial is.

Each proposes from a seed, a trial's number and the trials that it may look at, and from nothing else.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from alignray.errors import ConfigurationError
from alignray.search.space import Choice, Space, Value

_MOST_GRID_POINTS = 100_000


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the space.

    Attributes:
        values: Values by the dotted path of the field.
        memory: What the sampler wants to find again in this trial when it proposes a later one.
    """

    values: Mapping[str, Value]
    memory: Mapping[str, Any] = field(default_factory=dict)


class Sampler(ABC):
    """Proposes the points of one arm.

    Args:
        space: The space.
        seed: Decides, with a trial's number, all that is drawn.
        template: The template's own point of the space, or what of it lies in the space: the first trial.
        initial_points: How many trials, the first ones, are at the template and at random points.
        grid_points: See `SearchConfig`.
        directions: Of the metrics.
    """

    learns: ClassVar[bool] = False
    """Whether proposals depend on how other trials ended."""
    learns_from_past: ClassVar[bool] = False
    """Whether proposals depend on the trials of an earlier search, too."""
    several_metrics: ClassVar[bool] = True
    """Whether it can search by several metrics at once."""

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        template: Mapping[str, Value],
        initial_points: int,
        grid_points: int,
        directions: Sequence[StudyDirection],
    ) -> None:
        self.space, self.seed, self.template = space, seed, template
        self.initial_points, self.grid_points, self.directions = initial_points, grid_points, directions

    @classmethod
    def points(cls, space: Space, grid_points: int) -> int | None:  # noqa: ARG003
        """How many different points it can propose, None without a bound.

        Raises:
            ConfigurationError: It cannot search such a space.
        """
        return None

    def looks_back(self, number: int) -> bool:
        """Whether the point of a trial depends on how other trials ended."""
        return self.learns and number >= self.initial_points

    @abstractmethod
    def propose(self, number: int, history: Sequence[FrozenTrial]) -> Point:
        """The point of a trial.

        Args:
            number: The trial's number.
            history: The trials that it may look at: those that have ended, and those that it is to take for running.
        """

    def _random(self, number: int) -> Point:
        units = np.random.default_rng((self.seed, number)).random(len(self.space.distributions))
        return Point(self.space.at(units.tolist(), self.template if number == 0 else {}))


class Random(Sampler):
    """Every point at random."""

    def propose(self, number: int, history: Sequence[FrozenTrial]) -> Point:  # noqa: ARG002
        """See `Sampler.propose`."""
        return self._random(number)


class QuasiRandom(Sampler):
    """After the template a scrambled Sobol' sequence, which fills a space more evenly than chance does.

    A field with a condition has a dimension of its own, which is not read where the field does not exist.
    """

    def propose(self, number: int, history: Sequence[FrozenTrial]) -> Point:  # noqa: ARG002
        """See `Sampler.propose`."""
        if number == 0 or not self.space.distributions:
            return self._random(number)
        from scipy.stats.qmc import Sobol

        sequence = Sobol(len(self.space.distributions), rng=np.random.default_rng(self.seed))
        if number > 1:  # SciPy 1.17 cannot go forward by 0
            sequence.fast_forward(number - 1)
        (units,) = sequence.random(1)
        return Point(self.space.at(units.tolist(), {}))


class Grid(Sampler):
    """Every combination of values once, in an order that the seed decides."""

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(space, **options)
        grid = space.grid(self.grid_points, _MOST_GRID_POINTS)
        self._points = [grid[index] for index in np.random.default_rng(self.seed).permutation(len(grid))]

    @classmethod
    def points(cls, space: Space, grid_points: int) -> int | None:
        """See `Sampler.points`."""
        return len(space.grid(grid_points, _MOST_GRID_POINTS))

    def propose(self, number: int, history: Sequence[FrozenTrial]) -> Point:  # noqa: ARG002
        """See `Sampler.propose`."""
        return Point(self._points[number])


class Learning(Sampler):
    """A sampler of Optuna, made anew for each trial, in a study that holds the history and nothing else."""

    learns = learns_from_past = True
    everywhere_only: ClassVar[bool] = False
    """Whether it looks only at the fields that exist at every point; it draws the others at random."""

    def propose(self, number: int, history: Sequence[FrozenTrial]) -> Point:
        """See `Sampler.propose`."""
        if not self.looks_back(number):
            return self._random(number)
        with warnings.catch_warnings():
            # Of options that Optuna may yet rename; that it will, a test of the samplers would tell.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.optuna_sampler(self.seed * 1_000_003 + number)
        study = optuna.create_study(directions=self.directions, sampler=sampler)
        study.add_trials(map(self._seen, history))
        trial = study.ask()
        values = self.space.suggest(trial)
        return Point(values, study.get_trials(deepcopy=False)[-1].system_attrs)

    def _seen(self, trial: FrozenTrial) -> FrozenTrial:
        seen = copy.copy(trial)
        seen.__class__ = _Seen
        if len(self.directions) > 1:
            seen.intermediate_values = {}  # of one metric alone; Optuna's TPE stops at a pruned trial that has some
        if self.everywhere_only:
            # Left to itself, Optuna takes the fields that all trials so far had: their number would change on the way.
            seen.params = {path: value for path, value in trial.params.items() if path in self.space.everywhere}
            seen.distributions = {path: trial.distributions[path] for path in seen.params}
        return seen

    @classmethod
    @abstractmethod
    def optuna_sampler(cls, seed: int) -> optuna.samplers.BaseSampler:
        """Optuna's sampler."""


class _Seen(FrozenTrial):
    """A trial that a sampler looks at. Optuna copies all of them for every proposal; that need not go deep."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        return copy.copy(self)


class Tpe(Learning):
    """Tree-structured Parzen estimators, in which fields that exist together are drawn together."""

    @classmethod
    def optuna_sampler(cls, seed: int) -> optuna.samplers.BaseSampler:
        """See `Learning.optuna_sampler`."""
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, group=True)


class GaussianProcess(Learning):
    """A Gaussian process over the fields that exist at every point; the others are drawn at random."""

    everywhere_only = True

    @classmethod
    def optuna_sampler(cls, seed: int) -> optuna.samplers.BaseSampler:
        """See `Learning.optuna_sampler`."""
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)


class CmaEs(Learning):
    """CMA-ES over the numbers that exist at every point; the other fields are drawn at random."""

    everywhere_only = True
    learns_from_past = False  # its generations are of trials that it proposed itself
    several_metrics = False

    @classmethod
    def points(cls, space: Space, grid_points: int) -> int | None:  # noqa: ARG003
        """See `Sampler.points`."""
        if all(isinstance(distribution, Choice) for distribution in space.everywhere.values()):
            raise ConfigurationError(
                "search.sampler: expected another than cmaes, as the space has no number that exists at every point"
            )
        return None

    @classmethod
    def optuna_sampler(cls, seed: int) -> optuna.samplers.BaseSampler:
        """See `Learning.optuna_sampler`."""
        return _RetoldCmaEs(seed=seed, n_startup_trials=0, warn_independent_sampling=False)


class _RetoldCmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's CMA-ES, which tells a new distribution every generation to come to the present one.

    Optuna pickles the distribution into the study, and unpickles what it finds there: whoever can write to the studies
    could run code by it. Of a generation only the number is kept here.
    """

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._searched, self._sign = search_space, 1 if study.directions[0] == StudyDirection.MINIMIZE else -1
        return super().sample_relative(study, trial, search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        space = _SearchSpaceTransform(self._searched, transform_0_1=True)
        drawn = self._cma_rng.rng.get_state()
        optimizer = self._init_optimizer(space, StudyDirection.NOT_SET)  # which only a warm start asks for
        size = optimizer.population_size
        while len(told := self._get_solution_trials(completed_trials, optimizer.generation)) >= size:
            optimizer.tell(
                [(space.transform(trial.params), self._sign * (trial.value or 0.0)) for trial in told[:size]]
            )
        if any(trial.system_attrs.get(self._attr_key_generation) for trial in completed_trials):
            self._cma_rng.rng.set_state(drawn)  # Optuna, which finds the distribution made, draws nothing for it
        return optimizer


SAMPLERS: dict[str, type[Sampler]] = {
    "tpe": Tpe,
    "cmaes": CmaEs,
    "gp": GaussianProcess,
    "random": Random,
    "qmc": QuasiRandom,
    "grid": Grid,
}
"""Every sampler by name."""
