import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

import qmpfleece
from qmpfleece.control.command import Boxed, Command, commands_of
from qmpfleece.control.introspect import schema
from qmpfleece.control.system import System
from qmpfleece.qapi.alternate import Alternate
from qmpfleece.qapi.events import EVENTS, Event
from qmpfleece.qapi.model import Model, Size, Uint32
from tests.tools.programs import replies_of_qemu


class Leaf(Model):
    name: str
    next: "Leaf | None" = None


class Nbd(Model):
    type: Literal["nbd"]
    id: str
    size: Size | None = None


class Fuse(Model):
    type: Literal["fuse", "vduse"]
    id: str
    mode: Literal["a", "b"]


async def plain(system: System, node_name: str, depth: Uint32 = 3) -> None:
    """Has a required and an optional member."""


async def rich(
    system: System,
    leaves: list[Leaf],
    what: Annotated[str | Leaf | None, Alternate("What")] = None,
) -> list[Leaf]:
    """Uses arrays, an alternate and a type that contains itself."""


async def union(
    system: System, options: Annotated[Nbd | Fuse, Field(discriminator="type"), Boxed]
) -> str:
    """Takes a union."""


class Gone(Event, name="TEST_GONE"):
    id: str


class Empty(Event, name="TEST_EMPTY"):
    pass


def of(handler):
    events = {"TEST_GONE": Gone, "TEST_EMPTY": Empty}
    entities = schema({"c": Command("c", handler, exclusive=True)}, events)
    return {entity["name"]: entity for entity in entities}


def test_command_names_its_types_and_defaults_are_optional():
    found = of(plain)
    assert found["c"] == {"name": "c", "ret-type": "0", "meta-type": "command", "arg-type": "1"}
    assert found["0"] == {"name": "0", "members": [], "meta-type": "object"}
    assert found["1"] == {
        "name": "1",
        "members": [
            {"name": "node-name", "type": "str"},
            {"name": "depth", "default": None, "type": "int"},
        ],
        "meta-type": "object",
    }
    assert found["str"] == {"name": "str", "json-type": "string", "meta-type": "builtin"}
    assert found["int"] == {"name": "int", "json-type": "int", "meta-type": "builtin"}


def test_event_names_its_data():
    found = of(plain)
    event = found["TEST_GONE"]
    assert event["meta-type"] == "event"
    assert found[event["arg-type"]]["members"] == [{"name": "id", "type": "str"}]
    assert found["TEST_EMPTY"]["arg-type"] == "0"


def test_arrays_alternates_and_recursion():
    found = of(rich)
    leaf = found[found[found["c"]["ret-type"]]["element-type"]]
    assert leaf["members"][1] == {"name": "next", "default": None, "type": leaf["name"]}
    leaves, what = found[found["c"]["arg-type"]]["members"]
    assert leaves == {"name": "leaves", "type": f"[{leaf['name']}]"}
    assert found[what["type"]] == {
        "name": what["type"],
        "members": [{"type": "str"}, {"type": leaf["name"]}, {"type": "null"}],
        "meta-type": "alternate",
    }


def test_union_has_base_members_a_tag_and_variants():
    found = of(union)
    options = found[found["c"]["arg-type"]]
    assert options["tag"] == "type"
    tag, ident = options["members"]
    assert found[tag["type"]]["values"] == ["nbd", "fuse", "vduse"]
    assert found[tag["type"]]["members"] == [{"name": v} for v in ("nbd", "fuse", "vduse")]
    assert ident == {"name": "id", "type": "str"}
    cases = {case["case"]: found[case["type"]]["members"] for case in options["variants"]}
    assert cases["nbd"] == [{"name": "size", "default": None, "type": "int"}]
    assert cases["fuse"] == cases["vduse"]
    assert [member["name"] for member in cases["fuse"]] == ["mode"]


@pytest.fixture
def ours(system):
    return schema(commands_of(system), EVENTS)


def test_every_type_that_is_named_is_described_once(ours):
    names = [entity["name"] for entity in ours]
    assert len(names) == len(set(names))
    used = {
        value
        for entity in ours
        for holder in [entity, *entity.get("members", []), *entity.get("variants", [])]
        for key, value in holder.items()
        if key in {"type", "arg-type", "ret-type", "element-type"}
    }
    assert used <= set(names)


async def test_it_is_what_query_qmp_schema_answers(talk, ours):
    assert (await talk.ask({"execute": "query-qmp-schema"}))["return"] == ours


#: Where we differ from QEMU 7.2, by the end of the path.
DIFFERENT = (
    ".min-cluster-size",  # of copy-before-write, later than 7.2
    ".encrypt.format=aes",  # QEMU only opens such images
    ".cbw-timeout",  # of backups, later than 7.2
    ".on-cbw-error",
    ".on-cbw-error=break-guest-write",
    ".on-cbw-error=break-snapshot",
)


class Arguments:
    """Flattens what a command takes: pairs of a member's path and whether it may be absent.

    A feature is a path, too: that of what has it, ``!``, its name.

    Members of variants are taken for members of the union: whether a member is common to all
    variants depends on how many of them there are.
    """

    def __init__(self, entities) -> None:
        self.entities = {entity["name"]: entity for entity in entities}

    def of(self, command):
        found: set[tuple[str, bool]] = set()
        self._note_features(self.entities[command], command, found)
        self._walk(self.entities[command]["arg-type"], command, found, ())
        return found

    def _note_features(self, holder, path, found):
        found.update((f"{path}!{feature}", True) for feature in holder.get("features", []))

    def _walk(self, name, path, found, above):
        entity = self.entities[name]
        self._note_features(entity, path, found)
        kind = entity["meta-type"]
        if kind == "array":
            self._walk(entity["element-type"], path + "[]", found, above)
        elif kind == "alternate":
            for arm in entity["members"]:
                self._walk(arm["type"], path, found, above)
        elif kind == "enum":
            found.update((f"{path}={value}", True) for value in entity["values"])
            for member in entity["members"]:
                self._note_features(member, f"{path}={member['name']}", found)
        elif kind == "object" and name not in above:
            for member in entity["members"]:
                inner = f"{path}.{member['name']}"
                found.add((inner, "default" in member))
                self._note_features(member, inner, found)
                self._walk(member["type"], inner, found, (*above, name))
            for case in entity.get("variants", []):
                self._walk(case["type"], path, found, (*above, name))


MACHINE = ["-machine", "none", "-nodefaults", "-display", "none"]
PROGRAMS = {
    False: ["qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "c"],
    True: ["qemu-system-x86_64", *MACHINE, "-qmp", "stdio"],
}


@pytest.mark.oracle
@pytest.mark.parametrize("has_machine", PROGRAMS)
def test_every_argument_of_ours_is_one_of_qemu(system, has_machine):
    program = PROGRAMS[has_machine]
    if not shutil.which(program[0]):
        pytest.skip(f"{program[0]} is not installed")
    system.has_machine = has_machine
    (reply,) = replies_of_qemu(program, "query-qmp-schema")
    theirs = reply["return"]
    commands = commands_of(system)
    qemu, mine = Arguments(theirs), Arguments(schema(commands, EVENTS))
    known = [name for name in commands if name in qemu.entities]
    differ = {pair for name in known for pair in mine.of(name) - qemu.of(name)}
    assert [path for path, _ in differ if not path.endswith(DIFFERENT)] == []
    ours = {pair for name in known for pair in mine.of(name)} | {(name, True) for name in known}
    paths = {path for path, _ in ours}
    features = {pair[0] for name in known for pair in qemu.of(name) if "!" in pair[0]}
    expected = {path for path in features if path.partition("!")[0] in paths}
    assert expected - paths == set()
    assert len(expected) > len(known) / 2


@pytest.mark.oracle
def test_what_is_always_told_of_disks_is_no_option(system):
    if not shutil.which("qemu-storage-daemon"):
        pytest.skip("qemu-storage-daemon is not installed")
    (reply,) = replies_of_qemu(PROGRAMS[False], "query-qmp-schema")

    def told(entities):
        types = {entity["name"]: entity for entity in entities}
        element = types[types["query-blockstats"]["ret-type"]]["element-type"]
        members = {member["name"]: member["type"] for member in types[element]["members"]}
        stats = types[members["stats"]]["members"]
        return {member["name"] for member in stats if "default" not in member}

    assert told(schema(commands_of(system), EVENTS)) == told(reply["return"])


def test_events_are_told_also_if_nothing_has_been_imported_yet():
    script = (
        "import asyncio\n"
        "from qmpfleece.daemon import Daemon\n"
        "async def main():\n"
        "    async with Daemon() as daemon:\n"
        "        for entity in await daemon.execute('query-qmp-schema'):\n"
        "            if entity['meta-type'] == 'event': print(entity['name'])\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    event = re.compile(r'^class \w+\(Event, name="(\w+)"\)', re.MULTILINE)
    sources = Path(qmpfleece.__file__).parent.rglob("*.py")
    written = {name for source in sources for name in event.findall(source.read_text())}
    assert written
    assert set(said.stdout.split()) == written
