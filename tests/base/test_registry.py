import sys

import pytest

from qmpfleece.base.registry import Registry, import_siblings


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


def test_every_module_of_a_package_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "scanned_package"
    package.mkdir()
    (package / "__init__.py").write_text("seen = []\n")
    for name in ("one", "two"):
        (package / f"{name}.py").write_text(
            f"import scanned_package as p; p.seen.append({name!r})"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import_siblings("scanned_package")
    assert sys.modules["scanned_package"].seen == ["one", "two"]
    for name in ("", ".one", ".two"):
        monkeypatch.delitem(sys.modules, f"scanned_package{name}")
