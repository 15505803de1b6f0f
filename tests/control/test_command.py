from typing import Annotated

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.control.command import COMMANDS, Boxed, Command, command
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Model


class Options(Model):
    node_name: str
    read_only: bool = False


async def plain(system: System, node_name: str, x_depth: int = 3) -> None:
    """Has two members."""


async def boxed(system: System, options: Annotated[Options, Boxed]) -> list[str]:
    """Takes the whole object."""


def test_parameters_are_kebab_case_members_and_defaults_are_optional():
    found = Command("c", plain, exclusive=True).parse({"node-name": "n"})
    assert found == {"node_name": "n", "x_depth": 3}


def test_python_names_are_not_wire_names():
    with pytest.raises(QmpError, match="Parameter 'node-name' is missing"):
        Command("c", plain, exclusive=True).parse({"node_name": "n"})


def test_boxed_parameter_takes_the_whole_object():
    found = Command("c", boxed, exclusive=True).parse({"node-name": "n", "read-only": True})
    assert found == {"options": Options(node_name="n", read_only=True)}


def test_only_queries_run_without_waiting_for_their_turn():
    assert COMMANDS["stop"].exclusive
    assert not COMMANDS["query-status"].exclusive
    assert not COMMANDS["quit"].exclusive


def test_name_is_registered_once():
    assert "quit" in COMMANDS
    with pytest.raises(ValueError, match="'quit' is registered twice"):
        command("quit")(plain)
