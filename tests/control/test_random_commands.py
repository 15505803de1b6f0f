"""Random commands on a small graph with disks above it; after each, the graph must be sound.

No reply is foretold. What must hold: no command fails unexpectedly, a refused one changes
nothing, edges are symmetric, permissions are what a computation from scratch gives, and at the
end everything can be taken apart.
"""

import random

import pytest

from qmpfleece.control.dispatch import Client
from qmpfleece.daemon import Daemon
from tests.tools.disk import qemu_img
from tests.tools.graphs import check_invariants, snapshot
from tests.tools.until import settle

SIZE = 1 << 20
NAMES = [f"n{number}" for number in range(7)]
DEVICES = [f"d{number}" for number in range(3)]


class Chooser:
    """Draws commands: most of them nearly right."""

    def __init__(self, seed, folder) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.kinds = [getattr(self, name) for name in dir(self) if name.startswith("say_")]

    def command(self):
        return self.random.choice(self.kinds)()

    def name(self):
        return self.random.choice(NAMES)

    def switch(self):
        return self.random.random() < 0.5

    def options(self, depth=0):
        """Return the definition of a node."""
        if depth and self.random.random() < 0.7:
            return self.name()
        kind = self.random.choice(
            ("null-co", "file", "raw", "qcow2", "copy-before-write", "snapshot-access", "throttle")
        )
        given = {"driver": kind}
        if not depth or self.switch():
            given["node-name"] = self.name()
        if self.random.random() < 0.3:
            given["read-only"] = self.switch()
        match kind:
            case "null-co":
                given["size"] = self.random.choice((SIZE, SIZE // 2))
            case "file":
                given["filename"] = str(self.folder / self.random.choice(("raw", "a", "b", "no")))
                given["locking"] = "off"
            case "copy-before-write":
                given["target"] = self.options(depth + 1)
            case "throttle":
                given["throttle-group"] = self.random.choice(("g", "no"))
        if kind not in {"null-co", "file"}:
            given["file"] = self.options(depth + 1)
        if kind == "qcow2":
            image = str(self.folder / self.random.choice(("a", "b")))
            given["file"] = {"driver": "file", "filename": image, "locking": "off"}
            given["backing"] = self.random.choice((None, None, self.name()))
        return given

    def say_add(self):
        return "blockdev-add", self.options() | {"node-name": self.name()}

    say_add_too = say_add_often = say_add

    def say_delete(self):
        return "blockdev-del", {"node-name": self.name()}

    def say_reopen(self):
        many = range(self.random.choice((1, 1, 2)))
        return "blockdev-reopen", {
            "options": [self.options() | {"node-name": self.name()} for _ in many]
        }

    def say_plug(self):
        kind = self.random.choice(("scsi-hd", "scsi-hd", "scsi-cd", "virtio-blk-pci"))
        given = {"driver": kind, "id": self.random.choice(DEVICES), "drive": self.name()}
        if self.switch():
            given["share-rw"] = True
        return "device_add", given

    say_plug_too = say_plug

    def say_unplug(self):
        return "device_del", {"id": self.random.choice(DEVICES)}

    def say_reset(self):
        return "system_reset", {}

    def say_set(self):
        path = self.random.choice(DEVICES) + self.random.choice(("", "/virtio-backend"))
        return "qom-set", {"path": path, "property": "drive", "value": self.name()}

    say_set_too = say_set

    def say_tray(self):
        verb = self.random.choice(("blockdev-open-tray", "blockdev-close-tray", "eject"))
        return verb, {"id": self.random.choice(DEVICES)}

    def say_insert(self):
        return "blockdev-insert-medium", {
            "id": self.random.choice(DEVICES),
            "node-name": self.name(),
        }

    def say_snapshot(self):
        return "blockdev-snapshot", {"node": self.name(), "overlay": self.name()}

    def say_transaction(self):
        kind, data = self.random.choice(
            (
                ("blockdev-snapshot", {"node": self.name(), "overlay": self.name()}),
                ("block-dirty-bitmap-add", {"node": self.name(), "name": "b"}),
                ("block-dirty-bitmap-remove", {"node": self.name(), "name": "b"}),
                ("abort", {}),
                ("blockdev-backup", self._backup()),
            )
        )
        again = self.say_snapshot()
        last = {"type": "abort", "data": {}} if self.switch() else None
        actions = [{"type": kind, "data": data}, {"type": again[0], "data": again[1]}, last]
        return "transaction", {"actions": [item for item in actions if item]}

    def _backup(self):
        return {
            "job-id": self.random.choice(("j", "k")),
            "device": self.name(),
            "target": self.name(),
            "sync": self.random.choice(("full", "none", "top")),
        }

    def say_backup(self):
        return "blockdev-backup", self._backup()

    def say_cancel(self):
        return "block-job-cancel", {"device": self.random.choice(("j", "k"))}

    def say_resize(self):
        return "block_resize", {"node-name": self.name(), "size": SIZE}

    def say_write(self):
        line = f'qemu-io {self.name()} "write -P 7 0 4k"'
        return "human-monitor-command", {"command-line": line}

    def say_look(self):
        return self.random.choice(
            ("query-block", "query-named-block-nodes", "query-blockstats", "query-jobs")
        ), {}


class Machine:
    """A daemon and one client of it."""

    def __init__(self, daemon) -> None:
        self.daemon = daemon
        self.graph = daemon.system.graph
        self.said = []

    def shape(self):
        """Return the graph; in which order users came does not count."""
        return [(*rest, sorted(users)) for *rest, users in snapshot(self.graph)]

    async def say(self, command, arguments):
        self.said.append((command, arguments))
        busy = bool(self.daemon.system.jobs.jobs())
        before = self.shape()
        replies = []
        request = {"execute": command, "arguments": arguments}
        await self.daemon.dispatcher.serve(request, Client(negotiated=True), replies.append)
        check_invariants(self.graph)
        if "error" in replies[0]:
            assert "nternal" not in replies[0]["error"]["desc"], replies[0]
            assert busy or self.shape() == before, replies[0]
        return "return" in replies[0]

    async def take_apart(self):
        for job in self.daemon.system.jobs.jobs():
            await self.say("block-job-cancel", {"device": job.id})
        while self.daemon.system.jobs.jobs():
            await settle()
        for device in self.daemon.system.devices.all():
            await self.say("device_del", {"id": device.id})
        await self.say("system_reset", {})
        assert self.daemon.system.devices.all() == []
        for _ in self.graph.nodes():
            for node in self.graph.nodes():
                if not node.parents:
                    assert node.monitor_owned
                    assert await self.say("blockdev-del", {"node-name": node.name})
                    break
        assert self.graph.nodes() == []


async def run(seed, steps, folder):
    (folder / "raw").write_bytes(bytes(SIZE))
    for name in ("a", "b"):
        qemu_img("create", "-q", "-f", "qcow2", folder / name, SIZE)
    chooser = Chooser(seed, folder)
    async with Daemon(has_machine=True) as daemon:
        machine = Machine(daemon)
        try:
            await machine.say("object-add", {"qom-type": "throttle-group", "id": "g"})
            await machine.say("device_add", {"driver": "virtio-scsi-pci", "id": "s"})
            daemon.system.devices.running = True
            done = 0
            for _ in range(steps):
                done += await machine.say(*chooser.command())
            await machine.take_apart()
        except BaseException as error:
            error.add_note("\n".join(map(str, machine.said[-60:])))
            raise
        return done


@pytest.mark.parametrize("seed", range(4))
async def test_graph_stays_sound_whatever_is_said(seed, tmp_path, caplog):
    assert await run(seed, 250, tmp_path) > 25
    assert caplog.text == ""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
async def test_graph_stays_sound_for_long_whatever_is_said(seed, tmp_path, caplog):
    assert await run(seed, 5000, tmp_path) > 500
    assert caplog.text == ""


async def test_what_a_filter_shares_of_its_target_stays_when_the_target_shows_other_data(tmp_path):
    disk, temp = str(tmp_path / "disk"), str(tmp_path / "temp")
    qemu_img("create", "-f", "raw", disk, str(SIZE))
    qemu_img("create", "-f", "qcow2", temp, str(SIZE))
    target = {"driver": "qcow2", "node-name": "temp", "backing": "disk"}
    target["file"] = {"driver": "file", "node-name": "file", "filename": temp}
    async with Daemon() as daemon:
        await daemon.execute(
            "blockdev-add", {"driver": "file", "node-name": "disk", "filename": disk}
        )
        await daemon.execute("blockdev-add", target)
        await daemon.execute(
            "blockdev-add",
            {
                "driver": "copy-before-write",
                "node-name": "filter",
                "file": "disk",
                "target": "temp",
            },
        )
        check_invariants(daemon.system.graph)
        changed = target | {"backing": None, "file": "file"}
        await daemon.execute("blockdev-reopen", {"options": [changed]})
        check_invariants(daemon.system.graph)
