"""What is written down of a scenario, made comparable.

A transcript is a list of lines. Whatever may differ between two runs of the same program is
masked; the bytes of everything else count, down to the order of an object's members.
"""

import re
from dataclasses import dataclass, field

# Debian's 7.2 runs these later than QEMU 7.0 to 8.2 do, so that their events come before the
# reply. Released QEMU sends the reply first; its order is the one to compare with.
_EVENTS_FOLLOW_REPLY = frozenset({"quit", "block-export-del", "nbd-server-remove"})

# What a job does by itself follows the reply of the command that started or cancelled it.
# Debian's 7.2 may have got so far when it replies. (A job that is pending or waiting is
# finished within the command, which scenarios call as job-cancel and job-finalize.)
_JOB_GOES_ON_AFTER_REPLY = frozenset(
    {"blockdev-backup", "drive-backup", "blockdev-create", "transaction", "block-job-cancel"}
)
_OF_THE_JOB = re.compile(
    r'"status": "(waiting|pending|aborting|concluded|null)"'
    r'|"event": "BLOCK_JOB_(COMPLETED|CANCELLED|PENDING|ERROR)"'
)

_MASKS = (
    (
        re.compile(r'"timestamp": \{"seconds": \d+, "microseconds": \d+\}'),
        '"timestamp": TIME',
    ),
    (
        re.compile(
            r'\{\s*"qemu": \{\s*"micro": \d+,\s*"minor": \d+,\s*"major": \d+\s*\},'
            r'\s*"package": "[^"]*"\s*\}'
        ),
        "VERSION",
    ),
    # getopt's own messages give the program as it was called.
    (re.compile(r"^stderr: /\S*/PROGRAM:", re.MULTILINE), "stderr: PROGRAM:"),
    (re.compile(r"^stdout: \S+ version \d.*$", re.MULTILINE), "stdout: PROGRAM version VERSION"),
    (re.compile(r'"thread-id": \d+'), '"thread-id": THREAD'),
    # How long requests took, and since when there was none.
    (re.compile(r'"(\w+_time_ns)": [1-9]\d*'), r'"\1": TIME'),
    # When an internal snapshot was taken.
    (re.compile(r'"date-(n?)sec": \d+'), r'"date-\1sec": DATE'),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "DATE"),
    (re.compile(r'"vm-clock-(n?)sec": [1-9]\d*'), r'"vm-clock-\1sec": CLOCK'),
    (re.compile(r"[1-9]\d+:\d\d:\d\d\.\d{3}"), "CLOCK"),
    # The temporary image of a snapshot.
    (re.compile(r"/vl\.\w{6}"), "/vl.XXXXXX"),
    (re.compile(r"[\d:.]+( sec)? \([^)]* ops/sec\)"), "TIME"),
)

_GENERATED_NAME = re.compile(r"#block\d{3,}")


@dataclass(slots=True)
class Entry:
    """One step: a reply, an event, or text.

    ``command`` is the QMP command that a reply answers; empty for all else.
    """

    text: str
    command: str = ""
    is_event: bool = False
    wire: bool = False


@dataclass
class Transcript:
    """The lines of one run, in the order in which they were seen."""

    masks: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    generated: dict[str, str] = field(default_factory=dict)

    def mask(self, text: str) -> str:
        """Replace what differs from run to run: times, versions, and the names in ``masks``."""
        for actual in sorted(self.masks, key=len, reverse=True):
            text = text.replace(actual, self.masks[actual])
        for pattern, replacement in _MASKS:
            text = pattern.sub(replacement, text)
        return _GENERATED_NAME.sub(self._name_in_order, text)

    def _name_in_order(self, match: re.Match[str]) -> str:
        """Number generated node names as they appear: QEMU ends them with random digits."""
        return self.generated.setdefault(match[0], f"#block<{len(self.generated)}>")

    def add(
        self, text: str, *, command: str = "", is_event: bool = False, wire: bool = False
    ) -> None:
        """Write down one step; ``wire`` is what came on the monitor and is no event."""
        entry = Entry(self.mask(text), command, is_event, wire or bool(command))
        self.entries.append(entry)

    def lines(self, *, delayed_commands: bool) -> list[str]:
        """Return the lines to compare.

        Args:
            delayed_commands: The program is Debian's 7.2: put its events back behind the
                replies that they follow in released QEMU.
        """
        entries = _replies_first(self.entries) if delayed_commands else self.entries
        entries = _events_first(entries)
        return [line for entry in entries for line in entry.text.split("\n")]


def _replies_first(entries: list[Entry]) -> list[Entry]:
    result: list[Entry] = []
    since_reply = 0
    for entry in entries:
        at = len(result)
        if entry.command in _EVENTS_FOLLOW_REPLY:
            while at > since_reply and result[at - 1].is_event:
                at -= 1
        elif entry.command in _JOB_GOES_ON_AFTER_REPLY and '<- {"return"' in entry.text:
            while at > since_reply and (
                _OF_THE_JOB.search(result[at - 1].text) or _stopped_by_error(result[:at])
            ):
                at -= 1
        result.insert(at, entry)
        if entry.wire:
            since_reply = len(result)
    return result


def _stopped_by_error(entries: list[Entry]) -> bool:
    """Tell whether the last event is that a job pauses for the error in the event before."""
    return (
        len(entries) > 1
        and '"status": "paused"' in entries[-1].text
        and '"event": "BLOCK_JOB_ERROR"' in entries[-2].text
    )


def _events_first(entries: list[Entry]) -> list[Entry]:
    """Put events behind what came before them on the monitor.

    When an event was read, and what other programs did meanwhile, is no matter.
    """
    result: list[Entry] = []
    for entry in entries:
        at = len(result)
        while entry.is_event and at > 0 and not (result[at - 1].wire or result[at - 1].is_event):
            at -= 1
        result.insert(at, entry)
    return result
