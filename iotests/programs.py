# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own programs, as the tools around the program under test."""

import subprocess
from typing import Final

#: Size of every disk, in bytes.
DISK_SIZE: Final = 64 << 20


class ProgramError(Exception):
    """A tool failed where the test needs it to succeed."""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def qemu_img(*arguments: str) -> None:
    """Run a qemu-img command that must succeed.

    Raises:
        ProgramError: It did not.
    """
    done = _run("qemu-img", *arguments)
    if done.returncode:
        raise ProgramError(f"qemu-img {' '.join(arguments)}: {done.stderr}")


def create(path: str, fmt: str = "qcow2", size: int = DISK_SIZE) -> None:
    """Make an image of so many bytes."""
    qemu_img("create", "-q", "-f", fmt, path, str(size))


def identical(first: str, second: str) -> bool:
    """Compare two images as qemu-img compare does: by what a guest would read.

    Raises:
        ProgramError: An image could not be read.
    """
    done = _run("qemu-img", "compare", first, second)
    if done.returncode > 1:
        raise ProgramError(f"qemu-img compare: {done.stderr}")
    return done.returncode == 0


def qemu_io(image: str, command: str, *, fmt: str = "qcow2") -> str:
    """Run one reading qemu-io command on an image or an NBD URI.

    Returns:
        What qemu-io says when it failed or read other bytes than expected; else nothing.
    """
    done = _run("qemu-io", "-r", "-f", fmt, "-c", command, image)
    return done.stdout + done.stderr if done.returncode else ""


def qemu_io_write(image: str, command: str) -> None:
    """Run one writing qemu-io command on a qcow2 image that nobody else has open.

    Raises:
        ProgramError: It failed.
    """
    done = _run("qemu-io", "-f", "qcow2", "-c", command, image)
    if done.returncode:
        raise ProgramError(f"qemu-io {command}: {done.stdout}{done.stderr}")
