"""Finding a sweep: a template by name, a module, or a file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from alignray.errors import AlignrayError, SweepError
from alignray.imports import load_text, module_name
from alignray.launch.shipped import shipped
from alignray.sweep import SweepConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a sweep or a template may be called: its folder is called so too."""


def list_templates() -> dict[str, Path]:
    """The templates that come with alignray, by name."""
    return {path.stem: path for path in sorted(shipped("templates", beside="sweeps").glob("[!_]*.py"))}


def new_template(path: Path, source: str) -> None:
    """Write a file of the user's own that starts as a template that comes with alignray, comments and all.

    Args:
        path: The file; its name without ``.py`` is the template's.
        source: The name of the template.

    Raises:
        SweepError: There is no such template, or the file is there already, cannot be written, or cannot be called so.
    """
    templates = list_templates()
    if source not in templates:
        raise SweepError(f"no template {source!r}; expected one of {', '.join(templates)}")
    text = templates[source].read_text()
    write_template(path, text.replace(f'template="{source}"', f'template="{path.stem}"'))


def write_template(path: Path, text: str) -> None:
    """Write the file of a template, which must not be there yet.

    Raises:
        SweepError: It is there already, cannot be written, or cannot be called so.
    """
    if path.suffix != ".py" or not NAME.fullmatch(path.stem):
        raise SweepError(
            f"{path}: expected the name of a Python file, my_sweep.py say, of letters, digits, '.', '_' and '-'"
        )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SweepError(f"{path}: is there already and is left as it is; choose another name") from None
    except OSError as error:
        raise SweepError(f"{path}: cannot be written ({error.strerror})") from error


def find_sweep(name: str) -> SweepConfig:
    """The sweep that a name means.

    Args:
        name: A template (``quickstart``), a module (``my_pkg.my_sweep``) or a file (``my_sweep.py``) with
            ``def sweep() -> SweepConfig``.

    Raises:
        SweepError: There is none of that name, it cannot be imported, or it has no such function, or one that fails.
    """
    templates = list_templates()
    if name in templates:
        module = _import_file(templates[name])
    elif name.endswith(".py"):
        module = _import_users_file(Path(name))
    else:
        module = _import_module(name, templates)
    sweep = getattr(module, "sweep", None)
    if not callable(sweep):
        where = getattr(module, "__file__", None) or "it"
        raise SweepError(f"sweep {name!r}: expected `def sweep() -> SweepConfig` in {where}, got none")
    with _blamed_on(f"sweep {name!r}: sweep() cannot be called"):
        config = sweep()
    if not isinstance(config, SweepConfig):
        raise SweepError(f"sweep {name!r}: expected sweep() to return a SweepConfig, got {type(config).__name__}")
    return config


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SweepError(f"sweep {str(path)!r}: no such file")
    spec = importlib.util.spec_from_file_location(f"alignray_sweep_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _blamed_on(f"sweep {str(path)!r}: cannot be imported"):
        spec.loader.exec_module(module)
    return module


def _import_users_file(path: Path) -> ModuleType:
    """Under its own name where it has one, so that ``imports=(__file__,)`` means the module that is there already."""
    name = module_name(path)
    if not path.is_file() or name is None:
        return _import_file(path)
    with _blamed_on(f"sweep {str(path)!r}: cannot be read"):
        text = path.read_text(encoding="utf-8")
    return load_text(text, path.resolve(), name)


def _import_module(name: str, templates: dict[str, Path]) -> ModuleType:
    unknown = SweepError(f"no sweep {name!r}; expected a template ({', '.join(templates)}), a module or a .py file")
    if not all(part.isidentifier() for part in name.split(".")):
        raise unknown
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does, so that a module beside the user is found
    with _blamed_on(f"sweep {name!r}: cannot be imported"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or name.split(".")[0] == error.name.split(".")[0]:
                raise unknown from error
            raise


@contextlib.contextmanager
def _blamed_on(what: str) -> Iterator[None]:
    """Whatever goes wrong in a user's own code is the user's to mend; our own errors say already what is wrong."""
    try:
        yield
    except AlignrayError:
        raise
    except Exception as error:
        raise SweepError(f"{what}: {type(error).__name__}: {error}") from error
