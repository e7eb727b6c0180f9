"""Members: replicas of one network that differ by their seed, trained together as one vectorised model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from alignray.errors import InvalidArgumentError
from alignray.models import ModelConfig, build_model


class Members:
    """R replicas of one network, their parameters stacked along a first axis and run by ``vmap``.

    Args:
        config: The network.
        num_features: d, the features of a row.
        seeds: One seed a member, for its initial weights.
        device: Where the parameters live.
    """

    def __init__(self, config: ModelConfig, num_features: int, seeds: Sequence[int], device: torch.device) -> None:
        if not seeds:
            raise InvalidArgumentError("seeds: expected at least one, one a member; got none")
        models = [build_model(config, num_features, seed=seed) for seed in seeds]
        stacked, _ = torch.func.stack_module_state(models)  # the networks have no buffers
        self.parameters: dict[str, Tensor] = {
            name: value.detach().to(device).requires_grad_() for name, value in stacked.items()
        }
        self._skeleton = models[0].to("meta")

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def __call__(self, features: Tensor) -> Tensor:
        """Predictions ``[R, ..., n]`` of every member from features ``[..., n, d]``."""

        def predict(parameters: dict[str, Tensor]) -> Tensor:
            return cast("Tensor", torch.func.functional_call(self._skeleton, parameters, (features,)))

        return torch.func.vmap(predict)(self.parameters).squeeze(-1)

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
