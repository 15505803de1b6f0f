"""Random NBD sessions: clients that say anything, while what they see is changed.

    python -m tests.oracle.random_nbd FIRST LAST [STEPS]

runs these seeds on both daemons, and prints for each that differs where it first does.

What the protocol leaves open is not compared: the order of replies, and in which chunks of data
or holes a read is told. Of block status, holes are compared unless a client may ask for zeroes
that are none: where the file system has room for data that is not written, it tells data once
somebody has read it, and that is decided by who looks for holes before reading. Not drawn is
what would only show a listed deviation (block status of snapshots and of raw nodes on images,
reads that fail of clients that are told holes, CACHE of images), or what has no order: requests
in flight that meet.
"""

import re
import struct
import sys
from collections.abc import Callable
from typing import Final

from tests.oracle import nbd_draws, random_runs
from tests.oracle.monitor import StoppedError
from tests.oracle.nbd_disks import BIG, ODD, Disks
from tests.oracle.nbd_draws import TRIM, NbdDraws
from tests.oracle.nbd_peer import DF, READ, WRITE, Asked, Peer
from tests.oracle.random_draws import BITMAPS, KIB, SIZE
from tests.oracle.session import Session

_STEPS: Final = 30
_OPTION: Final = b"IHAVEOPT"
#: Where qcow2 images have what, and what files occupy, depends on who allocates first; when an
#: image is marked as dirty, on when its tables are written.
_OCCUPIED: Final = re.compile(
    r', "actual-size": \d+|, "dirty-flag": \w+|"wr_highest_offset": \d+, '
    r'|"virtual-size": \d+, (?="filename": "TMP/q.qcow2", "format": "file")'
    r'|"discard-(bytes|nb)-ok": \d+, '
    # Members of one hash bucket: their order tells how often QEMU has copied an object.
    r'|json:\{(?:[^"\\]|\\.)*'
)
_QUIT: Final = "-> quit"
_DELETED: Final = '"event": "BLOCK_EXPORT_DELETED"'
#: What only our log or only QEMU's tells, as listed.
_UNTOLD: Final = re.compile(
    r"stderr: (PROGRAM: )?(option negotiation failed: Failed to read flags: Unexp"
    r"|Disconnect client, due to: Failed to send reply"
    r"|warning: The target block device doesn't)"
)


class Conversations:
    """Clients of one daemon, and who changes what they see.

    Args:
        seed: Decides everything.
        session: The daemon.
    """

    def __init__(self, seed: int, session: Session) -> None:
        self._draw = NbdDraws(seed)
        self._session = session
        self._disks = Disks(self._draw, session)
        #: The nodes of exports by their names, and the names by their ids.
        self._exported: dict[str, str] = {}
        self._names: dict[str, str] = {}
        #: The commands that clients mostly use there.
        self._usual: dict[str, list[int]] = {}
        self._peers: list[Peer] = []
        #: Exports that somebody may just be leaving.
        self._left: set[str] = set()
        self._count = 0
        self._steps: list[tuple[float, Callable[[], object]]] = [
            (60, self._ask),
            (8, self._come),
            (3, self._part),
            (5, self._disks.change_bitmap),
            (3, self._add_export),
            (3, self._remove_export),
            (2, self._disks.resize),
            (0.5, self._restart),
        ]

    def run(self, steps: int) -> None:
        """Set everything up, do so many steps, and look at what is left."""
        draw, session = self._draw, self._session
        self._disks.make_images()
        self._disks.add_nodes()
        session.nbd_server()
        wanted = draw.any(1, 2, 3)
        for _ in range(20):
            if len(self._names) < wanted:
                self._add_export()
        self._come()
        weights = [weight for weight, _ in self._steps]
        for _ in range(steps):
            draw.random.choices(self._steps, weights)[0][1]()
        self._disks.look()
        for peer in self._peers:
            if not peer.over:
                peer.shut_down()
                peer.take_all()
            peer.close()
        session.finish()
        self._disks.look_at_images()

    # -- commands ---------------------------------------------------------------------------

    def _add_export(self) -> None:
        draw = self._draw
        self._count += 1
        node = draw.any(*self._disks.nodes)
        name = draw.any(node, f"e{self._count}", "")
        bitmaps = draw.random.sample(BITMAPS, draw.any(0, 1, 1, 2))
        identity = f"id{self._count}"
        more = draw.some(0.9, writable=draw.often(0.8))
        done = self._disks.send(
            "block-export-add",
            {
                "type": "nbd",
                "id": identity,
                "node-name": node,
                "name": name,
                **more,
                **draw.some(0.5, bitmaps=bitmaps),
                **draw.some(0.4, allocation_depth=True),
                **draw.some(0.3, description=draw.any("words", "z" * 4096, "")),
                **draw.some(0.1, writethrough=True),
            },
        )
        if done:
            self._exported[name] = node
            self._names[identity] = name
            self._usual[name] = self._commands(node, writable=more.get("writable", False))

    def _commands(self, node: str, *, writable: bool) -> list[int]:
        """Return what is mostly asked of a node.

        QEMU copies on CACHE what an image has from its backing file, or not at all.
        """
        commands = [nbd_draws.CACHE] if node in {"f", "odd", "big"} else []
        commands += [nbd_draws.READ] * 4 + [nbd_draws.FLUSH] + [nbd_draws.STATUS] * 4
        changing = [nbd_draws.WRITE] * 3 + [nbd_draws.ZEROES] * 3 + [nbd_draws.TRIM] * 2
        return [*commands, *(changing if writable and node != "s" else changing[2:4])]

    def _remove_export(self) -> None:
        draw = self._draw
        if not self._names:
            return
        identity = draw.any(*self._names)
        name = self._names[identity]
        mode = draw.some(0.5, mode=draw.any("safe", "hard", "hard"))
        if name in self._left:  # whether it still has a client is not known
            mode = {"mode": "hard"}
        if self._disks.send("block-export-del", {"id": identity} | mode):
            self._ended(lambda peer: peer.export == name)
            self._session.event("BLOCK_EXPORT_DELETED")
            self._session.qmp("query-block-exports")  # the event is not the next command's
            del self._names[identity], self._exported[name]

    def _restart(self) -> None:
        """Stop the server, which deletes all exports, and start it again."""
        if len(self._names) > 1:
            return  # several go in any order
        if self._session.qmp("nbd-server-stop") is not None:
            self._ended(lambda _: True)
            self._exported.clear()
            self._names.clear()
        self._session.nbd_server()

    def _ended(self, which: Callable[[Peer], bool]) -> None:
        for peer in self._peers:
            if not peer.over and which(peer):
                peer.end()

    # -- clients ----------------------------------------------------------------------------

    def _come(self) -> None:
        """Be a new client, for some time if that enters an export.

        Nobody negotiates for long: QEMU's server would not stop before that ends.
        """
        self._connect()
        peer = self._peers[-1]
        if not peer.over and peer.export is None:
            peer.shut_down()
            peer.end()

    def _connect(self) -> None:
        draw = self._draw
        try:
            peer = Peer(self._session.path("nbd.sock"), self._session.transcript)
        except ConnectionRefusedError:
            raise StoppedError("the connection ended: nobody listens") from None
        self._peers.append(peer)
        flags = draw.flags()
        peer.note(f"# client {len(self._peers)} sends flags {flags.hex()}")
        peer.send(flags)
        number = int.from_bytes(flags, "big")
        if number > 3:
            peer.end()
            return
        if not number & 1:  # knows EXPORT_NAME alone
            self._enter_by_name(peer, no_zeroes=number == 2)
            return
        if draw.often(0.6):
            self._option(peer, nbd_draws.STRUCTURED)
        for _ in range(draw.any(0, 0, 1, 2, 5)):
            if peer.over or peer.export is not None:
                return
            kind, data = draw.option(list(self._exported))
            self._option(peer, kind, data)
        if peer.over or peer.export is not None:
            return
        self._leave_negotiation(peer, no_zeroes=number == 3)

    def _leave_negotiation(self, peer: Peer, *, no_zeroes: bool) -> None:
        draw = self._draw
        match draw.any(
            *["go"] * 12, "name", "name", "rush", "rush", "abort", "noise", "noise", "vanish"
        ):
            case "go":
                name = draw.name([*self._exported]) if draw.often(0.1) else self._name()
                if draw.often(0.8):
                    queries = [b"base:allocation", b"qemu:allocation-depth"]
                    queries += [f"qemu:dirty-bitmap:{bitmap}".encode() for bitmap in BITMAPS]
                    words = b"".join(nbd_draws.named(query) for query in queries)
                    count = struct.pack(">I", len(queries))
                    self._option(peer, nbd_draws.SET_META, nbd_draws.named(name) + count + words)
                if not peer.over:
                    self._option(peer, nbd_draws.GO, draw.info(name))
            case "name":
                self._enter_by_name(peer, no_zeroes=no_zeroes)
            case "rush":
                self._rush(peer)
            case "abort":
                self._option(peer, nbd_draws.ABORT, draw.any(b"", b"", b"x"))
            case "noise":
                data = draw.noise([*self._exported])
                peer.note(f"# sends {data[:200]!r}, {len(data)} bytes")
                peer.send(data)
                peer.shut_down()
                peer.take_all()
                peer.over = True
            case _:
                peer.close()
                peer.over = True

    def _rush(self, peer: Peer) -> None:
        """Ask before knowing whether one is in."""
        if not self._exported:
            return
        name = self._name()
        queries = self._draw.contexts(name)
        options = (nbd_draws.STRUCTURED, b""), (nbd_draws.SET_META, queries)
        enters = nbd_draws.GO, self._draw.info(name)
        said = [*options, enters] if self._draw.often(0.7) else [enters]
        requests = [self._draw.request(KIB, [READ, READ, nbd_draws.STATUS]) for _ in range(3)]
        if self._exported[name.decode()] in {"s", "bad"}:
            requests.clear()
        peer.note(f"# client {len(self._peers)} rushes: {said!r}")
        peer.send(
            b"".join(_OPTION + struct.pack(">II", kind, len(data)) + data for kind, data in said)
            + b"".join(request.packed() for request in requests)
        )
        done = False
        for kind, _ in said:
            done = peer.option_replies(kind) == 1
            peer.structured |= done and kind == nbd_draws.STRUCTURED
        if done:  # else the requests are no options, and end it
            self._entered(peer, name.decode())
            peer.replies_to(requests)

    def _name(self) -> bytes:
        return str(self._draw.any(*self._exported)).encode() if self._exported else b"none"

    def _option(self, peer: Peer, kind: int, data: bytes = b"") -> None:
        peer.note(f"# option {kind} {data[:200]!r}, {len(data)} bytes")
        last = peer.option(kind, data)
        done = last == 1
        peer.over |= not last
        peer.structured |= done and kind == nbd_draws.STRUCTURED
        if done and kind == nbd_draws.ABORT:
            peer.end()
        if done and kind == nbd_draws.GO:
            size = int.from_bytes(data[:4], "big")
            self._entered(peer, data[4 : 4 + size].decode())

    def _enter_by_name(self, peer: Peer, *, no_zeroes: bool) -> None:
        name = self._draw.name([*self._exported])
        peer.note(f"# export name {name[:200]!r}, {len(name)} bytes")
        peer.send(_OPTION + struct.pack(">II", nbd_draws.EXPORT_NAME, len(name)) + name)
        if len(peer.take_and_note("export", 10 if no_zeroes else 134)) < 10:
            peer.over = True
        else:
            self._entered(peer, name.split(b"\0")[0].decode())

    def _entered(self, peer: Peer, name: str) -> None:
        peer.export = name
        peer.compares_from = 0 if self._draw.holes else 1

    def _guest(self) -> Peer | None:
        """Return a client that has entered an export."""
        there = [peer for peer in self._peers if not peer.over and peer.export is not None]
        return self._draw.any(*there[-3:]) if there else None

    def _ask(self) -> None:
        if (peer := self._guest()) is None:
            if self._exported and self._draw.often(0.5):
                self._come()
            return
        assert peer.export is not None
        node = self._exported[peer.export]
        size = {"odd": ODD, "big": BIG, "w": ODD}.get(node, SIZE)
        requests = self._draw.requests(size, self._usual[peer.export])
        if node == "bad":  # a rule may hold once; for nothing, QEMU reads and writes nothing
            requests = [request for request in requests if request.length][:1]
            # QEMU dies of discarding a part of a block.
            requests = [r for r in requests if r.command != TRIM or _is_whole(r)]
            if not requests:
                return
        if node == "big":
            requests = requests[:2]
        if node == "s":
            # QEMU reads what it has saved from the disk, too, if not all is saved; and says for
            # each context that the snapshot has no status.
            requests = [r for r in requests if r.command != READ or _in_one_cluster(r)]
            requests = [r for r in requests if r.command != nbd_draws.STATUS]
        if node in {"s", "bad"} and peer.structured:
            # Else QEMU asks for holes, and hangs up when it then can't read.
            for request in requests:
                request.flags |= DF if request.command == READ else 0
        peer.note(f"# client {self._peers.index(peer) + 1} of {peer.export}")
        peer.ask(requests)
        if peer.over:
            self._left.add(peer.export)

    def _part(self) -> None:
        """Leave, in one way or another."""
        draw = self._draw
        if (peer := self._guest()) is None:
            return
        assert peer.export is not None
        self._left.add(peer.export)
        write = Asked(WRITE, 0, 4096, 0, 7, b"\x77" * 4096).packed()
        peer.note(f"# client {self._peers.index(peer) + 1} of {peer.export} leaves")
        # Nobody stays with half a request: in a drain QEMU forgets it or waits for the rest.
        match draw.any("disc", "disc", "close", "half", "header", "magic", "large", "shut"):
            case "disc":
                # What is sent behind it is not done any more.
                peer.send(Asked(2, *draw.any((0, 0), (1, 9)), 0, 1).packed())
                peer.send(write if draw.often(0.5) else b"")
            case "close":
                peer.close()
                peer.over = True
                return
            case "half":
                peer.send(write[: -draw.any(1, 512, 4096)])
                peer.shut_down()
            case "header":
                peer.send(write[: draw.any(1, 27)])
                peer.shut_down()
            case "magic":
                peer.send(draw.any(b"\0" * 28, b"IHAVEOPT" * 4, b"\x25\x60\x95\x14" + write))
            case "large":
                length = draw.any((32 << 20) + 1, (1 << 32) - 1)
                peer.send(Asked(WRITE, 0, length, 0, 7).packed() + write)
            case _:
                peer.shut_down()
        peer.take_all()
        peer.over = True


def _is_whole(request: Asked) -> bool:
    return not (request.offset | request.length) % (64 * KIB)


def _in_one_cluster(request: Asked) -> bool:
    last = request.offset + max(request.length, 1) - 1
    return request.offset // (64 * KIB) == last // (64 * KIB)


def difference(seed: int, steps: int = _STEPS) -> list[str]:
    """Run one seed on both daemons; return the lines where they first differ, none if equal."""
    return random_runs.difference(lambda d: Conversations(seed, d).run(steps), _kept)


def _kept(lines: list[str]) -> list[str]:
    kept = [_OCCUPIED.sub("", line) for line in lines if not _UNTOLD.match(line)]
    end = kept.index(_QUIT) if _QUIT in kept else len(kept)
    # With clients left, QEMU's order of deletions at the end is an accident.
    deleted = [line for line in kept[end:] if _DELETED in line]
    return [line for line in kept if line not in deleted] + sorted(deleted)


if __name__ == "__main__":
    sys.exit(random_runs.main(difference))
