"""The optimiser of members: torch's own, with a rate and a decay for each of them where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from alignray.configuration import require_above, require_at_least, require_one_of
from alignray.errors import ConfigurationError
from alignray.training.schedule import ScheduleConfig

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": partial(torch.optim.SGD, fused=True),
}
"""Every optimiser by name; the step of each is linear in its learning rate."""

_SCALER = "scaler"
_DECOUPLED = ("adamw",)
"""Those that shrink the weights themselves, rather than add to the gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """The optimiser.

    Attributes:
        name: A row of ``OPTIMISERS``.
        learning_rate: The step size, or one for each member; losses are means over eras and rows.
        weight_decay: Decay of the weights a step, as the optimiser defines it, or one for each member.
        gradient_clip: The largest gradient norm of a member; None leaves gradients as they are.
        schedule: How the learning rates change from step to step.
    """

    name: str = "adamw"
    learning_rate: float | tuple[float, ...] = 3e-3
    weight_decay: float | tuple[float, ...] = 1e-2
    gradient_clip: float | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        require_one_of("optimiser.name", self.name, OPTIMISERS)
        for name in ("learning_rate", "weight_decay"):
            if getattr(self, name) == ():
                raise ConfigurationError(f"optimiser.{name}: expected one number, or one for each member, got none")
        for rate in _each(self.learning_rate):
            require_above("optimiser.learning_rate", rate, 0)
        for decay in _each(self.weight_decay):
            require_at_least("optimiser.weight_decay", decay, 0)
        require_above("optimiser.gradient_clip", self.gradient_clip, 0)

    def require_members(self, members: int) -> None:
        """Check that what is given for each member is given for so many.

        Raises:
            ConfigurationError: It is not.
        """
        for name in ("learning_rate", "weight_decay"):
            values = getattr(self, name)
            if isinstance(values, tuple) and len(values) != members:
                raise ConfigurationError(
                    f"optimiser.{name}: expected one number, or one for each of {members} members, got {len(values)}"
                )


class MemberOptimiser:
    """Takes the steps of members whose parameters are stacked along a first axis.

    Args:
        config: The optimiser.
        parameters: Theirs, ``[R, ...]`` each.
        scaled: Whether gradients pass through float16, and are scaled so that they neither vanish nor overflow there.

    Raises:
        ConfigurationError: A learning rate or a decay is given for another number of members.
    """

    def __init__(self, config: OptimiserConfig, parameters: Mapping[str, Tensor], *, scaled: bool = False) -> None:
        self._parameters = list(parameters.values())
        members = len(self._parameters[0])
        config.require_members(members)
        self._config = config
        self._apart = isinstance(config.learning_rate, tuple) or isinstance(config.weight_decay, tuple)
        self._rate = max(_each(config.learning_rate))
        self._optimiser = OPTIMISERS[config.name](
            self._parameters, lr=self._rate, weight_decay=0.0 if self._apart else config.weight_decay
        )
        self._scaler = torch.amp.GradScaler(self._parameters[0].device.type, enabled=scaled)

        def of_each(values: float | tuple[float, ...]) -> list[Tensor]:
            stacked = torch.tensor(_each(values)).to(self._parameters[0]).expand(members)
            return [stacked.view(-1, *[1] * (value.dim() - 1)) for value in self._parameters]

        self._rates, self._decays = of_each(config.learning_rate), of_each(config.weight_decay)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for value in self._parameters:
            value.grad = None

    def scale(self, gradient: Tensor) -> Tensor:
        """The gradient in the predictions, as it is to be passed on to the parameters."""
        return self._scaler.scale(gradient)

    def step(self, share: float = 1.0) -> None:
        """Clip the gradients of each member, and take the step; none, where float16 has overflowed.

        Args:
            share: What the schedule leaves of the learning rates.
        """
        self._scaler.unscale_(self._optimiser)
        self._clip()
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * share
        if self._apart and not self._overflowed():
            self._step_apart(share)
        else:
            self._scaler.step(self._optimiser)
        self._scaler.update()

    def state(self) -> dict[str, Tensor]:
        """All that its future depends on, but for the parameters."""
        parts = {**self._optimiser.state_dict()["state"], _SCALER: self._scaler.state_dict()}
        return {
            f"{part}.{name}": torch.as_tensor(value).detach().clone()
            for part, entries in parts.items()
            for name, value in entries.items()
            if value is not None
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key] = value.clone()
        scaler = parts.pop(_SCALER, None)
        if scaler is not None:
            self._scaler.load_state_dict({name: value.item() for name, value in scaler.items()})
        entries = {int(index): values for index, values in parts.items()}
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": entries})

    def _overflowed(self) -> bool:
        """Whether float16 has overflowed: torch's own step is then none, and weights must not decay either."""
        gradients = [value.grad for value in self._parameters if value.grad is not None]
        return self._scaler.is_enabled() and not all(bool(grad.isfinite().all()) for grad in gradients)

    @torch.no_grad()
    def _step_apart(self, share: float) -> None:
        """A step at the largest rate, of which each member takes its part."""
        before = [value.detach().clone() for value in self._parameters]
        decoupled = self._config.name in _DECOUPLED
        for value, decay in zip(self._parameters, self._decays, strict=True):
            if not decoupled and value.grad is not None:
                value.grad.add_(decay * value)
        self._scaler.step(self._optimiser)
        for value, start, rate, decay in zip(self._parameters, before, self._rates, self._decays, strict=True):
            kept = 1 - share * rate * decay if decoupled else 1.0
            value.sub_(start).mul_(rate / self._rate).add_(start * kept)

    def _clip(self) -> None:
        clip = self._config.gradient_clip
        if clip is None:
            return
        gradients = [value.grad for value in self._parameters if value.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in gradients]).norm(dim=0)  # [R]
        scale = (clip / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
        for grad in gradients:
            grad.mul_(scale.reshape(-1, *([1] * (grad.dim() - 1))))


def _each(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)
