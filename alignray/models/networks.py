"""The families of networks, one builder each, and the configuration that chooses among them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

import torch
from torch import nn

from alignray.configuration import require_above, require_at_least, require_one_of
from alignray.errors import ConfigurationError
from alignray.models.layers import AdaptedLinear, CodeEmbedding, EraBlock, EraSequential, MeanOfHeads, Residual

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh, "gelu": nn.GELU}
"""Every activation by name."""

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),  # noqa: ARG005
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}
"""Every normalisation by name: of a row's hidden units. None is over rows, whose statistics members would share."""

POOLINGS = ("mean", "attention")
"""How ``cross`` sums an era up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TabmConfig:
    """What ``tabm`` alone has.

    Attributes:
        copies: k, the networks that share their weights, and whose predictions are averaged.
    """

    copies: int = 8

    def __post_init__(self) -> None:
        require_at_least("model.tabm.copies", self.copies, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossConfig:
    """What ``cross`` alone has.

    Attributes:
        pooling: A row of ``POOLINGS``: every row of the era counts the same, or as a learned function of it says.
        heads: The learned weightings of ``attention``; ``mean`` has none.
    """

    pooling: str = "mean"
    heads: int = 2

    def __post_init__(self) -> None:
        require_one_of("model.cross.pooling", self.pooling, POOLINGS)
        require_at_least("model.cross.heads", self.heads, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A network.

    A field that a family has no use for is left unread, so that a search may vary the family.

    Attributes:
        family: A row of ``MODELS``; or ``package.module:Name``, a class or function of your own that is called with
            this configuration and the number of features, and returns a module, see `build_model`.
        depth: Hidden layers (``mlp``, ``tabm``) or residual blocks (``resmlp``, ``cross``); ``linear`` has none.
        width: Units of a hidden layer.
        activation: A row of ``ACTIVATIONS``.
        normalisation: A row of ``NORMS``, in every hidden layer; None for the family's own: ``layer`` in ``resmlp`` and
            ``cross``, ``none`` in ``mlp`` and ``tabm``.
        dropout: The share of the hidden units that each step of training leaves out, from 0 to below 1.
        residual: Whether hidden layers of ``mlp`` and ``tabm``, after the first, add to what they are given; those of
            ``resmlp`` and ``cross`` always do.
        embedding: The numbers that each code of each feature becomes before the first layer, see `CodeEmbedding`; 0
            reads features as they are. For features that are codes of five bins.
        output_scale: Multiplies the initial weights of the last layer. An aligned objective needs predictions that
            start outside the solver's dead zone.
        tabm: What ``tabm`` alone has.
        cross: What ``cross`` alone has.
    """

    family: str = "mlp"
    depth: int = 2
    width: int = 32
    activation: str = "silu"
    normalisation: str | None = None
    dropout: float = 0.0
    residual: bool = False
    embedding: int = 0
    output_scale: float = 1.0
    tabm: TabmConfig = field(default_factory=TabmConfig)
    cross: CrossConfig = field(default_factory=CrossConfig)

    def __post_init__(self) -> None:
        if not self.is_own:
            require_one_of("model.family", self.family, [*MODELS, "package.module:Name"])
        require_one_of("model.activation", self.activation, ACTIVATIONS)
        if self.normalisation is not None:
            require_one_of("model.normalisation", self.normalisation, NORMS)
        require_at_least("model.depth", self.depth, 1)
        require_at_least("model.width", self.width, 1)
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"model.dropout: expected a number from 0 to below 1, got {self.dropout}")
        require_at_least("model.embedding", self.embedding, 0)
        require_above("model.output_scale", self.output_scale, 0)

    @property
    def is_own(self) -> bool:
        """Whether the family is the user's own, named by where it is imported from."""
        module, _, name = self.family.partition(":")
        return all(part.isidentifier() for part in module.split(".")) and name.isidentifier()


def _linear(config: ModelConfig, inputs: int) -> list[nn.Module]:  # noqa: ARG001
    return [nn.Linear(inputs, 1)]


def _mlp(config: ModelConfig, inputs: int) -> list[nn.Module]:
    sizes = [inputs] + [config.width] * config.depth
    layers = [nn.Linear(before, config.width) for before in sizes[:-1]]
    return [*_hidden(config, layers), nn.Linear(config.width, 1)]


def _resmlp(config: ModelConfig, inputs: int) -> list[nn.Module]:
    def block() -> nn.Module:
        inner = nn.Linear(config.width, config.width)
        return Residual(nn.Sequential(_norm(config, "layer"), inner, *_response(config)))

    entry = nn.Linear(inputs, config.width)
    return [entry, *(block() for _ in range(config.depth)), nn.Linear(config.width, 1)]


def _tabm(config: ModelConfig, inputs: int) -> list[nn.Module]:
    """TabM, Gorishniy et al. 2024, arXiv:2410.24210."""
    copies, sizes = config.tabm.copies, [inputs] + [config.width] * config.depth
    layers = [AdaptedLinear(before, config.width, copies, first=not index) for index, before in enumerate(sizes[:-1])]
    apart = nn.Unflatten(-1, (1, inputs))
    return [apart, *_hidden(config, layers), MeanOfHeads(config.width, copies)]


def _cross(config: ModelConfig, inputs: int) -> list[nn.Module]:
    heads = config.cross.heads if config.cross.pooling == "attention" else 0

    def block() -> nn.Module:
        response = nn.Sequential(*_response(config))
        return EraBlock(config.width, heads, norm=_norm(config, "layer"), response=response)

    entry = nn.Linear(inputs, config.width)
    return [entry, *(block() for _ in range(config.depth)), nn.Linear(config.width, 1)]


def _norm(config: ModelConfig, own: str) -> nn.Module:
    return NORMS[config.normalisation or own](config.width)


def _response(config: ModelConfig) -> list[nn.Module]:
    """What follows a layer's linear map."""
    return [ACTIVATIONS[config.activation](), *([nn.Dropout(config.dropout)] if config.dropout else [])]


def _hidden(config: ModelConfig, layers: list[nn.Linear] | list[AdaptedLinear]) -> list[nn.Module]:
    """Hidden layers, each its linear map, a norm if any, and the activation."""
    normed = config.normalisation not in (None, "none")
    found: list[nn.Module] = []
    for index, layer in enumerate(layers):
        parts = [layer, *([_norm(config, "none")] if normed else []), *_response(config)]
        found += [Residual(nn.Sequential(*parts))] if config.residual and index else parts
    return found


MODELS: dict[str, Callable[[ModelConfig, int], list[nn.Module]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "resmlp": _resmlp,
    "tabm": _tabm,
    "cross": _cross,
}
"""Every family, by name: a builder of its layers from numbers a row to one number a row; the last has a ``weight``."""


def build_model(config: ModelConfig, num_features: int, *, seed: int) -> nn.Module:
    """A network with its initial weights.

    Args:
        config: Which network.
        num_features: d, the features of a row.
        seed: Seeds the initial weights, and nothing else: the global random state is left as it was.

    Returns:
        A module ``[..., n, d] → [..., n, 1]``. If its `forward` has a parameter ``present``, its rows see one another
        and it wants to know which exist: bool ``[..., n]``, or None for all; see `sees_era`.

    Raises:
        ConfigurationError: A family of your own cannot be imported, fails, or is no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds every GPU as well
        if config.is_own:
            return _own(config, num_features)
        front = [CodeEmbedding(num_features, config.embedding)] if config.embedding else []
        layers = [*front, *MODELS[config.family](config, num_features * (config.embedding or 1))]
    last = layers[-1]
    assert isinstance(last, nn.Linear | MeanOfHeads)
    with torch.no_grad():
        last.weight.mul_(config.output_scale)
    across = any(isinstance(layer, EraBlock) for layer in layers)
    return EraSequential(*layers) if across else nn.Sequential(*layers)


def sees_era(model: nn.Module) -> bool:
    """Whether a row's prediction depends on the rest of its era: the network's `forward` has a ``present``."""
    return "present" in inspect.signature(model.forward).parameters


def _own(config: ModelConfig, num_features: int) -> nn.Module:
    where, _, name = config.family.partition(":")
    try:
        builder = getattr(import_module(where), name)
    except Exception as error:  # importing runs code of which nothing is known
        raise ConfigurationError(
            f"model.family: expected the name of a class or function that can be imported here, "
            f"got {config.family!r} ({_one_line(error)}); a file that is not installed goes into the sweep's imports"
        ) from error
    try:
        model = builder(config, num_features)
    except Exception as error:
        raise ConfigurationError(
            f"model.family: expected {config.family!r} to build a module from (config, {num_features}), "
            f"got {_one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model.family: expected {config.family!r} to give a torch.nn.Module, got {type(model).__name__}"
        )
    return model


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
