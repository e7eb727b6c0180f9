"""Members: replicas of one network that differ by their seed, trained together as one vectorised model."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from alignray.errors import ConfigurationError, InvalidArgumentError
from alignray.models import ModelConfig, build_model, sees_era

_ROWS_AT_ONCE = 1 << 12
"""The rows that a CPU runs through a network at a time: enough to make little of what each operation costs beside its
arithmetic, few enough that what one layer writes is in the cache for the next. Members share an operation up to here,
and go one after another beyond, where ``vmap`` has nothing left to save and its products of matrices are the slower."""


class Members:
    """R replicas of one network, their parameters stacked along a first axis.

    Args:
        config: The network.
        num_features: d, the features of a row.
        seeds: One seed a member, for its initial weights.
        device: Where the parameters live.

    Attributes:
        parameters: The stacked parameters ``[R, ...]`` by name.
        sees_era: Whether a row's prediction depends on the rest of its era, see `alignray.models.sees_era`.

    Raises:
        ConfigurationError: A network of your own cannot be built, has buffers, or does not give one number a row.
    """

    def __init__(self, config: ModelConfig, num_features: int, seeds: Sequence[int], device: torch.device) -> None:
        if not seeds:
            raise InvalidArgumentError("seeds: expected at least one, one a member; got none")
        models = [build_model(config, num_features, seed=seed) for seed in seeds]
        stacked, buffers = torch.func.stack_module_state(models)
        self.parameters: dict[str, Tensor] = {
            name: value.detach().to(device).requires_grad_() for name, value in stacked.items()
        }
        self.sees_era = sees_era(models[0])
        self._alive: Tensor | None = None
        canonical: dict[int, str] = {}  # a parameter that two layers share has one name among the stacked ones
        names = {
            name: canonical.setdefault(id(value), name)
            for name, value in models[0].named_parameters(remove_duplicate=False)
        }
        self._skeleton = models[0].to("meta")
        self._places = [
            (self._skeleton.get_submodule(name.rpartition(".")[0])._parameters, name.rpartition(".")[2], stacked_name)
            for name, stacked_name in names.items()
        ]
        self._draws = config.dropout > 0 or config.is_own  # seeding costs, where nothing is random, a tenth of a step
        if config.is_own:
            self._require_fit(config.family, num_features, [*buffers])

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def __call__(
        self, features: Tensor, present: Tensor | None = None, *, seed: int | None = None, apart: bool = False
    ) -> Tensor:
        """Predictions of every member.

        Args:
            features: ``[..., n, d]``.
            present: Rows that exist ``[..., n]``, or None for all. A network that looks across the rows of an era sees
                no others.
            seed: In training, seeds what each member drops out, and nothing else does: the same step of a resumed run
                drops the same. None drops nothing: that is how members are scored.
            apart: Whether each member has rows of its own: features ``[R, ..., n, d]``, and present likewise.

        Returns:
            ``[R, ..., n]``.
        """
        if self._skeleton.training is not (seed is not None):
            self._skeleton.train(seed is not None)
        if seed is None or not self._draws:
            return self._run(features, present, apart=apart).squeeze(-1)
        with _seeded(seed, features.device):
            return self._run(features, present, apart=apart).squeeze(-1)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(iter(self.parameters.values())).device

    @property
    def alive(self) -> Tensor:
        """The members that have not been lost, bool ``[R]``."""
        if self._alive is None:
            finite = [value.detach().flatten(1).isfinite().all(1) for value in self.parameters.values()]
            self._alive = torch.stack(finite).all(0)
        return self._alive

    def lose(self, members: Sequence[int]) -> None:
        """Part with members that have diverged: their parameters become NaN, and so do their predictions."""
        with torch.no_grad():
            for value in self.parameters.values():
                value[list(members)] = torch.nan
        self._alive = None

    def living(self) -> Members:
        """Those that have not been lost."""
        alive = self.alive
        return self if bool(alive.all()) else self.of({name: value[alive] for name, value in self.parameters.items()})

    def of(self, parameters: Mapping[str, Tensor]) -> Members:
        """Members of the same network with other parameters, which are not copied."""
        others = copy.copy(self)
        others.parameters, others._alive = dict(parameters), None
        return others

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take parameters over.

        Raises:
            InvalidArgumentError: A parameter is missing, left over, or of another shape.
        """
        if set(state) != set(self.parameters):
            raise InvalidArgumentError(f"state: expected parameters {sorted(self.parameters)}, got {sorted(state)}")
        with torch.no_grad():
            for name, value in self.parameters.items():
                if state[name].shape != value.shape:
                    raise InvalidArgumentError(
                        f"state: expected {name} of shape {list(value.shape)}, got {list(state[name].shape)}"
                    )
                value.copy_(state[name])
        self._alive = None

    def _require_fit(self, family: str, num_features: int, buffers: Sequence[str]) -> None:
        """Check a network of the user's own on two eras of three rows."""
        if not self.parameters or buffers:
            raise ConfigurationError(
                f"model.family: expected {family!r} to have parameters and no buffers (batch normalisation has them), "
                f"got {len(self.parameters)} parameters and the buffers {', '.join(buffers) or 'none'}"
            )
        features = torch.zeros(2, 3, num_features, device=next(iter(self.parameters.values())).device)
        expected = f"model.family: expected {family!r} to give predictions [2, 3, 1] of features {list(features.shape)}"
        try:
            with torch.no_grad():
                found = self._run(features, features.new_ones(2, 3, dtype=torch.bool))
        except Exception as error:  # the code of which nothing is known
            reason = " ".join(str(error).split())
            raise ConfigurationError(f"{expected}, got {type(error).__name__}: {reason}") from error
        if found.shape != (len(self), 2, 3, 1):
            raise ConfigurationError(f"{expected}, one number a row, got {list(found.shape[1:])}")

    def _run(self, features: Tensor, present: Tensor | None, *, apart: bool = False) -> Tensor:
        """Predictions ``[R, ..., n, 1]``."""
        given: tuple[Tensor | None, ...] = (features, present) if self.sees_era else (features,)
        rows = math.prod(features.shape[1 if apart else 0 : -1])
        large = features.device.type == "cpu" and rows > _ROWS_AT_ONCE
        if len(self) > 1 and not large:
            own = tuple(0 if apart and value is not None else None for value in given)
            return torch.func.vmap(self._called, in_dims=(0, own), randomness="different")(self.parameters, given)
        run = self._in_blocks if large else self._called
        predictions = []
        for member, values in enumerate(zip(*(value.unbind() for value in self.parameters.values()), strict=True)):
            rows_of_it = tuple(None if value is None else value[member] for value in given) if apart else given
            predictions.append(run(dict(zip(self.parameters, values, strict=True)), rows_of_it))
        return torch.stack(predictions)

    def _in_blocks(self, parameters: Mapping[str, Tensor], given: tuple[Tensor | None, ...]) -> Tensor:
        """As `_called`, a few eras at a time."""
        features = cast("Tensor", given[0])
        if features.dim() < 3:
            return self._called(parameters, given)
        eras = max(1, _ROWS_AT_ONCE // features.shape[-2])
        blocks: list[Iterable[Tensor | None]] = [
            itertools.repeat(None) if value is None else value.flatten(0, axis).split(eras)
            for value, axis in zip(given, (-3, -2), strict=False)
        ]
        predictions = [self._called(parameters, block) for block in zip(*blocks, strict=False)]
        return torch.cat(predictions).reshape(*features.shape[:-1], 1)

    def _called(self, parameters: Mapping[str, Tensor], given: tuple[Tensor | None, ...]) -> Tensor:
        """The network with some parameters: `torch.func.functional_call`, whose generality costs a small one dear."""
        for layer, key, name in self._places:
            layer[key] = cast("nn.Parameter", parameters[name])
        try:
            return cast("Tensor", self._skeleton(*given))
        finally:
            for layer, key, _ in self._places:
                layer[key] = None  # so that nothing of a call outlives it


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A seed for what is random inside, the global random state left as it was."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed % 2**63)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed % 2**63)
        yield
