"""The arguments of ``qmpfleece`` and its verbs; those of ``serve`` are the daemon's own."""

import argparse
import sys
from typing import NoReturn

EPILOG = "See 'qmpfleece VERB --help' for the options of a verb."


class _Parser(argparse.ArgumentParser):
    """Answers bad usage with one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parser() -> _Parser:
    """Return what reads the arguments, or ends the program with an explanation."""
    top = _Parser(
        prog="qmpfleece",
        description="Back up a disk as it is at one moment, while it is written to.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=_version())
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser(
        "serve",
        add_help=False,
        help="the daemon alone, driven over QMP; options as qemu-storage-daemon",
    )
    _add_fleece(verbs.add_parser("fleece", help="show a disk as it is now, and let it be written"))
    _add_pull(verbs.add_parser("pull", help="copy an NBD export into a file"))
    _add_demo(verbs.add_parser("demo", help="show all of it in half a minute"))
    return top


def _add_fleece(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Export DISK over NBD twice: 'guest', to be written to, and 'snapshot', read-only, "
        "which stays what DISK is now. Ends on Ctrl-C."
    )
    add = parser.add_argument
    add("disk", type=name, metavar="DISK", help="the disk: an image file or a block device")
    add("--format", default="raw", metavar="FMT", help="format of DISK (default: raw)")
    add(
        "--temp",
        metavar="FILE",
        help="file for what the guest overwrites: made and removed at the end, or an existing "
        "empty one (default: a hidden sparse file beside DISK)",
    )
    add(
        "--nbd",
        metavar="ADDRESS",
        help="unix:PATH, HOST:PORT or [ADDRESS]:PORT to serve at (default: a socket in a "
        "directory of one's own)",
    )
    add("--qmp", metavar="PATH", help="unix socket of the QMP monitor (default: beside NBD's)")
    add(
        "--run",
        metavar="CMD",
        help="keep the snapshot while the shell command CMD runs, and exit with its status; "
        "it finds $uri, $guest_uri and $qmp in its environment",
    )
    add(
        "--on-error",
        choices=("break-snapshot", "break-guest-write"),
        default="break-snapshot",
        help="what suffers when saving the old data fails (default: break-snapshot)",
    )
    add(
        "--timeout",
        type=seconds,
        metavar="S",
        help="seconds after which saving old data counts as failed, 0 for never "
        "(default: 15; never with break-guest-write)",
    )


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy the data of an NBD export into FILE, which is sparse where the export is zero. "
        "FILE is written as FILE.part and gets its name when it is complete and on disk; when "
        "pull fails, FILE is what it was before. Exit status 0 means complete."
    )
    add = parser.add_argument
    add("uri", metavar="URI", help="nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH")
    add(
        "file",
        type=name,
        metavar="FILE",
        help="the file to make; a block device is written in place",
    )
    add(
        "--bitmap",
        metavar="NAME",
        help="copy only what this dirty bitmap of the export marks; the rest of FILE is zeroes",
    )
    add(
        "--update",
        action="store_true",
        help="write into the existing FILE, leaving the rest as it is (an incremental backup "
        "with --bitmap); when pull fails FILE is part old, part new",
    )
    add("--sha256", action="store_true", help="print the SHA-256 of FILE's content when done")
    add("--quiet", action="store_true", help="print nothing but errors and the SHA-256")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fleece a disk, write to it all the time and pull the snapshot meanwhile; then prove "
        "that what was pulled is the disk as it was. Without DISK a sample is made and removed. "
        "DISK itself is only read: the demonstration works on a copy of it."
    )
    parser.add_argument("disk", nargs="?", metavar="DISK", help="a disk image of your own")
    parser.add_argument(
        "--stay", action="store_true", help="leave everything up at the end, until Ctrl-C"
    )


def name(text: str) -> str:
    """Return what names a file; an unset variable leaves nothing, and would name the folder."""
    if not text:
        raise ValueError(text)
    return text


def seconds(text: str) -> int:
    """Return a number of seconds; argparse quotes this function's name."""
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise ValueError(text)
    return value


def _version() -> str:
    from qmpfleece import __version__

    return f"qmpfleece {__version__}"
