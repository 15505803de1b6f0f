"""``info block`` and ``info block-jobs``."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.control.commands import query_block
from qmpfleece.control.describe import Wire, device_info
from qmpfleece.control.monitor import specific
from qmpfleece.control.system import System
from qmpfleece.jobs.block_job import BlockJob

_SNAPSHOTS: Final = (
    "Snapshot list:\n"
    "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT"
)
_LIMITS: Final = (
    "bps", "bps_rd", "bps_wr", "bps_max", "bps_rd_max", "bps_wr_max",
    "iops", "iops_rd", "iops_wr", "iops_max", "iops_rd_max", "iops_wr_max", "iops_size",
)  # fmt: skip


async def block_jobs(system: System) -> str:
    """Describe the jobs that work on nodes, newest first."""
    jobs = [job for job in await system.jobs.settled_jobs() if isinstance(job, BlockJob)]
    return (
        "".join(
            f"Type {job.kind}, device {job.id}: Completed {job.current} of {job.total} bytes,"
            f" speed limit {job.speed} bytes/s\n"
            for job in jobs
        )
        or "No active jobs\n"
    )


async def named_nodes(system: System, name: str | None, *, verbose: bool) -> str:
    """Describe one node, or all of them; nothing if any can't be described."""
    try:
        found = [await device_info(node, flat=False) for node in system.graph.nodes()]
    except QmpError:
        return ""
    return _listed(
        found, "node-name", name, lambda info: _text(info["node-name"], info, [], verbose=verbose)
    )


async def disks(system: System, name: str | None, *, verbose: bool) -> str:
    """Describe the disk of that name, or all of them; nothing if any can't be described."""
    try:
        found = [await query_block.describe(disk) for disk in query_block.disks(system)]
    except QmpError:
        return ""
    return _listed(found, "device", name, lambda info: _disk(info, verbose=verbose))


def _listed(found: list[Wire], key: str, name: str | None, text: Callable[[Wire], str]) -> str:
    """Return the texts of those of that name, or of all; only the first of all has no gap."""
    return "".join(
        ("\n" if index else "") + text(info)
        for index, info in enumerate(found)
        if name is None or info[key] == name
    )


def _disk(info: Wire, *, verbose: bool) -> str:
    inserted = info.get("inserted")
    node = "" if inserted is None else inserted["node-name"]
    called = info["device"] or node or info.get("qdev", "")
    lines = [f"    Attached to:      {info['qdev']}"] if info.get("qdev") else []
    if info["removable"]:
        state = "open" if info.get("tray_open") else "closed"
        lines.append(f"    Removable device: not locked, tray {state}")
    if inserted is None:
        return "".join(f"{line}\n" for line in [f"{called}: [not inserted]", *lines])
    more = f" ({node})" if info["device"] else ""
    return _text(f"{called}{more}", inserted, lines, verbose=verbose)


def _text(called: str, info: Wire, more: list[str], *, verbose: bool) -> str:
    cache = info["cache"]
    lines = [
        f"{called}: {info['file']} ({info['drv']}{', read-only' if info['ro'] else ''})",
        *more,
        f"    Cache mode:       {'writeback' if cache['writeback'] else 'writethrough'}"
        + (", direct" if cache["direct"] else "")
        + (", ignore flushes" if cache["no-flush"] else ""),
    ]
    if "backing_file" in info:
        depth = info["backing_file_depth"]
        lines.append(f"    Backing file:     {info['backing_file']} (chain depth: {depth})")
    if info["detect_zeroes"] != "off":
        lines.append(f"    Detect zeroes:    {info['detect_zeroes']}")
    if "group" in info:
        values = " ".join(f"{name}={info.get(name, 0)}" for name in _LIMITS)
        lines.append(f"    I/O throttling:   {values} group={info['group']}")
    if verbose:
        lines += ["", "Images:"]
        image: Wire | None = info["image"]
        while image is not None:
            lines += _image(image)
            image = image.get("backing-image")
    return "".join(f"{line}\n" for line in lines)


def _short(value: int) -> str:
    """Return a size with three significant digits."""
    power = next((p for p in (60, 50, 40, 30, 20, 10) if value >= 1000 << p - 10), 0)
    unit = {0: "B", 10: "KiB", 20: "MiB", 30: "GiB", 40: "TiB", 50: "PiB", 60: "EiB"}[power]
    return f"{value / (1 << power):0.3g} {unit}"


def _snapshot(info: Mapping[str, Any]) -> str:
    """Return the line of an internal snapshot. Source: QAPI ``SnapshotInfo``."""
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info["date-sec"]))
    minutes, seconds = divmod(info["vm-clock-sec"], 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours:02}:{minutes:02}:{seconds:02}.{info['vm-clock-nsec'] // 1_000_000:03}"
    size = _short(info["vm-state-size"])
    icount = info.get("icount", "")
    return f"{info['id']:<9} {info['name']:<16} {size:>8}{date:>20}{clock:>13}{icount:>11}"


def _image(info: Wire) -> list[str]:
    lines = [
        f"image: {info['filename']}",
        f"file format: {info['format']}",
        f"virtual size: {_short(info['virtual-size'])} ({info['virtual-size']} bytes)",
        "disk size: " + (_short(info["actual-size"]) if "actual-size" in info else "unavailable"),
    ]
    if "cluster-size" in info:
        lines.append(f"cluster_size: {info['cluster-size']}")
    if "backing-filename" in info:
        name, full = info["backing-filename"], info.get("full-backing-filename")
        actual = f" (actual path: {full})" if full and full != name else ""
        lines.append(f"backing file: {name}{actual}")
    if "backing-filename-format" in info:
        lines.append(f"backing file format: {info['backing-filename-format']}")
    if "snapshots" in info:
        lines += [_SNAPSHOTS, *(_snapshot(item) for item in info["snapshots"])]
    if "format-specific" in info:
        lines += [specific.HEADING, *specific.lines(info["format-specific"])]
    return lines
