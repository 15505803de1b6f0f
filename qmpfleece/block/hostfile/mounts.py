"""What kind of file system a file lies in, and what that means."""

from typing import Final

#: File systems of this machine that keep the attributes of open files in memory: asking for
#: them waits for no disk and no other machine.
_LOCAL: Final = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs"})
#: Those whose FIEMAP leaves out nothing that is data. (XFS leaves out what is in memory only and
#: to be written to a fork for copies.)
_MAPPED: Final = frozenset({"ext4"})


def is_local(kind: str) -> bool:
    """Tell whether ``fstat`` of a file that is open can't hang; no when in doubt."""
    return kind in _LOCAL


def tells_extents(kind: str) -> bool:
    """Tell whether FIEMAP can be trusted; no when in doubt."""
    return kind in _MAPPED


def kind_of(fd: int) -> str:
    """Return the kind of the file system that an open file lies in, ``""`` if it can't be told.

    Source: proc(5), ``/proc/self/fdinfo`` and ``/proc/self/mountinfo``.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}") as info:
            fields = dict(line.split(":", 1) for line in info if ":" in line)
        mount = fields["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                words = line.split()
                if words[0] == mount:
                    return words[words.index("-") + 1]
    except (OSError, KeyError, ValueError, IndexError):
        return ""
    return ""
