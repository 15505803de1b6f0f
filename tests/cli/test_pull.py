import hashlib
import os
import signal

import pytest

from qmpfleece.base.units import KIB, MIB
from qmpfleece.cli.ending import Failure
from qmpfleece.cli.pull import claimed
from tests.tools.programs import QMPFLEECE, QSD, Qmp, needs, run, running
from tests.tools.servers import nbdkit, needs_nbdkit, needs_qemu, qemu_nbd

SIZE = 24 * MIB


def pull(*arguments: object, folder):
    return run(QMPFLEECE, "pull", *arguments, folder=folder)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(os.urandom(3 * MIB + 1000))
        file.seek(11 * MIB)
        file.write(os.urandom(MIB))
        file.truncate(SIZE)
    return path


@needs_qemu
def test_the_file_equals_the_export_and_is_as_sparse(tmp_path, image):
    with qemu_nbd(tmp_path / "s", image, "-f", "raw", "-r") as uri:
        done = pull(uri, "out", "--sha256", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert out.read_bytes() == image.read_bytes()
    assert out.stat().st_blocks <= image.stat().st_blocks + 128
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert done.stdout == f"{digest}  out\n"
    assert done.stderr.startswith("pulling 'disk' into out: 24.0 MiB\n")
    assert "complete: 4.0 MiB copied, 20.0 MiB had nothing to copy" in done.stderr
    compare = run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, out)
    assert "identical" in compare.stdout


@needs_qemu
def test_quiet_says_nothing(tmp_path, image):
    with qemu_nbd(tmp_path / "s", image, "-f", "raw", "-r") as uri:
        done = pull(uri, "out", "--quiet", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_nbdkit
def test_a_server_without_block_status_will_do(tmp_path):
    with nbdkit(tmp_path / "s", "--no-sr", "pattern", "2M") as uri:
        assert pull(uri, "out", folder=tmp_path).returncode == 0
    content = (tmp_path / "out").read_bytes()
    assert len(content) == 2 * MIB
    assert content[-8:] == (2 * MIB - 8).to_bytes(8, "big")


@needs_nbdkit
def test_a_failed_read_is_one_line_and_status_1_and_no_file(tmp_path):
    arguments = ("--filter=error", "memory", "8M", "error-pread=EIO", "error-pread-rate=100%")
    with nbdkit(tmp_path / "s", "--filter=noextents", *arguments) as uri:
        done = pull(uri, "out", "--quiet", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("qmpfleece pull: ")
    assert done.stderr.endswith(f"; {tmp_path}/out was not made\n")
    assert [name for name in os.listdir(tmp_path) if name.startswith("out")] == []


@needs_nbdkit
def test_a_failed_pull_leaves_the_old_file(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    arguments = ("--filter=error", "memory", "8M", "error-pread=EIO", "error-pread-rate=100%")
    with nbdkit(tmp_path / "s", "--filter=noextents", *arguments) as uri:
        done = pull(uri, "out", folder=tmp_path)
    assert done.returncode == 1
    assert "is unchanged" in done.stderr
    assert (tmp_path / "out").read_bytes() == b"old"


@needs_nbdkit
def test_ctrl_c_ends_a_pull_that_hangs_and_leaves_no_file(tmp_path):
    # Replies come after a minute.
    server = nbdkit(tmp_path / "s", "--filter=delay", "pattern", "8M", "rdelay=60")
    command = (QMPFLEECE, "pull", f"nbd+unix:///?socket={tmp_path / 's'}", "out")
    with server, running(*command, folder=tmp_path) as puller:
        puller.wait_for(tmp_path / "out.part")
        assert puller.end(signal.SIGINT)[0] == 128 + signal.SIGINT
    assert [name for name in os.listdir(tmp_path) if name.startswith("out")] == []


@pytest.fixture
def hanging(tmp_path):
    """Yield the URI of an export of 1 MiB whose reads are answered after a minute."""
    with nbdkit(tmp_path / "slow", "--filter=delay", "pattern", "1M", "rdelay=60") as uri:
        yield uri


@needs_nbdkit
@pytest.mark.parametrize(
    ("old", "message"),
    [
        (None, "another pull is writing '{}/out.part'"),
        (b"old", 'Failed to get "write" lock; is another process using it?'),
    ],
)
def test_one_pull_does_not_take_the_file_of_another_one(tmp_path, hanging, old, message):
    out, part = tmp_path / "out", tmp_path / "out.part"
    if old is not None:
        out.write_bytes(old)
    with (
        nbdkit(tmp_path / "quick", "pattern", "1M") as uri,
        running(QMPFLEECE, "pull", hanging, "out", folder=tmp_path) as first,
    ):
        first.wait_for(part)
        done = pull(uri, "out", "--quiet", folder=tmp_path)
        message = message.format(tmp_path)
        assert done.stderr == f"qmpfleece pull: cannot write 'out': {message}\n"
        assert done.returncode == 1
        assert part.exists()
        assert first.end(signal.SIGINT)[0] == 128 + signal.SIGINT
        assert not part.exists()
        assert (out.read_bytes() if out.exists() else None) == old
        assert pull(uri, "out", "--quiet", folder=tmp_path).returncode == 0


@needs("qemu-io", "qemu-img")
@pytest.mark.parametrize("update", [False, True])
def test_no_machine_gets_a_disk_that_is_being_pulled(tmp_path, update):
    disk = tmp_path / "disk"
    write = ("-f", "qcow2", "-c", "write 0 512", disk)
    run("qemu-img", "create", "-f", "qcow2", disk, "1M")
    with claimed(disk, update=update):
        assert 'Failed to get "write" lock' in run("qemu-io", *write).stderr
        # What it was before may be read, what is part old, part new may not.
        read = run("qemu-img", "info", disk)
        assert ('Failed to get shared "write" lock' in read.stderr) == update
        with pytest.raises(Failure, match=r"Failed to get .* lock"), claimed(disk, update=update):
            pass
    assert run("qemu-io", *write).returncode == 0


@needs_nbdkit
def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "out").symlink_to("out")
    with nbdkit(tmp_path / "s", "pattern", "1M") as uri:
        done = pull(uri, "out", "--quiet", folder=tmp_path)
    message = "cannot write 'out': Too many levels of symbolic links"
    assert (done.returncode, done.stderr) == (1, f"qmpfleece pull: {message}\n")


#: One byte more than the path of a unix socket may have.
LONG = "/" + "x" * 107


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: URI, FILE (see qmpfleece pull --help)"),
        (["nbd://h"], 2, "the following arguments are required: FILE (see qmpfleece pull --help)"),
        (["x", ""], 2, "argument FILE: invalid name value: '' (see qmpfleece pull --help)"),
        (["x", "out"], 1, "'x' is not an NBD URI; it starts with nbd:// or nbd+unix://"),
        (["nbd+unix:///?socket=none", "out"], 1,
         "cannot connect to none: No such file or directory"),
        (["nbd://127.0.0.1:1/x", "out"], 1, "cannot connect to 127.0.0.1:1: Connection refused"),
        ([f"nbd+unix:///?socket={LONG}", "out"], 1,
         f"cannot connect to {LONG}: File name too long"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_one_line(tmp_path, arguments, status, message):
    done = pull(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"qmpfleece pull: {message}\n"


@needs_nbdkit
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--filter=exportname", "exportname-strict=true"], "Requested export not available"),
        (["--tls=require", "--tls-psk=psk"], "TLS negotiation required"),
    ],
)
def test_what_a_server_refuses_without_a_word_is_said_in_words(tmp_path, options, message):
    (tmp_path / "psk").write_text("a:00112233445566778899aabbccddeeff\n")
    psk = [option.replace("=psk", f"={tmp_path}/psk") for option in options]
    with nbdkit(tmp_path / "s", "pattern", "1M", *psk) as uri:
        done = pull(uri, "out", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"qmpfleece pull: the server at {tmp_path}/s refuses: {message}\n"


@needs_qemu
def test_what_the_server_has_not_is_one_line(tmp_path, image):
    with qemu_nbd(tmp_path / "s", image, "-f", "raw", "-r") as uri:
        done = pull(uri.replace("/disk", "/other"), "out", folder=tmp_path)
        assert done.stderr.endswith("refuses: export 'other' not present\n")
        done = pull(uri, "out", "--bitmap", "b", folder=tmp_path)
        assert done.stderr.endswith("the export 'disk' has no dirty bitmap 'b'\n")
        done = pull(uri, "no/such/out", folder=tmp_path)
        assert done.stderr.endswith("cannot write 'no/such/out': No such file or directory\n")
        done = pull(uri, "none", "--update", folder=tmp_path)
        assert done.stderr.endswith("cannot write 'none': No such file or directory\n")
    assert done.returncode == 1


@needs("qemu-io")
def test_an_incremental_backup_updates_a_full_one(tmp_path, image):
    command = (
        *(QSD, "--chardev", "socket,id=c,path=q,server=on,wait=off", "--monitor", "c"),
        *("--blockdev", "file,node-name=d,filename=image"),
        *("--nbd-server", "addr.type=unix,addr.path=s", "--pidfile", "p"),
    )
    with running(*command, folder=tmp_path) as daemon:
        daemon.wait_for(tmp_path / "p", filled=True)
        with Qmp(tmp_path / "q") as qmp:
            qmp.execute("block-dirty-bitmap-add", node="d", name="b0")
            export = {"type": "nbd", "id": "e", "node-name": "d", "name": "d", "writable": True}
            qmp.execute("block-export-add", **export, bitmaps=["b0"])
            uri = "nbd+unix:///d?socket=s"
            assert pull(uri, "full", folder=tmp_path).returncode == 0
            assert (tmp_path / "full").read_bytes() == image.read_bytes()
            before = bytearray(image.read_bytes())
            writes = (
                "-c",
                "write -P 5 1M 64k",
                "-c",
                "write -z 2M 128k",
                "-c",
                "write -P 6 20M 1k",
            )
            run("qemu-io", "-f", "raw", *writes, uri, folder=tmp_path)

            # An incremental image holds what has changed and nothing else.
            assert pull(uri, "inc", "--bitmap", "b0", folder=tmp_path).returncode == 0
            expected = bytearray(SIZE)
            expected[MIB : MIB + 64 * KIB] = b"\5" * (64 * KIB)
            expected[20 * MIB : 20 * MIB + KIB] = b"\6" * KIB
            assert (tmp_path / "inc").read_bytes() == expected

            done = pull(uri, "full", "--bitmap", "b0", "--update", folder=tmp_path)
            assert done.returncode == 0, done.stderr
            before[MIB : MIB + 64 * KIB] = b"\5" * (64 * KIB)
            before[2 * MIB : 2 * MIB + 128 * KIB] = bytes(128 * KIB)
            before[20 * MIB : 20 * MIB + KIB] = b"\6" * KIB
            assert (tmp_path / "full").read_bytes() == before
        assert daemon.end()[0] == 0
