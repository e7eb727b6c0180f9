"""How a space is searched."""

from __future__ import annotations

from dataclasses import dataclass

from alignray.configuration import require_at_least, require_one_of
from alignray.errors import ConfigurationError
from alignray.search.samplers import SAMPLERS
from alignray.search.space import Space
from alignray.search.storage import require_storage
from alignray.trial import METRICS


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How the space is searched.

    Attributes:
        trials: Trials of each arm.
        sampler: A row of ``SAMPLERS``.
        initial_points: Trials of each arm, the first ones, at points that are the same for every arm: the template's
            own values, then random ones. Only ``grid`` has none: its points are the same for every arm all along.
        seed: Seeds the points and the sampler.
        lag: A trial is proposed from how exactly those trials of its arm ended that are numbered so many before it or
            more, whatever else has ended: proposals do not depend on which trial ended first. 1 proposes an arm's
            trials one after the other; 0 waits for none and looks at whatever has ended. None for what suits the
            cluster's size where the sweep begins: see docs/search.md.
        storage: ``postgresql://USER@HOST:PORT/DATABASE``, without the password, which PGPASSWORD or ~/.pgpass gives;
            None for the file ``optuna.journal`` in the sweep's folder.
        metrics: Rows of ``METRICS`` that have a better and a worse, to be searched all at once; the metric of
            ``trial.scoring`` among them, which early stopping, the scheduler and the final models go by. Empty for that
            one alone.
        paired: Whether every configuration is trained under every arm, so that arms can be compared configuration by
            configuration: for samplers that do not learn, and a scheduler that stops none.
        grid_points: Values that ``grid`` tries of a field of numbers, evenly spaced from end to end.
    """

    trials: int = 8
    sampler: str = "tpe"
    initial_points: int = 4
    seed: int = 0
    lag: int | None = None
    storage: str | None = None
    metrics: tuple[str, ...] = ()
    grid_points: int = 5
    paired: bool = False

    def __post_init__(self) -> None:
        require_at_least("search.trials", self.trials, 1)
        require_one_of("search.sampler", self.sampler, SAMPLERS)
        require_at_least("search.initial_points", self.initial_points, 1)
        require_at_least("search.seed", self.seed, 0)
        require_at_least("search.lag", self.lag, 0)
        require_storage(self.storage)
        require_at_least("search.grid_points", self.grid_points, 1)
        self._require_metrics()
        if self.paired and SAMPLERS[self.sampler].learns:
            blind = ", ".join(name for name, sampler in SAMPLERS.items() if not sampler.learns)
            raise ConfigurationError(
                f"search.sampler: expected one of {blind}, as search.paired asks for the same points in every arm; "
                f"{self.sampler!r} learns from how each arm's trials end"
            )

    def _require_metrics(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS or not METRICS[metric].direction:
                known = ", ".join(name for name, found in METRICS.items() if found.direction)
                raise ConfigurationError(f"search.metrics: expected some of {known}, got {metric!r}")
        if self.metrics and (len(self.metrics) < 2 or len(set(self.metrics)) < len(self.metrics)):
            raise ConfigurationError(
                f"search.metrics: expected at least two, each once, or none for that of trial.scoring; got "
                f"{', '.join(self.metrics)}"
            )
        if self.metrics and not SAMPLERS[self.sampler].several_metrics:
            several = ", ".join(name for name, sampler in SAMPLERS.items() if sampler.several_metrics)
            raise ConfigurationError(
                f"search.sampler: expected one of {several}, as search.metrics has several; got {self.sampler!r}, "
                "which searches by one"
            )

    def require_space(self, space: Space) -> None:
        """Check that the sampler can search the space, for so many trials.

        Raises:
            ConfigurationError: It cannot.
        """
        points = SAMPLERS[self.sampler].points(space, self.grid_points)
        if points is not None and self.trials > points:
            raise ConfigurationError(
                f"search.trials: expected at most {points}, the points of the space's grid, got {self.trials}; set it "
                "to that, or search.grid_points higher"
            )
