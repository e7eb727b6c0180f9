"""A user's own code that a configuration names: imported here, carried to other machines, recognised when it changes.

A file that registers an objective or a cost term, or holds a network, need not be installed anywhere: its text goes to
the workers, and is run there as the module that it is called after. The text comes from the user's own file each time,
never from a sweep's folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from alignray.configuration import from_plain, to_plain
from alignray.errors import AlignrayError, SweepError

__all__ = ["Carried", "UserCode", "absolute", "import_code", "is_file", "load_text", "module_name"]

T = TypeVar("T")
_DIGEST = "__alignray_digest__"


@dataclass(frozen=True, slots=True)
class UserCode:
    """Modules and files, in the order in which they are imported.

    Attributes:
        sources: By the name of a module or the path of a file, the text of the file; None of a module, which is found
            by its name on every machine.
    """

    sources: Mapping[str, str | None]

    @classmethod
    def of(cls, imports: Sequence[str]) -> UserCode:
        """Read the files among the imports.

        Raises:
            SweepError: A file is missing, or cannot be read.
        """
        return cls({name: _read(name) if is_file(name) else None for name in imports})

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: _digest(text) for name, text in self.sources.items() if text is not None}

    def require(self, digests: Mapping[str, Any], sweep: str) -> None:
        """Check that the files are those that a sweep began with.

        Raises:
            SweepError: One has changed since.
        """
        for path, digest in self.digests.items():
            if digest != digests.get(path):
                raise SweepError(
                    f"sweep {sweep!r}: its code has changed since it began ({path}: SHA-256 {digest[:12]}, then "
                    f"{str(digests.get(path))[:12]}); put the file back, or run a new sweep"
                )

    def load(self) -> None:
        """Import all of it in this process; what is imported already stays.

        Raises:
            SweepError: Something cannot be imported.
        """
        for name, text in self.sources.items():
            if text is None:
                _import_named(name)
            else:
                load_text(text, Path(name), _required_name(Path(name)))


@dataclass(frozen=True, slots=True)
class Carried(Generic[T]):
    """A configuration that arrives in another process with the code that it names, which is imported before it.

    Attributes:
        config: The configuration.
        code: The code.
    """

    config: T
    code: UserCode

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.code, type(self.config), to_plain(self.config))


def _arrive(code: UserCode, kind: type[T], plain: Any) -> Carried[T]:
    code.load()
    return Carried(from_plain(kind, plain), code)


def import_code(*names: str) -> None:
    """Import modules and files as ``SweepConfig.imports`` does, for a configuration that names what they define.

    Raises:
        SweepError: A file is missing, or something cannot be imported.
    """
    UserCode.of(absolute(names)).load()


def absolute(imports: Sequence[str]) -> tuple[str, ...]:
    """The same imports with the whole paths of files: a relative one means another file elsewhere."""
    return tuple(str(Path(name).resolve()) if is_file(name) else name for name in imports)


def is_file(name: str) -> bool:
    """Whether an import is a file, rather than a module."""
    return name.endswith(".py")


def load_text(text: str, path: Path, name: str) -> ModuleType:
    """Run the text of a file as a module of that name; once, until its text or its path change.

    Raises:
        SweepError: It fails.
    """
    there = sys.modules.get(name)
    mark = (str(path), _digest(text))
    if there is not None and getattr(there, _DIGEST, mark) == mark:  # without a mark, Python itself imported it
        return there
    module = ModuleType(name)
    module.__file__ = str(path)
    setattr(module, _DIGEST, mark)
    sys.modules[name] = module
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, AlignrayError) or not isinstance(error, Exception):
            raise
        raise SweepError(f"{str(path)!r}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def module_name(path: Path) -> str | None:
    """The name under which a file is imported: its own, unless that is none or another module's; then None."""
    name = path.stem
    if not name.isidentifier():
        return None
    there = sys.modules.get(name)
    if there is not None:
        return name if hasattr(there, _DIGEST) or _is_at(there.__file__, path) else None
    spec = importlib.util.find_spec(name)
    return name if spec is None or _is_at(spec.origin, path) else None


def _is_at(origin: str | None, path: Path) -> bool:
    """Whether a module is the file itself, found beside the user."""
    return origin is not None and Path(origin).resolve() == path.resolve()


def _required_name(path: Path) -> str:
    name = module_name(path)
    if name is None:
        raise SweepError(
            f"imports: {path} would be imported as {path.stem!r}, which is no module's name, or that of another one; "
            "call the file otherwise"
        )
    return name


def _import_named(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever the code of the module does
        raise SweepError(f"imports: {name!r} cannot be imported here: {type(error).__name__}: {error}") from error


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"imports: {name!r} cannot be read ({error}); put the file back") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
