"""Search spaces: what may vary in a trial, by the dotted path of the field.

    space = Space({
        "model.family": Choice(("linear", "mlp")),
        "model.depth": Int(1, 3, when={"model.family": ("mlp",)}),
        "cost.soft_l1.strength": Float(0.01, 0.5, log=True),
    })

A distribution with a ``when`` exists only where the fields named there took one of the values listed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

from alignray.configuration import flatten, replace_at, to_plain
from alignray.errors import ConfigurationError
from alignray.types import Plain

if TYPE_CHECKING:
    import optuna

T = TypeVar("T")
Value: TypeAlias = "bool | int | float | str"
Condition: TypeAlias = "Mapping[str, tuple[Value, ...]] | None"


@dataclass(frozen=True, slots=True)
class Distribution(ABC):
    """The values that one field may take."""

    kind: ClassVar[str]

    @abstractmethod
    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        """The distribution as Optuna's."""

    @abstractmethod
    def at(self, unit: float) -> Value:
        """The value that so large a share of the distribution lies below; ``unit`` is within [0, 1)."""

    @abstractmethod
    def grid(self, points: int) -> tuple[Value, ...]:
        """Its values, or at most so many of them, evenly spaced from end to end."""

    @abstractmethod
    def extremes(self) -> tuple[Value, ...]:
        """Values that show whether the field takes every value of the distribution."""

    @abstractmethod
    def __contains__(self, value: object) -> bool: ...

    @abstractmethod
    def describe(self) -> str:
        """The distribution in a few words."""

    @property
    def condition(self) -> Mapping[str, tuple[Value, ...]]:
        """The values of earlier fields under which this one exists; empty for always."""
        return getattr(self, "when", None) or {}

    def to_plain(self) -> dict[str, Plain]:
        """The distribution as plain data, its class under ``kind``."""
        return {"kind": self.kind, **{field.name: to_plain(getattr(self, field.name)) for field in fields(self)}}

    @classmethod
    def from_plain(cls, plain: Plain) -> Distribution:
        """The inverse of `to_plain`.

        Raises:
            ConfigurationError: No distribution has that kind, or a parameter does not fit.
        """
        kind = plain.get("kind") if isinstance(plain, Mapping) else None
        if not isinstance(plain, Mapping) or not isinstance(kind, str) or kind not in DISTRIBUTIONS:
            raise ConfigurationError(f"expected a kind of {', '.join(DISTRIBUTIONS)}, got {plain!r}")
        parameters = {key: _tupled(value) for key, value in plain.items() if key != "kind"}
        try:
            distribution: Distribution = DISTRIBUTIONS[kind](**parameters)
        except TypeError as error:
            raise ConfigurationError(f"{plain!r} does not describe a distribution ({error})") from error
        return distribution


@dataclass(frozen=True, slots=True)
class Float(Distribution):
    """A number between two bounds, uniform, or uniform in the logarithm."""

    low: float
    high: float
    log: bool = False
    when: Condition = None
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        _require_bounds(self.low, self.high, self.log, int | float, "numbers")
        _require_condition(self.when)

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        """See `Distribution.to_optuna`."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def at(self, unit: float) -> Value:
        """See `Distribution.at`."""
        return min(max(_between(self.low, self.high, unit, self.log), self.low), self.high)

    def grid(self, points: int) -> tuple[Value, ...]:
        """See `Distribution.grid`."""
        values = (self.at(index / max(points - 1, 1)) for index in range(points))
        return tuple(dict.fromkeys(values))

    def extremes(self) -> tuple[Value, ...]:
        """See `Distribution.extremes`."""
        return (self.low, self.high)

    def describe(self) -> str:
        """See `Distribution.describe`."""
        return f"{self.low:g} … {self.high:g}{', log' if self.log else ''}{_condition_text(self.when)}"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Int(Distribution):
    """A whole number between two bounds, both included."""

    low: int
    high: int
    log: bool = False
    when: Condition = None
    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        _require_bounds(self.low, self.high, self.log, int, "whole numbers")
        _require_condition(self.when)

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        """See `Distribution.to_optuna`."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def at(self, unit: float) -> Value:
        """See `Distribution.at`."""
        return min(int(_between(self.low, self.high + 1, unit, self.log)), self.high)

    def grid(self, points: int) -> tuple[Value, ...]:
        """See `Distribution.grid`."""
        if self.high - self.low < points:
            return tuple(range(self.low, self.high + 1))
        shares = (index / max(points - 1, 1) for index in range(points))
        return tuple(dict.fromkeys(round(_between(self.low, self.high, share, self.log)) for share in shares))

    def extremes(self) -> tuple[Value, ...]:
        """See `Distribution.extremes`."""
        return (self.low, self.high)

    def describe(self) -> str:
        """See `Distribution.describe`."""
        return f"{self.low} … {self.high}, whole{', log' if self.log else ''}{_condition_text(self.when)}"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Choice(Distribution):
    """One of some values, without an order."""

    options: tuple[Value, ...]
    when: Condition = None
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        plain = isinstance(self.options, tuple) and all(isinstance(o, bool | int | float | str) for o in self.options)
        if not plain or not self.options:
            raise ConfigurationError(f"options: expected a tuple of numbers, texts or bools, got {self.options!r}")
        _require_condition(self.when)

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        """See `Distribution.to_optuna`."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def at(self, unit: float) -> Value:
        """See `Distribution.at`."""
        return self.options[int(unit * len(self.options))]

    def grid(self, points: int) -> tuple[Value, ...]:  # noqa: ARG002
        """See `Distribution.grid`: all options."""
        return tuple(dict.fromkeys(self.options))

    def extremes(self) -> tuple[Value, ...]:
        """See `Distribution.extremes`."""
        return self.options

    def describe(self) -> str:
        """See `Distribution.describe`."""
        return f"one of {', '.join(map(str, self.options))}{_condition_text(self.when)}"

    def __contains__(self, value: object) -> bool:
        return value in self.options


DISTRIBUTIONS: dict[str, type[Any]] = {kind.kind: kind for kind in (Float, Int, Choice)}
"""Every distribution by its kind."""


@dataclass(frozen=True, slots=True)
class Space:
    """A search space: distributions by the dotted path of the field they set, in the order in which they are drawn."""

    distributions: Mapping[str, Distribution]

    @property
    def everywhere(self) -> dict[str, Distribution]:
        """The fields that exist at every point."""
        return {path: distribution for path, distribution in self.distributions.items() if not distribution.condition}

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """A value for every field that exists, given the earlier ones, from an Optuna trial."""
        return self._draw(lambda path, distribution: cast("Value", trial._suggest(path, distribution.to_optuna())))

    def at(self, units: Sequence[float], given: Mapping[str, Value]) -> dict[str, Value]:
        """The point at a place of the unit cube: see `Distribution.at`.

        Args:
            units: A number within [0, 1) for every field, also for those that do not exist at this point.
            given: Values that are settled already.
        """
        places = dict(zip(self.distributions, units, strict=True))
        return self._draw(lambda path, distribution: given[path] if path in given else distribution.at(places[path]))

    def grid(self, points: int, most: int) -> list[dict[str, Value]]:
        """Every point of the grid on which a field of numbers takes at most so many values.

        A field that does not exist does not multiply the points.

        Raises:
            ConfigurationError: There are more than ``most``.
        """
        grid = self._product(lambda distribution: distribution.grid(points), most=most)
        if len(grid) > most:
            raise ConfigurationError(f"space: its grid has more than {most} points; search fewer fields, or coarser")
        return grid

    def largest(self, prefixes: tuple[str, ...]) -> list[dict[str, Value]]:
        """The points at which numbers are as large as they get, one for each combination of the values that are none.

        Args:
            prefixes: How the paths begin of the fields that are looked at; the others are left out.
        """
        return self._product(_largest, prefixes)

    def _draw(self, draw: Callable[[str, Distribution], Value]) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for path, distribution in self.distributions.items():
            if _holds(distribution.condition, values):
                values[path] = draw(path, distribution)
        return values

    def _product(
        self,
        values_of: Callable[[Distribution], Sequence[Value]],
        prefixes: tuple[str, ...] = ("",),
        most: float = math.inf,
    ) -> list[dict[str, Value]]:
        """Every combination of some values of the fields, where they exist; soon ended where there are too many."""
        points: list[dict[str, Value]] = [{}]
        for path, distribution in self.distributions.items():
            if path.startswith(prefixes) and len(points) <= most:
                points = [
                    {**point, **chosen}
                    for point in points
                    for chosen in (
                        [{path: value} for value in values_of(distribution)]
                        if _holds(distribution.condition, point)
                        else [{}]
                    )
                ]
        return points

    def values_of(self, config: Any) -> dict[str, Value]:
        """The configuration's own values, as a point of the space; fields outside their distribution are left out."""
        flat = flatten(to_plain(config))
        values: dict[str, Value] = {}
        for path, distribution in self.distributions.items():
            value = flat.get(path)
            if value is not None and value in distribution and _holds(distribution.condition, values):
                values[path] = value
        return values

    def point_in(self, values: Mapping[str, Value]) -> dict[str, Value] | None:
        """The point that values of another space make in this one; None where a field lacks one, or has another's."""
        point: dict[str, Value] = {}
        for path, distribution in self.distributions.items():
            if _holds(distribution.condition, point):
                if path not in values or values[path] not in distribution:
                    return None
                point[path] = values[path]
        return point

    def require_fit(self, config: Any) -> None:
        """Check that the configuration has every field of the space, and that the field takes every value.

        Raises:
            ConfigurationError: A field does not exist, cannot take a value, or depends on one that is not drawn before.
        """
        seen: set[str] = set()
        for path, distribution in self.distributions.items():
            for needed in distribution.condition:
                if needed not in seen:
                    raise ConfigurationError(f"space.{path}: expected {needed!r}, its condition, to come before it")
            for value in distribution.extremes():
                try:
                    replace_at(config, {path: value})
                except ValueError as error:
                    raise ConfigurationError(f"space.{path}: {error}") from error
            seen.add(path)

    def to_plain(self) -> dict[str, Plain]:
        """The space as plain data."""
        return {path: distribution.to_plain() for path, distribution in self.distributions.items()}

    @classmethod
    def from_plain(cls, plain: Plain) -> Space:
        """The inverse of `to_plain`.

        Raises:
            ConfigurationError: A distribution does not make sense.
        """
        if not isinstance(plain, Mapping):
            raise ConfigurationError(f"space: expected distributions by path, got {plain!r}")
        distributions: dict[str, Distribution] = {}
        for path, value in plain.items():
            try:
                distributions[path] = Distribution.from_plain(value)
            except ConfigurationError as error:
                raise ConfigurationError(f"space.{path}: {error}") from error
        return cls(distributions)


def _holds(condition: Mapping[str, tuple[Value, ...]], values: Mapping[str, Value]) -> bool:
    return all(values.get(path) in allowed for path, allowed in condition.items())


def _largest(distribution: Distribution) -> Sequence[Value]:
    """The largest value of a field of numbers, every value of another."""
    values = distribution.extremes()
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return [max(numbers)] if len(numbers) == len(values) else values


def _between(low: float, high: float, share: float, log: bool) -> float:
    return low * (high / low) ** share if log else low + (high - low) * share


def _condition_text(condition: Condition) -> str:
    return "".join(f", where {path} is {' or '.join(map(str, values))}" for path, values in (condition or {}).items())


def _tupled(value: Any) -> Any:
    """JSON's lists as the tuples that they were, also those of a condition."""
    if isinstance(value, Mapping):
        return {key: _tupled(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _require_bounds(low: object, high: object, log: object, kind: Any, what: str) -> None:
    if not _is(low, kind) or not _is(high, kind):
        raise ConfigurationError(f"low, high: expected {what}, got {low!r} and {high!r}")
    if not isinstance(log, bool):
        raise ConfigurationError(f"log: expected true or false, got {log!r}")
    least, most = cast("float", low), cast("float", high)
    if not least <= most:
        raise ConfigurationError(f"low, high: expected low at most high, got {low} and {high}")
    if log and not least > 0:
        raise ConfigurationError(f"low: expected a number above 0 on a logarithmic scale, got {low}")


def _is(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _require_condition(when: object) -> None:
    if when is None:
        return
    if not isinstance(when, Mapping) or not all(isinstance(values, tuple) for values in when.values()):
        raise ConfigurationError(f"when: expected a tuple of values for each field, got {when!r}")
