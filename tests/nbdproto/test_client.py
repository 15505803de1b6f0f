import struct

import pytest

from qmpfleece.nbdproto import client, const
from qmpfleece.nbdproto.client import ClientHandshake
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused
from tests.tools.nbd_pair import NbdPair, disk

CONTEXTS = ((0, "base:allocation"), (2, "qemu:dirty-bitmap:b"))
GREETING = b"NBDMAGICIHAVEOPT\0\3"


def reply(option, kind, data=b""):
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


@pytest.mark.parametrize("split", [None, *range(1, 120)])
def test_client_enters_wherever_messages_are_cut(split):
    wanted = ["qemu:dirty-bitmap:b", "qemu:nothing", "base:allocation"]
    pair = NbdPair(
        ClientHandshake("disk", contexts=wanted),
        disk("other"),
        disk(description="d", min_block=512, contexts=CONTEXTS),
    )
    pair.run(split)
    assert pair.client.result == client.ServerExport(
        "disk", 1 << 20, 0x8D, "d", 512, 4096, 32 << 20, True, dict(CONTEXTS)
    )
    assert pair.server.result is not None
    assert pair.server.result.contexts == CONTEXTS


def test_client_without_structured_replies():
    pair = NbdPair(ClientHandshake("disk", structured=False), disk())
    pair.run(5)
    assert pair.client.result is not None
    assert not pair.client.result.structured
    assert pair.client.result.flags == 0x0D


def test_client_lists_exports():
    pair = NbdPair(ClientHandshake("", listing=True), disk("a", description="text"), disk("b"))
    pair.run()
    assert pair.client.exports == [("a", "text"), ("b", "")]
    assert pair.server.closed == ""


def test_unknown_export_is_refused_with_the_servers_words():
    pair = NbdPair(ClientHandshake("nope"), disk())
    with pytest.raises(NbdRefused, match="export 'nope' not present") as caught:
        pair.run()
    assert caught.value.reply == const.REP_ERR_UNKNOWN


def test_client_falls_back_to_export_name():
    machine = ClientHandshake("disk")
    machine.feed(GREETING)
    sent = machine.feed(reply(8, const.REP_ERR_UNSUP))
    assert sent.startswith(b"IHAVEOPT\0\0\0\7")
    assert machine.feed(reply(7, const.REP_ERR_UNSUP)) == b"IHAVEOPT\0\0\0\1\0\0\0\4disk"
    machine.feed(b"\0\0\0\0\0\x10\0\0\0\x0drest")
    assert machine.result == client.ServerExport("disk", 1 << 20, 0x0D)
    assert machine.leftover == b"rest"


def test_old_server_sends_zeroes():
    machine = ClientHandshake("disk")
    assert machine.feed(b"NBDMAGICIHAVEOPT\0\0") == b"\0\0\0\0IHAVEOPT\0\0\0\1\0\0\0\4disk"
    machine.feed(b"\0\0\0\0\0\x10\0\0\0\x0d" + bytes(123))
    assert machine.result is None
    machine.feed(b"\0")
    assert machine.result is not None


#: What is said of a server, and what it sends.
BAD_SERVERS = {
    "no NBD": ("Server sent bad initial magic", b"HTTP/1.1 200 OK\r\n\r\n"),
    "oldstyle": (
        "Server speaks oldstyle NBD only",
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0",
    ),
    "bad reply magic": ("Unexpected option reply magic 0x0", GREETING, bytes(20)),
    "reply to another option": ("reply to option 7 nobody asked for", GREETING, reply(7, 1)),
    "huge reply": (
        "option reply of 2147483648 bytes",
        GREETING,
        struct.pack(">QIII", 0x3E889045565A9, 8, 1, 1 << 31),
    ),
    "unexpected reply": (
        "Unexpected reply type 0x3 to option 8",
        GREETING,
        reply(8, const.REP_INFO, b"\0\0"),
    ),
    "short info": ("NBD_REP_INFO without a type", GREETING, reply(8, 1), reply(7, 3, b"\0")),
    "bad export info": (
        "NBD_INFO_EXPORT of wrong length",
        GREETING,
        reply(8, 1),
        reply(7, 3, b"\0\0abc"),
    ),
    "negative size": (
        "Server has an export of impossible size 9223372036854775808",
        GREETING,
        reply(8, 1),
        reply(7, 3, bytes(2) + b"\x80" + bytes(9)),
        reply(7, 1),
    ),
    "negative size in short": (
        "Server has an export of impossible size 9223372036854775808",
        GREETING,
        reply(8, 0x80000001),
        reply(7, 0x80000001),
        b"\x80" + bytes(9),
    ),
    "no export info": (
        "broken server omitted NBD_INFO_EXPORT",
        GREETING,
        reply(8, 1),
        reply(7, 1),
    ),
    "bad block sizes": (
        "Server requires impossible block sizes (3, 4, 5)",
        GREETING,
        reply(8, 1),
        reply(7, 3, b"\0\3" + struct.pack(">3I", 3, 4, 5)),
    ),
}


@pytest.mark.parametrize("given", BAD_SERVERS.values(), ids=BAD_SERVERS.keys())
def test_server_sends_nonsense(given):
    text, *pieces = given
    machine = ClientHandshake("disk")

    def play():
        for piece in pieces:
            machine.feed(piece)

    with pytest.raises(NbdProtocolError) as caught:
        play()
    assert str(caught.value) == text


def test_request_header():
    # Section "Request message"
    assert client.pack_request(const.CMD_READ, 0x0102030405060708, 512, 4096, 1) == (
        b"\x25\x60\x95\x13\0\1\0\0\1\2\3\4\5\6\7\x08\0\0\0\0\0\0\2\0\0\0\x10\0"
    )
