import sys
from pathlib import Path

import pytest

from qmpfleece.base.registry import Derived, Registry, import_siblings

MARK = r'^add\("([\w-]+)"'
PACKAGE = "scanned_package"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a package whose modules add things to the registry of the package."""
    package = tmp_path / PACKAGE
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    (package / "__init__.py").write_text(
        "from qmpfleece.base.registry import Folder, Registry\n"
        f"registry = Registry('thing', Folder({PACKAGE!r}, {MARK!r}))\n"
        "seen = []\n"
    )
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def write(folder: Path, module: str, *names: str, mark: str = "add") -> None:
    """Write a module that adds ``names``; ``mark`` is what it calls the function."""
    path = folder / module
    path.parent.mkdir(exist_ok=True)
    lines = [
        f"import {PACKAGE} as p",
        f"p.seen.append({path.stem!r})",
        f"def {mark}(name): p.registry.add(name, name.upper(), __name__)",
        *(f'{mark}("{name}")' for name in names),
    ]
    path.write_text("\n".join(lines))


def scanned():
    __import__(PACKAGE)
    return sys.modules[PACKAGE]


def test_registry_is_a_mapping_in_the_order_of_registration():
    registry = Registry("thing")
    registry.add("b", 1)
    registry.add("a", 2)
    assert list(registry.items()) == [("b", 1), ("a", 2)]
    assert "a" in registry
    assert len(registry) == 2
    assert registry.get("c") is None


def test_name_is_registered_only_once():
    registry = Registry("thing")
    registry.add("a", 1)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        registry.add("a", 2)
    assert registry["a"] == 1


def test_every_module_of_a_package_is_imported(folder):
    write(folder, "two.py")
    write(folder, "one.py")
    import_siblings(PACKAGE)
    assert scanned().seen == ["one", "two"]


def test_look_up_imports_the_module_of_that_name_only(folder):
    write(folder, "big_thing.py", "big-thing")
    write(folder, "other.py", "other")
    found = scanned()
    assert found.registry["big-thing"] == "BIG-THING"
    assert found.seen == ["big_thing"]


def test_look_up_imports_the_module_whose_text_shows_the_name(folder):
    write(folder, "a.py", "one")
    write(folder, "b.py", "two", "three")
    found = scanned()
    assert found.registry["three"] == "THREE"
    assert "two" in found.registry
    assert found.seen == ["b"]


def test_module_of_a_package_inside_is_found_too(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "__init__.py").write_text("")
    write(folder / "inner", "deep.py", "inner")
    write(folder, "other.py", "other")
    found = scanned()
    assert found.registry["inner"] == "INNER"
    assert found.seen == ["deep"]


def test_name_that_no_text_shows_is_found_all_the_same(folder):
    write(folder, "a.py", "one")
    write(folder, "b.py", "hidden", mark="plus")
    assert scanned().registry["hidden"] == "HIDDEN"


@pytest.mark.parametrize("name", ["nonesuch", "a.b", "__init__", "..", ""])
def test_look_up_of_what_there_is_not_imports_everything_and_fails(folder, name):
    write(folder, "a.py", "one")
    found = scanned()
    assert name not in found.registry
    assert found.registry.get(name) is None
    assert found.seen == ["a"]


@pytest.mark.parametrize("first", ["one", "three", "nonesuch"])
def test_order_of_listing_is_that_of_the_files_whatever_came_first(folder, first):
    write(folder, "c.py", "three")
    write(folder, "a.py", "two", "one")
    registry = scanned().registry
    registry.get(first)
    assert list(registry) == ["two", "one", "three"]
    assert len(registry) == 3


def test_listing_finds_that_two_modules_collide(folder):
    write(folder, "a.py", "same")
    write(folder, "b.py", "same")
    registry = scanned().registry
    assert registry["same"] == "SAME"
    with pytest.raises(ValueError, match="thing 'same' is registered twice"):
        list(registry)


def test_what_is_added_from_elsewhere_comes_last(folder):
    write(folder, "a.py", "one")
    registry = scanned().registry
    registry.add("late", "LATE", "tests.somewhere")
    assert list(registry) == ["one", "late"]


def test_derived_things_are_made_when_they_are_looked_up():
    made = []
    registry = Registry("thing")
    registry.add("b", 1)
    registry.add("a", 2)
    derived = Derived(registry, lambda name: made.append(name) or name * 2)
    assert (list(derived), len(derived), made) == (["b", "a"], 2, [])
    assert derived["a"] == "aa"
    assert derived.get("c") is None
    assert made == ["a"]
