"""Lines of the human monitor: names of commands, options, help, what nodes are called."""

from typing import Final

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.devices import CONTROLLER
from tests.oracle.session import Session

_NULL: Final = "null-co,size=1048576,read-zeroes=on,node-name="


def _say(d: Session, *lines: str) -> None:
    for line in lines:
        d.qmp("human-monitor-command", command_line=line)


def _nodes(d: Session) -> None:
    disk = (*CONTROLLER, "-device", "scsi-hd,id=sda,drive=n")
    blocks = [word for name in "nfg" for word in ("-blockdev", f"{_NULL}{name}")]
    d.start(*blocks, *disk)


@system_scenario
def names_of_human_commands(d: Session) -> None:
    """A slash ends a name as space does, and what is unknown is shown as it was written."""
    _nodes(d)
    _say(
        d, "", " ", "  foo", "foo/bar baz", "/x n", "info  zz", " info\tzz x", "info /x", "info/x",
        "info/block", "info block/x", "stop/x", "s x", "stop x", "c x", "cont x", "info status/x",
        'qemu-io/n "read 0 512"', "block_resize/x n 1", 'qemu-io n "read\t0 512"',
        'qemu-io n "\tread 0 512"',
    )  # fmt: skip


@system_scenario
def options_of_human_commands(d: Session) -> None:
    _nodes(d)
    _say(
        d, "info block -", "info block - n", "info block -1", "info block -/", "info block --",
        "info block -v -", "info block -n -", "info block -n -1", "qemu-io - n", "qemu-io -1 n x",
        "qemu-io -", "qemu-io -d -x y", "block_resize - 1",
    )  # fmt: skip


@system_scenario
def help_of_human_commands(d: Session) -> None:
    _nodes(d)
    _say(
        d, "help ?", "? help", "? s", "help foo", "help  stop", "help q x", "help /x", "help/stop",
        "help info block", "help info  block-jobs", "help info status", "help info zz x",
        'help "info" block', 'help "info', "help info/block", "help block_resize", "? qemu-io",
    )  # fmt: skip


@system_scenario
def info_of_one_node_among_others(d: Session) -> None:
    """Space comes before all but the newest."""
    _nodes(d)
    for name in "nfgx":
        _say(d, f"info block {name}", f"info block -n {name}", f"info block -v {name}")
    _say(d, "info block -n")


@system_scenario
def human_commands_about_a_processor(d: Session) -> None:
    d.start("-smp", "2")
    for number in (0, 1, 2, -1):
        d.qmp("human-monitor-command", command_line="info status", cpu_index=number)


@system_scenario
def human_commands_without_processors(d: Session) -> None:
    d.start("-machine", "none")
    d.qmp("human-monitor-command", command_line="info status", cpu_index=0)
    d.qmp("human-monitor-command", command_line="info status")


@system_scenario
def characters_that_are_no_space_to_c(d: Session) -> None:
    _nodes(d)
    _say(d, "\x0b\x0c", "\x0b\x0cinfo\x0bstatus\x0c", 'qemu-io\fn\v"read \v0 \f512"')
    for space in ("\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u3000"):
        _say(
            d, space, f"{space}info status", f"info{space}status", f"info {space}",
            f"info status{space}", f"info block{space}n", f"info block {space}n",
            f"info block n{space}x", f"info block -n{space}n", f"block_resize n{space}1",
            f"block_resize n {space}1", f"block_resize n 1{space}", f"help{space}stop",
            f"help stop{space}", f'qemu-io n{space}"length"', f'qemu-io n "length"{space}',
            f'qemu-io n "read {space}0 512"', f'qemu-io n "read -P {space}0 0 512"',
            f'qemu-io n "{space}length"', f'qemu-io n "sleep {space}0"',
            f'qemu-io n "truncate -m off {space}1M"', f'qemu-io n "sigraise {space}0"',
        )  # fmt: skip
