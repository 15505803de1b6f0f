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
def pidfile_stays_until_the_last_request_has_ended(d: Session) -> None:
    slow = f"null-co,node-name=n,size=1048576,latency-ns={2 * 10**9}"
    export = "nbd,id=e,node-name=n,name=e"
    server = f"addr.type=unix,addr.path={d.path('nbd.sock')}"
    d.start("--blockdev", slow, "--nbd-server", server, "--export", export)
    client = d.nbd("e")
    client.post(0, 0, 512)
    d.qmp("query-block-exports")
    os.kill(int((d.dir / "started.pid").read_text()), signal.SIGTERM)
    client.end()
    d.gone("started.pid")
    d.kill(signal.SIGKILL)  # before QEMU complains that it can't send the reply


@scenario
def storage_daemon_ended_by_sigterm(d: Session) -> None:
    d.start("--nbd-server", f"addr.type=unix,addr.path={d.path('nbd.sock')}")
    d.kill()
