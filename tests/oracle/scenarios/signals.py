"""What is told when a signal ends the program."""

import os
import signal
from pathlib import Path

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.session import Session


def _ended_by(number: signal.Signals) -> None:
    def run(d: Session) -> None:
        name = Path("/proc/self/cmdline").read_text().partition("\0")[0]
        d.transcript.masks[f"pid {os.getpid()} ({name})"] = "TEST"
        d.start()
        d.qmp("query-status")  # QEMU listens to signals late
        d.kill(number)

    run.__name__ = f"ended_by_{number.name.lower()}"
    system_scenario(run)


_ended_by(signal.SIGTERM)
_ended_by(signal.SIGINT)
_ended_by(signal.SIGHUP)


@scenario
def storage_daemon_ended_by_sigterm(d: Session) -> None:
    d.start("--nbd-server", f"addr.type=unix,addr.path={d.path('nbd.sock')}")
    d.kill()
