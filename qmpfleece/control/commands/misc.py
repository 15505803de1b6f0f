"""The commands about the monitor and the program itself."""

from typing import Any

from pydantic import Field

from qmpfleece.control.command import command, commands_of
from qmpfleece.control.events import Resume, Stop
from qmpfleece.control.system import RunState, System
from qmpfleece.control.version import PACKAGE, QEMU
from qmpfleece.qapi.drivers import DRIVER_FILES
from qmpfleece.qapi.events import EVENTS
from qmpfleece.qapi.model import Model


class VersionTriple(Model):
    """QAPI ``VersionTriple``: the version of QEMU whose behaviour is offered."""

    major: int
    minor: int
    micro: int


class VersionInfo(Model):
    """QAPI ``VersionInfo``."""

    qemu: VersionTriple
    package: str


class CommandInfo(Model):
    """QAPI ``CommandInfo``."""

    name: str


class StatusInfo(Model):
    """QAPI ``StatusInfo``."""

    running: bool
    singlestep: bool
    status: RunState


class NameInfo(Model):
    """QAPI ``NameInfo``."""

    name: str | None = None


@command("query-commands")
async def query_commands(system: System) -> list[CommandInfo]:
    """List the names of all commands, newest first as QEMU does."""
    return [CommandInfo(name=name) for name in reversed([*commands_of(system)])]


@command("query-version")
async def query_version(_system: System) -> VersionInfo:
    """Tell which QEMU we behave like, and our own version as the package."""
    major, minor, micro = QEMU
    return VersionInfo(qemu=VersionTriple(major=major, minor=minor, micro=micro), package=PACKAGE)


@command("query-qmp-schema")
async def query_qmp_schema(system: System) -> list[dict[str, Any]]:
    """Describe all commands, events and types."""
    from qmpfleece.control.introspect import schema

    DRIVER_FILES.load()  # their events are told, too
    return schema(commands_of(system), EVENTS)


@command("query-name")
async def query_name(system: System) -> NameInfo:
    """Tell the name given on the command line."""
    return NameInfo(name=system.name)


class UuidInfo(Model):
    """QAPI ``UuidInfo``."""

    uuid: str = Field(alias="UUID")


@command("query-uuid", machine=True)
async def query_uuid(system: System) -> UuidInfo:
    """Tell the UUID given on the command line."""
    return UuidInfo(uuid=system.uuid)


@command("query-status")
async def query_status(system: System) -> StatusInfo:
    """Tell the run state; there is no guest, it only says what stop and cont did."""
    return StatusInfo(
        running=system.run_state == "running",
        singlestep=False,
        status=system.run_state,
    )


@command("stop")
async def stop(system: System) -> None:
    """Enter the state ``paused``; nothing happens in a state that is not ``running``."""
    if system.run_state == "running":
        system.run_state = "paused"
        system.bus.emit(Stop())


@command("cont")
async def cont(system: System) -> None:
    """Enter the state ``running``; who is being migrated to would do so later."""
    if system.run_state not in {"running", "inmigrate"}:
        system.run_state = "running"
        system.bus.emit(Resume())
