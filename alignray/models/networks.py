"""The families of networks, one builder each, and the configuration that chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignray.configuration import require_above, require_at_least, require_one_of

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
"""Every activation by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A network.

    Attributes:
        family: A row of ``MODELS``.
        depth: Hidden layers (``mlp``) or residual blocks (``resmlp``); ``linear`` has none.
        width: Units of a hidden layer.
        activation: A row of ``ACTIVATIONS``.
        output_scale: Multiplies the initial weights of the last layer. An aligned objective needs predictions that
            start outside the solver's dead zone.
    """

    family: str = "mlp"
    depth: int = 2
    width: int = 32
    activation: str = "silu"
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        require_one_of("model.family", self.family, MODELS)
        require_one_of("model.activation", self.activation, ACTIVATIONS)
        require_at_least("model.depth", self.depth, 1)
        require_at_least("model.width", self.width, 1)
        require_above("model.output_scale", self.output_scale, 0)


class Residual(nn.Module):
    """``x + block(x)``: one block of a residual network, widths unchanged."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width] → [..., width]``."""
        response: Tensor = self.block(x)
        return x + response


def _linear(config: ModelConfig, num_features: int) -> list[nn.Module]:  # noqa: ARG001
    return [nn.Linear(num_features, 1)]


def _mlp(config: ModelConfig, num_features: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for depth in range(config.depth):
        layers += [
            nn.Linear(config.width if depth else num_features, config.width),
            ACTIVATIONS[config.activation](),
        ]
    return [*layers, nn.Linear(config.width, 1)]


def _resmlp(config: ModelConfig, num_features: int) -> list[nn.Module]:
    def block() -> nn.Module:
        norm, inner = nn.LayerNorm(config.width), nn.Linear(config.width, config.width)
        return Residual(nn.Sequential(norm, inner, ACTIVATIONS[config.activation]()))

    entry = nn.Linear(num_features, config.width)
    return [entry, *(block() for _ in range(config.depth)), nn.Linear(config.width, 1)]


MODELS: dict[str, Callable[[ModelConfig, int], list[nn.Module]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "resmlp": _resmlp,
}
"""Every family, by name: a builder of its layers, the last of them a ``Linear`` to one number a row."""


def build_model(config: ModelConfig, num_features: int, *, seed: int) -> nn.Module:
    """A network with its initial weights.

    Args:
        config: Which network.
        num_features: d, the features of a row.
        seed: Seeds the initial weights, and nothing else: the global random state is left as it was.

    Returns:
        A module ``[..., d] → [..., 1]``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds every GPU as well
        layers = MODELS[config.family](config, num_features)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(config.output_scale)
    return nn.Sequential(*layers)
