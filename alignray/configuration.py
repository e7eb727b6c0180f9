"""Configurations as plain data: to JSON and back, by dotted path, and by text from a command line.

A configuration is a frozen dataclass of numbers, strings, tuples, mappings and other configurations. A class with its
own ``to_plain`` and ``from_plain`` (a cost, say) is asked to do it itself.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from alignray.errors import ConfigurationError, InvalidArgumentError
from alignray.types import Plain

T = TypeVar("T")


def require_at_least(name: str, value: float | None, least: float) -> None:
    """Check a field that has a least value; None, where a field may be None, passes.

    Raises:
        ConfigurationError: The value is less.
    """
    if value is not None and not value >= least:
        raise ConfigurationError(f"{name}: expected at least {least}, got {value}")


def require_above(name: str, value: float | None, bound: float) -> None:
    """Check a field that lies above a bound; None, where a field may be None, passes.

    Raises:
        ConfigurationError: The value does not.
    """
    if value is not None and not value > bound:
        raise ConfigurationError(f"{name}: expected a number above {bound}, got {value}")


def require_within(name: str, value: float, low: float, high: float) -> None:
    """Check a field that lies between two values, or is one of them.

    Raises:
        ConfigurationError: The value does not.
    """
    if not low <= value <= high:
        raise ConfigurationError(f"{name}: expected a number from {low} to {high}, got {value}")


def require_one_of(name: str, value: str, options: Iterable[str]) -> None:
    """Check a field that names one of some options.

    Raises:
        ConfigurationError: No option has that name.
    """
    options = list(options)
    if value not in options:
        raise ConfigurationError(f"{name}: expected one of {', '.join(options)}, got {value!r}")


def to_plain(value: Any) -> Plain:
    """A configuration as what JSON can hold."""
    if hasattr(value, "to_plain"):
        return typing.cast("Plain", value.to_plain())
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigurationError(f"configuration: expected plain values, got {type(value).__name__}: {value!r}")


def from_plain(kind: type[T], plain: Plain, *, path: str = "") -> T:
    """A configuration from what JSON held, every value checked against its field's type.

    Args:
        kind: The configuration's class.
        plain: What `to_plain` gave.
        path: The dotted path that errors begin with.

    Raises:
        ConfigurationError: A field is missing or does not exist, or a value has the wrong type.
    """
    return typing.cast("T", _build(kind, plain, path))


def flatten(plain: Plain) -> dict[str, bool | int | float | str | None]:
    """Nested mappings as one, its keys joined by dots; sequences become JSON text."""
    if not isinstance(plain, Mapping):
        raise ConfigurationError(f"configuration: expected a mapping, got {plain!r}")
    flat: dict[str, bool | int | float | str | None] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat[key] = json.dumps(value)
        else:
            flat[key] = value
    return flat


def replace_at(config: T, values: Mapping[str, Plain]) -> T:
    """The same configuration with other values at some dotted paths.

    Args:
        config: The configuration.
        values: New values by dotted path, ``{"cost.soft_l1.strength": 0.2}``. A path into an optional configuration
            that is None begins with its defaults.

    Raises:
        ConfigurationError: A path does not exist, or a value does not fit.
    """
    for path in values:
        config = _opened(config, path)
    plain = to_plain(config)
    for path, value in values.items():
        _assign(plain, path, value)
    return from_plain(type(config), plain)


def set_from_text(config: T, path: str, text: str) -> T:
    """The same configuration with the value that a text means at a dotted path, as ``--set path=text`` asks.

    The text is read as JSON (``3``, ``0.1``, ``true``, ``[1, 2]``) where that fits the field, else as it stands.

    Raises:
        ConfigurationError: The path does not exist, or the text does not fit the field.
    """
    try:
        return replace_at(config, {path: _read(text)})
    except ConfigurationError as error:
        try:
            return replace_at(config, {path: text})
        except ConfigurationError:
            raise error from None


def set_from_texts(config: T, texts: Mapping[str, str]) -> T:
    """The same configuration with all the values that texts mean, by dotted path; see `set_from_text`.

    They are set at once: one may be allowed only with another, whichever comes first.

    Raises:
        ConfigurationError: A path does not exist, or a text does not fit its field.
    """
    try:
        return replace_at(config, {path: _read(text) for path, text in texts.items()})
    except ConfigurationError:
        for path, text in texts.items():  # one by one, which says which of them it is
            config = set_from_text(config, path, text)
        return config


def _read(text: str) -> Plain:
    try:
        value: Plain = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def _opened(config: Any, path: str) -> Any:
    """The configuration with the defaults of an optional one in the place of a None that a path leads through."""
    name, _, rest = path.partition(".")
    if not rest or not dataclasses.is_dataclass(config) or name not in {f.name for f in dataclasses.fields(config)}:
        return config
    inner = opened = getattr(config, name)
    if inner is None:
        kinds = typing.get_args(typing.get_type_hints(type(config))[name])
        opened = next((_build(kind, {}, name) for kind in kinds if dataclasses.is_dataclass(kind)), None)
    opened = _opened(opened, rest)
    return config if opened is inner else dataclasses.replace(typing.cast("Any", config), **{name: opened})


def _assign(here: Any, path: str, value: Plain, above: str = "") -> None:
    if not isinstance(here, dict):
        raise ConfigurationError(f"{above}{path}: no such field; {above.rstrip('.')} is a single value")
    # A mapping may itself have dotted keys (a search space does): the longest that fits is meant.
    fitting = [key for key in here if f"{path}.".startswith(f"{key}.")]
    if not fitting:
        raise ConfigurationError(f"{above}{path}: no such field; expected one of {', '.join(here)}")
    key = max(fitting, key=len)
    if key == path:
        here[key] = value
    else:
        _assign(here[key], path.removeprefix(f"{key}."), value, f"{above}{key}.")


def _build(kind: Any, plain: Plain, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return plain
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, plain, path)
    if origin is typing.Literal:
        if plain not in arguments:
            raise _mismatch(path, f"one of {', '.join(map(repr, arguments))}", plain)
        return plain
    if origin is tuple:
        if not isinstance(plain, list | tuple):
            raise _mismatch(path, "a list", plain)
        return tuple(_build(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(plain))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(plain, Mapping):
            raise _mismatch(path, "a mapping", plain)
        return {key: _build(arguments[1], item, f"{path}.{key}") for key, item in plain.items()}
    if hasattr(kind, "from_plain"):
        return _build_itself(kind, plain, path)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, plain, path)
    return _build_scalar(kind, plain, path)


def _build_union(arguments: tuple[Any, ...], plain: Plain, path: str) -> Any:
    if plain is None and type(None) in arguments:
        return None
    errors: list[ConfigurationError] = []
    for option in arguments:
        if option is type(None):
            continue
        try:
            return _build(option, plain, path)
        except ConfigurationError as error:
            errors.append(error)
    raise errors[0]


def _build_itself(kind: Any, plain: Plain, path: str) -> Any:
    try:
        return kind.from_plain(plain)
    except InvalidArgumentError as error:
        message = str(error)
        raise ConfigurationError(message if message.startswith(path) else f"{path}: {message}") from error


def _build_dataclass(kind: Any, plain: Plain, path: str) -> Any:
    if not isinstance(plain, Mapping):
        raise _mismatch(path, f"the fields of {kind.__name__}", plain)
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    prefix = f"{path}." if path else ""
    for name in plain:
        if name not in known:
            raise ConfigurationError(f"{prefix}{name}: no such field; {kind.__name__} has {', '.join(known)}")
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in plain:
            raise ConfigurationError(f"{prefix}{name}: missing; {kind.__name__} needs it")
    return kind(**{name: _build(hints[name], value, f"{prefix}{name}") for name, value in plain.items()})


def _build_scalar(kind: Any, plain: Plain, path: str) -> Any:
    if kind is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        return float(plain)
    if kind is int and isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    if kind in (bool, str) and isinstance(plain, kind):
        return plain
    expected = {float: "a number", int: "an integer", bool: "true or false", str: "text"}
    raise _mismatch(path, expected.get(kind, str(kind)), plain)


def _mismatch(path: str, expected: str, got: Plain) -> ConfigurationError:
    return ConfigurationError(f"{path or 'configuration'}: expected {expected}, got {got!r}")
