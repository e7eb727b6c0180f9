"""A sweep's configuration as the Python that makes it, laid out as ruff would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, TypeAlias

import alignray as ar
from alignray.costs import Cost
from alignray.search import Space
from alignray.sweep import SweepConfig

_WIDTH, _INDENT = 120, 4


def sweep_source(config: SweepConfig, about: str) -> str:
    """A file with ``def sweep()`` that returns the configuration.

    A field that has its default is left out: the file says what was chosen.

    Args:
        config: The sweep.
        about: The file's docstring, its first line a sentence.
    """
    body = _laid_out(_node(config), _INDENT, len("return "), 0)
    end = "\n" if "\n" in about else ""
    own = "\nfrom alignray.costs import TERMS" if "TERMS[" in body else ""
    first = f"ar.import_code({', '.join(map(_text, config.imports))})\n    " if config.imports else ""
    return f'''"""{about}{end}"""

import alignray as ar{own}


def sweep() -> ar.SweepConfig:
    """The sweep."""
    {first}return {body}
'''


@dataclass(frozen=True, slots=True)
class _Sum:
    """``a + b + …``."""

    parts: tuple[_Node, ...]

    def flat(self) -> str:
        return " + ".join(_flat(part) for part in self.parts)

    def broken(self, indent: int) -> str:
        return f"\n{' ' * indent}+ ".join(_laid_out(part, indent, 2, 1) for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Group:
    """Something between brackets: items, each with what stands before it (``name=``, ``"key": ``)."""

    opening: str
    items: tuple[tuple[str, _Node], ...]
    closing: str

    @property
    def is_call(self) -> bool:
        return self.opening[:-1] != ""

    @property
    def is_tuple(self) -> bool:
        return self.opening == "("

    def inside(self) -> str:
        return ", ".join(before + _flat(item) for before, item in self.items)

    def flat(self) -> str:
        return f"{self.opening}{self.inside()}{',' if self.is_tuple and len(self.items) == 1 else ''}{self.closing}"

    def broken(self, indent: int) -> str:
        inner, outer = " " * (indent + _INDENT), " " * indent
        if self.is_call and len(inner) + len(self.inside()) <= _WIDTH and len(self.items) > 1:
            lines = f"{inner}{self.inside()}\n"
        else:
            comma = "," if len(self.items) > 1 or self.is_tuple else ""
            lines = "".join(
                f"{inner}{before}{_laid_out(item, len(inner), len(before), len(comma))}{comma}\n"
                for before, item in self.items
            )
        return f"{self.opening}\n{lines}{outer}{self.closing}"


_Node: TypeAlias = "str | _Sum | _Group"


def _flat(node: _Node) -> str:
    return node if isinstance(node, str) else node.flat()


def _laid_out(node: _Node, indent: int, before: int, after: int) -> str:
    """On one line if it fits there, with what stands before and after it; else broken at its outermost brackets."""
    flat = _flat(node)
    if isinstance(node, str) or indent + before + len(flat) + after <= _WIDTH:
        return flat
    return node.broken(indent)


def _node(value: Any) -> _Node:
    if isinstance(value, Cost):
        parts = tuple(_call(term) for term in value.terms)
        return parts[0] if len(parts) == 1 else _Sum(parts)
    if isinstance(value, Space):
        return _Group("ar.Space(", (("", _mapping(value.distributions)),), ")")
    if is_dataclass(value):
        return _call(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, tuple):
        return _Group("(", tuple(("", _node(item)) for item in value), ")")
    if isinstance(value, str):
        return _text(value)
    return repr(value)


def _call(value: Any) -> _Node:
    name = f"ar.{type(value).__name__}"
    if getattr(ar, type(value).__name__, None) is not type(value):  # a term of the user's own: a configuration has no
        name = f"TERMS[{_text(value.name)}]"  # other part that is
    chosen = [field for field in fields(value) if not _is_default(field, getattr(value, field.name))]
    return _Group(f"{name}(", tuple((_keyword(field), _node(getattr(value, field.name))) for field in chosen), ")")


def _keyword(field: Field[Any]) -> str:
    required = field.default is MISSING and field.default_factory is MISSING
    return "" if required and not field.kw_only else f"{field.name}="


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and bool(value == field.default) and type(value) is type(field.default)


def _mapping(value: Mapping[str, Any]) -> _Group:
    return _Group("{", tuple((f"{_text(key)}: ", _node(item)) for key, item in value.items()), "}")


def _text(value: str) -> str:
    """In double quotes, unless single ones need fewer escapes."""
    text = json.dumps(value, ensure_ascii=False)
    if value.count('"') <= value.count("'"):
        return text
    return "'" + text[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
