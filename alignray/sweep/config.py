"""The configuration of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import cast

from alignray.configuration import (
    flatten,
    replace_at,
    require_above,
    require_at_least,
    to_plain,
)
from alignray.data import Panel, Split, datasets, open_shards
from alignray.data.datasets.numerai import FEATURES, Part
from alignray.data.shards.manifest import MANIFEST
from alignray.errors import ConfigurationError, DataError
from alignray.imports import UserCode, absolute
from alignray.models import build_model
from alignray.objectives import OBJECTIVES
from alignray.search import SearchConfig, Space
from alignray.sweep.scheduling import SchedulerConfig
from alignray.tracking import without_password
from alignray.trial import TrialConfig

_FAMILY = "model.family"

_SMOKE = {
    "search.trials": 2,
    "search.initial_points": 2,
    "scheduler.grace_epochs": 1,
    "scheduler.perturb_every": 1,
    "trial.training.epochs": 3,  # one to warm up, one to ease the costs in, one of the arm as it is
    "trial.training.warmup_epochs": 1,
    "trial.training.annealing.epochs": 1,
    "trial.members": 2,
    "holdout.members": 2,
}
"""What a smoke run has at most."""
_SMOKE_SYNTHETIC = {"data.synthetic.eras": 48, "data.synthetic.rows": 500, "holdout.eras": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """The sizes of a made-up panel in Numerai's layout; see `alignray.datasets.synthetic`.

    Attributes:
        eras: Eras.
        rows: Rows of an era, at most.
        features: Features, which are the factors too.
        seed: Decides everything.
    """

    eras: int = 240
    rows: int = 500
    features: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least("data.synthetic.eras", self.eras, 1)
        require_at_least("data.synthetic.rows", self.rows, 2)
        require_at_least("data.synthetic.features", self.features, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The panel.

    Attributes:
        source: ``sp500``; ``synthetic``, which is made up; or the path of a file (parquet, Arrow, CSV), of a folder of
            shards (or its URL), or of Numerai's files.
        era: The era column of a file.
        target: Its target column; of Numerai's files, the target.
        features: The features of a file: names or patterns.
        factors: Its factors: names or patterns; None for the features themselves.
        id: Its column of row names, where it has one; None to read none.
        bins: The bins of its features that are floats; None leaves them as they are.
        feature_set: Of Numerai's files, the set of features.
        factor_set: Of Numerai's files, the set of factors; None for the features themselves.
        part: Of Numerai's files, which are read, in time order: ``train``, ``validation``.
        synthetic: The sizes of what is made up. Other sources leave it unread: a template that makes up its data until
            it is given some is given them by ``source`` alone.
        digest: The digest that the panel must have (`Panel.digest`); None for any.
    """

    source: str = "sp500"
    era: str = "era"
    target: str = "target"
    features: tuple[str, ...] = ("feature_*",)
    factors: tuple[str, ...] | None = None
    id: str | None = "id"
    bins: int | None = None
    feature_set: str = "small"
    factor_set: str | None = None
    part: tuple[Part, ...] = ("train",)
    synthetic: SyntheticConfig = SyntheticConfig()
    digest: str | None = None

    def __post_init__(self) -> None:
        if "://" in self.source and self.source != without_password(self.source):
            raise ConfigurationError(
                f"data.source: expected a URL without a password, for it is written down with the sweep, got "
                f"{without_password(self.source)!r} with one; fsspec takes it from the environment or its configuration"
            )

    def load(self) -> Panel:
        """Read the panel.

        Raises:
            ConfigurationError: The source is none, or a field is set that does not concern a source of its kind.
            DataError: The file or folder is missing, or lacks a column, or holds what cannot be used, or its content
                is not that of the digest.
        """
        panel = self._load()
        if self.digest is not None and panel.digest != self.digest:
            raise DataError(
                f"data.digest: expected {self.digest[:12]}…, got {panel.digest[:12]}… from {self.source}: its data are "
                "not those that this sweep was made for; put them back, or take these: --set data.digest=null"
            )
        return panel

    def _load(self) -> Panel:
        if self.source == "sp500":
            self._require_only("sp500")
            return datasets.sp500()
        if self.source == "synthetic":
            self._require_only("synthetic")
            sizes = self.synthetic
            return datasets.synthetic(
                num_eras=sizes.eras, rows=sizes.rows, num_features=sizes.features, seed=sizes.seed
            )
        if "://" in self.source:
            self._require_only("a URL of shards, which settle their columns")
            return open_shards(self.source)
        path = Path(self.source)
        if not path.exists() and "/" not in self.source and "." not in self.source:
            raise ConfigurationError(
                f"data.source: expected sp500, synthetic, or the path of a file, of a folder of shards or of "
                f"Numerai's files, got {self.source!r}"
            )
        if not path.is_dir():
            return self._load_file(path)
        if (path / MANIFEST).exists():
            self._require_only("a folder of shards, which settles its columns")
            return open_shards(path)
        if (path / FEATURES).exists():
            self._require_only("a folder of Numerai's files", "target", "feature_set", "factor_set", "part")
            return datasets.numerai(path, self.feature_set, self.target, part=self.part, factor_set=self.factor_set)
        raise DataError(
            f"{path}: a folder with neither {MANIFEST} nor {FEATURES}; expected the shards that `alignray data shard` "
            "writes, or the files that `alignray data numerai` downloads"
        )

    def _load_file(self, path: Path) -> Panel:
        self._require_only("a file", "era", "target", "features", "factors", "id", "bins")
        return Panel.from_file(
            path,
            era=self.era,
            target=self.target,
            features=list(self.features),
            factors=None if self.factors is None else list(self.factors),
            id=self.id,
            bins=self.bins,
        )

    def _require_only(self, kind: str, *names: str) -> None:
        """Raise ConfigurationError if a field is set that a source of this kind would silently ignore."""
        for field_ in fields(self):
            if (
                field_.name not in ("source", "synthetic", "digest", *names)
                and getattr(self, field_.name) != field_.default
            ):
                raise ConfigurationError(
                    f"data.{field_.name}: expected {field_.default!r}, its default, as data.source is {kind}, "
                    f"got {getattr(self, field_.name)!r}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceConfig:
    """What a trial runs on, and what it survives.

    Attributes:
        cpus_per_trial: Cores, or a share of one; of a trial of several workers, each has so many.
        gpus_per_trial: GPUs, or a share of one, likewise; 0 trains on the CPU.
        workers_per_trial: Processes that train a trial together, each on its own shards of the panel.
        max_concurrent: Trials at once, which a cluster that grows on demand grows to hold; None for as many as the
            cluster holds, also once it has grown.
        max_failures: Times a trial whose worker was lost is started again, from its last checkpoint.
        checkpoint_every: Epochs between checkpoints.
        checkpoints_kept: The last checkpoints of a trial that stay: where one is damaged, the one before it serves.
        time_budget_s: Seconds after which the search stops; None for no limit.
        gpu_hours: GPU-hours after which the search stops, counted as its time × the GPUs that its trials can hold at
            its start; they hold no more later. None for no limit.
        spool_limit_mb: MB of events that wait for MLflow on disk; beyond, trials wait too.
    """

    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    workers_per_trial: int = 1
    max_concurrent: int | None = None
    max_failures: int = 3
    checkpoint_every: int = 5
    checkpoints_kept: int = 2
    time_budget_s: float | None = None
    gpu_hours: float | None = None
    spool_limit_mb: float = 1_000.0

    def __post_init__(self) -> None:
        require_above("resources.cpus_per_trial", self.cpus_per_trial, 0)
        require_at_least("resources.gpus_per_trial", self.gpus_per_trial, 0)
        require_at_least("resources.workers_per_trial", self.workers_per_trial, 1)
        require_at_least("resources.max_concurrent", self.max_concurrent, 1)
        require_at_least("resources.max_failures", self.max_failures, 0)
        require_at_least("resources.checkpoint_every", self.checkpoint_every, 1)
        require_at_least("resources.checkpoints_kept", self.checkpoints_kept, 1)
        require_above("resources.time_budget_s", self.time_budget_s, 0)
        require_above("resources.spool_limit_mb", self.spool_limit_mb, 0)
        if self.gpu_hours is not None and not (self.gpu_hours > 0 and self.gpus_per_trial > 0):
            raise ConfigurationError(
                f"resources.gpu_hours: expected a number above 0 and trials on GPUs, got {self.gpu_hours} with "
                f"resources.gpus_per_trial={self.gpus_per_trial}"
            )

    @property
    def threads(self) -> int:
        """Threads of each of a trial's workers."""
        return max(1, int(self.cpus_per_trial))

    @property
    def needs(self) -> dict[str, float]:
        """What a trial needs, all its workers together, by Ray's names: ``CPU`` and ``GPU``, where it needs any."""
        each = {"CPU": self.cpus_per_trial, "GPU": self.gpus_per_trial}
        return {kind: self.workers_per_trial * amount for kind, amount in each.items() if amount}

    def slots(self, there: Mapping[str, float]) -> int:
        """How many trials fit at once where there is so much, by Ray's names; 1 too where not one fits."""
        slots = [there.get(kind, 0.0) / amount for kind, amount in self.needs.items()]
        if self.max_concurrent is not None:
            slots.append(self.max_concurrent)
        return max(1, int(min(slots)))


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldoutConfig:
    """The sealed last eras, and the models that are scored on them once.

    Attributes:
        eras: Eras sealed.
        members: Members of each arm's final model.
        seed: Their seed, other than that of the search.
        level: The confidence level of the intervals.
    """

    eras: int
    members: int = 8
    seed: int = 1
    level: float = 0.95

    def __post_init__(self) -> None:
        require_at_least("holdout.eras", self.eras, 1)
        require_at_least("holdout.members", self.members, 1)
        if not 0 < self.level < 1:
            raise ConfigurationError(f"holdout.level: expected a number between 0 and 1, got {self.level}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """A sweep: every number that its result depends on.

    Attributes:
        template: The template's name.
        data: The panel.
        trial: The trial that the space varies.
        space: What varies.
        holdout: The sealed eras.
        arms: The objectives compared, each with the same budget.
        search: How the space is searched.
        scheduler: How poor trials are stopped.
        resources: What a trial runs on.
        imports: Your own code that this names: modules, or files, ``(__file__,)`` say. It is imported on every worker,
            and again when the sweep is gone on with, unchanged; a file becomes the module that it is called after.
    """

    template: str
    data: DataConfig = field(default_factory=DataConfig)
    trial: TrialConfig
    space: Space
    holdout: HoldoutConfig
    arms: tuple[str, ...] = tuple(OBJECTIVES)
    search: SearchConfig = field(default_factory=SearchConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "imports", absolute(self.imports))
        UserCode.of(self.imports).load()
        for arm in self.arms:
            if arm not in OBJECTIVES:
                raise ConfigurationError(f"arms: expected some of {', '.join(OBJECTIVES)}, got {arm!r}")
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ConfigurationError(f"arms: expected at least one, each once, got {list(self.arms)}")
        if self.holdout.seed == self.trial.seed:
            raise ConfigurationError(
                f"holdout.seed: expected another seed than trial.seed, got {self.holdout.seed} for both; "
                "the final models must not be those that the search selected"
            )
        if self.trial.members_differ:
            raise ConfigurationError(
                "trial: expected one learning rate, weight decay and cost strength for all members of a sweep, whose "
                "final models are other members; got one for each"
            )
        self.space.require_fit(self.trial)
        self.search.require_space(self.space)
        if self.search.metrics and self.trial.scoring.metric not in self.search.metrics:
            raise ConfigurationError(
                f"search.metrics: expected {self.trial.scoring.metric!r} among them, which trial.scoring goes by, got "
                f"{', '.join(self.search.metrics)}"
            )
        if self.search.paired and self.scheduler.name != "fifo":
            raise ConfigurationError(
                f"scheduler.name: expected fifo, as search.paired compares whole trials; got {self.scheduler.name!r}, "
                "which stops an arm's trial and lets another arm's go on"
            )
        self.scheduler.require_search(self.trial, self.space, self.search)
        if self.scheduler.name == "pbt" and self.resources.workers_per_trial > 1:
            raise ConfigurationError(
                f"resources.workers_per_trial: expected 1, as scheduler.name is pbt, under which a trial is begun and "
                f"ended many times; got {self.resources.workers_per_trial}"
            )
        for name in ("sobolev", "own_order"):
            asked = getattr(self.trial.training, name) or f"training.{name}" in self.space.distributions
            if asked and self.resources.workers_per_trial > 1:
                raise ConfigurationError(
                    f"resources.workers_per_trial: expected 1 for trials with training.{name}, of which no worker has "
                    f"the whole; got {self.resources.workers_per_trial}"
                )

    @property
    def base(self) -> TrialConfig:
        """The trial that proposals vary: under ``pbt`` one that does not stop early."""
        return self.scheduler.base(self.trial)

    def smoke(self) -> SweepConfig:
        """The same sweep with numbers so small that it shows in seconds whether every step runs, and nothing else.

        Arms, space, folds and data stay, but for data that are made up: of those there are fewer eras and rows.
        """
        plain = flatten(to_plain(self))
        most = _SMOKE | (_SMOKE_SYNTHETIC if self.data.source == "synthetic" else {})
        return replace_at(self, {path: min(cast("int", plain[path]), value) for path, value in most.items()})

    @property
    def searched_metrics(self) -> tuple[str, ...]:
        """The metrics that the search goes by, the scored one first."""
        return tuple(dict.fromkeys((self.trial.scoring.metric, *self.search.metrics)))

    def split(self, num_eras: int) -> Split:
        """The folds and the holdout of a panel of so many eras.

        Raises:
            InvalidArgumentError: The panel is too short, or the folds of ``blocked`` are too few.
        """
        return self.trial.split.cut(num_eras, holdout=self.holdout.eras)

    def require_models(self, num_features: int) -> None:
        """Check that the networks of one's own that trials may have can be imported and built, before any trial starts.

        Raises:
            ConfigurationError: One cannot.
        """
        varied = self.space.distributions.get(_FAMILY)
        families = {self.trial.model.family, *(map(str, varied.extremes()) if varied else ())}
        for family in sorted(families):
            model = replace(self.trial.model, family=family)
            if model.is_own:
                build_model(model, num_features, seed=self.trial.seed)
