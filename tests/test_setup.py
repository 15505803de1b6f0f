"""What setup.py compiles."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def compiled():
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "COMPILED":
            return ast.literal_eval(statement.value)
    raise AssertionError("no list")


def test_modules_that_are_compiled_are_there_and_import_no_pydantic():
    paths = [ROOT / "qmpfleece" / path for path in compiled()]
    assert paths
    for path in paths:
        lines = path.read_text().splitlines()
        names = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
        assert names, path
        assert not any(name.startswith("pydantic") for name in names), path


def test_options_of_compiled_drivers_are_apart_from_them():
    drivers = [path for path in compiled() if path.startswith("block/drivers/")]
    assert drivers
    for path in drivers:
        assert (ROOT / "qmpfleece" / path).with_name("options.py").is_file()
