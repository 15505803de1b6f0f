"""Registries fill themselves: a module registers what it has when it is imported.

Most of it is never asked for in one run, and a start must be quick. So a registry that has a
``Folder`` imports the modules of a package only when they are needed: the one of a name when
that name is looked up, all of them to count, list or refuse. What can be found, and in which
order it is listed, does not depend on what was imported before.
"""

import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, Final, Generic, TypeVar

T = TypeVar("T")


@contextmanager
def _lasting() -> Iterator[None]:
    """Look for no garbage while modules are imported, when nearly nothing is garbage."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if Folder.lasting:
            gc.freeze()
        gc.enable()


class Folder:
    """A package whose modules register things.

    Args:
        package: Its name.
        mark: How a name shows in the text of the module that registers it: a regular
            expression with one group, the name. This only says where to look first.
    """

    #: What is imported stays to the end: collections of garbage, which stop all requests, need
    #: not look at it. To be set by a program that has frozen its other modules.
    lasting: ClassVar[bool] = False

    def __init__(self, package: str, mark: str) -> None:
        self.package: Final = package
        self._mark: Final = mark
        self._loaded = False

    def search(self, name: str) -> Iterator[str]:
        """Import, one by one, what may have registered a name: in the end everything."""
        if self._loaded:
            return
        stem = name.replace("-", "_")
        if stem in self._modules:
            yield self._import(stem)
        for module in self._index.get(name, ()):
            yield self._import(module)
        self.load()
        yield ""

    def load(self) -> None:
        """Import every module, also those of packages inside."""
        if not self._loaded:
            import pkgutil

            prefix = f"{self.package}."
            with _lasting():
                for found in pkgutil.walk_packages(self._path, prefix):
                    importlib.import_module(found.name)
            self._loaded = True

    def place(self, module: str) -> int:
        """Return where a module comes in the order of the package; strangers come last."""
        stem = module.removeprefix(f"{self.package}.").partition(".")[0]
        return self._modules.get(stem, len(self._modules))

    def _import(self, module: str) -> str:
        with _lasting():
            return importlib.import_module(f"{self.package}.{module}").__name__

    @cached_property
    def _path(self) -> list[str]:
        """The directories of the package: one."""
        return list(importlib.import_module(self.package).__path__)

    @cached_property
    def _modules(self) -> dict[str, int]:
        """The modules directly inside the package, with their places."""
        import pkgutil

        return {info.name: place for place, info in enumerate(pkgutil.iter_modules(self._path))}

    @cached_property
    def _index(self) -> dict[str, list[str]]:
        """Which modules show a name; empty where there are no sources."""
        import re
        from pathlib import Path

        found: dict[str, list[str]] = {}
        for place in self._path:
            for file in sorted(Path(place).rglob("*.py")):
                parts = file.relative_to(place).with_suffix("").parts
                for name in re.findall(self._mark, file.read_text("utf-8"), re.MULTILINE):
                    found.setdefault(name, []).append(".".join(parts))
        return found


class Derived(Mapping[str, T], Generic[T]):
    """What is derived from the things of a registry, by the same names, when it is asked for.

    Args:
        names: The registry.
        make: Called for each look-up of a name that is there.
    """

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], T]) -> None:
        self._names: Final = names
        self._make: Final = make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Registry(Mapping[str, T], Generic[T]):
    """Things by name. A name is registered once.

    Args:
        what: The noun for messages, e.g. ``"block driver"``.
        folder: Where its things are; by default in modules that are imported anyway.
    """

    def __init__(self, what: str, folder: Folder | None = None) -> None:
        self._what = what
        self._folder = folder
        self._items: dict[str, T] = {}
        self._modules: dict[str, str] = {}

    def add(self, name: str, item: T, module: str = "") -> None:
        """Register ``item``.

        Args:
            name: Its name.
            item: What it is.
            module: The module that it is in, if the registry has a folder.

        Raises:
            ValueError: The name is taken: two modules of the package collide.
        """
        if name in self._items:
            raise ValueError(f"{self._what} {name!r} is registered twice")
        self._items[name] = item
        self._modules[name] = module

    def __getitem__(self, name: str) -> T:
        if name not in self._items and self._folder is not None:
            for _ in self._folder.search(name):
                if name in self._items:
                    break
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        folder = self._folder
        if folder is None:
            return iter(self._items)
        folder.load()
        return iter(sorted(self._items, key=lambda name: folder.place(self._modules[name])))

    def __len__(self) -> int:
        if self._folder is not None:
            self._folder.load()
        return len(self._items)


def import_siblings(package: str) -> None:
    """Import every module directly inside ``package``, so that it registers itself."""
    import pkgutil

    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{info.name}")
