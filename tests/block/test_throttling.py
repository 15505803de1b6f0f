"""The arithmetic of limits, against QEMU's rules and a naive model of leaky buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.base.errors import QmpError
from qmpfleece.block.throttling import KINDS, NAMES, Buckets, Limits


def limits(**values: int):
    found = Limits().changed({name.replace("_", "-"): value for name, value in values.items()})
    found.check()
    return found


def passed_at_once(buckets, length, *, write=False, count=20):
    """How many requests of ``length`` bytes go before one has to wait."""
    for done in range(count):
        if buckets.wait_s(0.0, write=write):
            return done
        buckets.account(length, 0.0, write=write)
    return count


# -- what limits may be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"bps_total": -1}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"bps_total": 10**15 + 1}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"bps_total": 1, "bps_total_max": -1}, "bps/iops/max values must be within"),
        ({"bps_total": 1, "bps_read": 1}, "total values and read/write values cannot be used"),
        ({"iops_total": 1, "iops_write": 1}, "total values and read/write values cannot be used"),
        ({"bps_total_max": 5, "bps_write_max": 5}, "total values and read/write values cannot"),
        ({"iops_size": 512}, "iops size requires an iops value to be set"),
        ({"bps_total": 1, "iops_size": 512}, "iops size requires an iops value to be set"),
        ({"bps_total_max_length": 0}, "the burst length cannot be 0"),
        ({"bps_total": 1, "bps_total_max_length": 2}, "burst length set without burst rate"),
        ({"bps_total_max": 10**15, "bps_total_max_length": 2}, "burst length too high for this"),
        ({"bps_total": 1, "bps_total_max": 1, "bps_total_max_length": -1}, "length too high"),
        ({"iops_read_max": 5}, "bps_max/iops_max require corresponding bps/iops values"),
        ({"iops_read": 5, "iops_read_max": 4}, "bps_max/iops_max cannot be lower than bps/iops"),
        (
            {"bps_write_max_length": 1 << 32},
            "bps-write-max-length value must be in the range [0, 4294967295]",
        ),
    ],
)
def test_limits_that_make_no_sense_are_refused_in_qemu_s_words(values, text):
    with pytest.raises(QmpError) as refused:
        limits(**values)
    assert text in refused.value.desc


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"bps_total": 10**15},
        {"bps_total": 5, "iops_read": 5, "iops_write_max_length": 1},
        {"iops_total": 1, "iops_total_max": 5 * 10**14, "iops_total_max_length": 2},
        {"iops_total": 1, "iops_size": -1},
    ],
)
def test_limits_that_qemu_takes_are_taken(values):
    limits(**values)


def test_the_first_of_several_errors_is_qemu_s_first():
    with pytest.raises(QmpError, match="cannot be used at the same time"):
        limits(bps_write=-1, iops_total=-1, bps_total=1)
    with pytest.raises(QmpError, match="must be within"):
        limits(iops_write=-1, iops_write_max_length=0)
    with pytest.raises(QmpError, match="require corresponding"):
        limits(bps_read_max=5, bps_write_max_length=0)


def test_a_change_keeps_what_it_does_not_name():
    changed = limits(bps_total=5, iops_size=1, iops_read=3).changed({"bps-total-max": 10})
    assert changed.to_wire() == dict.fromkeys(NAMES, 0) | {
        f"{kind}-max-length": 1 for kind in KINDS
    } | {"bps-total": 5, "bps-total-max": 10, "iops-size": 1, "iops-read": 3}


# -- how much passes at once: figures seen on qemu-storage-daemon -------------------------------


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ({"bps_total": 1}, 1),
        ({"bps_total": 40960}, 2),
        ({"bps_total": 1, "bps_total_max": 16384}, 5),
        ({"bps_total": 1, "bps_total_max": 8192, "bps_total_max_length": 2}, 1),
        ({"bps_total": 1, "bps_total_max": 40960, "bps_total_max_length": 2}, 2),
        ({"iops_total": 1}, 1),
        ({"iops_total": 1, "iops_total_max": 3}, 4),
        ({"iops_total": 1, "iops_total_max": 3, "iops_size": 2048}, 2),
        ({"iops_total": 1, "iops_total_max": 3, "iops_size": 8192}, 4),
        ({"iops_total": 1, "iops_total_max": 3, "iops_size": -1}, 4),
        ({"iops_read": 1, "iops_read_max": 2}, 3),
        ({"iops_write": 1, "bps_write": 1}, 20),
        ({}, 20),
    ],
)
def test_a_burst_of_reads_is_as_large_as_qemu_s(values, passed):
    assert passed_at_once(Buckets(limits(**values), 0.0), 4096) == passed


def test_reads_and_writes_share_a_total_and_nothing_else():
    buckets = Buckets(limits(iops_total=1, iops_total_max=4, bps_read=1), 0.0)
    assert passed_at_once(buckets, 512) == 1
    assert passed_at_once(buckets, 512, write=True) == 4


def test_the_limit_of_a_burst_counts_once_the_burst_itself_is_not_exceeded():
    """Seen on qemu-storage-daemon: the second request went after 1.07 s, not after 2.97 s."""
    given_limits = limits(bps_total=1000, bps_total_max=1000, bps_total_max_length=2)
    buckets = Buckets(given_limits, 0.0)
    buckets.account(3072, 0.0, write=True)
    assert buckets.wait_s(0.0, write=True) == pytest.approx(1.072)
    assert buckets.wait_s(1.072, write=True) == pytest.approx(1.9)


# -- against a model --------------------------------------------------------------------------


def level(poured, rate, now):
    """What a bucket holds: the most that any stretch up to now has poured above the rate."""
    held = [0.0]
    for since, _ in poured:
        amount = sum(units for when, units in poured if when >= since)
        held.append(amount - rate * (now - since))
    return max(held)


def model_wait(given_limits, poured, now, write):
    """How long a request waits, from all that was let through before."""
    waits = [0.0]
    for kind in KINDS:
        rate, burst, length = (
            given_limits.value(f"{kind}{part}") for part in ("", "-max", "-max-length")
        )
        if not rate or kind.endswith("read" if write else "write"):
            continue
        extra = level(poured[kind], rate, now) - (burst * length if burst else rate / 10)
        if extra > 0:
            waits.append(extra / rate)
        elif length > 1:
            waits.append(max(0.0, level(poured[kind], burst, now) - burst / 10) / burst)
    return max(waits)


@st.composite
def any_limits(draw):
    values = {}
    for unit, most in (("bps", 1 << 20), ("iops", 1000)):
        for kind in draw(st.sampled_from([("total",), ("read", "write"), ("read",), ()])):
            rate = draw(st.integers(1, most))
            values[f"{unit}_{kind}"] = rate
            if draw(st.booleans()):
                values[f"{unit}_{kind}_max"] = draw(st.integers(rate, 4 * most))
                values[f"{unit}_{kind}_max_length"] = draw(st.integers(1, 5))
    if any(name.startswith("iops") for name in values):
        values["iops_size"] = draw(st.integers(0, 8192))
    return limits(**values)


requests = st.lists(
    st.tuples(st.booleans(), st.integers(1, 1 << 17), st.floats(0, 2), st.booleans()), max_size=25
)


def pour(given_limits, poured, now, length, write):
    size = given_limits.iops_size
    units = {"bps": length, "iops": length / size if 0 < size < length else 1}
    for kind in KINDS:
        if not kind.endswith("read" if write else "write"):
            poured[kind].append((now, units[kind.partition("-")[0]]))


@given(any_limits(), requests)
def test_each_request_waits_exactly_as_long_as_the_model_says(given_limits, asked):
    """Neither earlier, which would exceed the limit, nor later, which would starve."""
    buckets, now = Buckets(given_limits, 0.0), 0.0
    poured = {kind: [] for kind in KINDS}
    for write, length, gap, patient in asked:
        now += gap
        wait = buckets.wait_s(now, write=write)
        assert wait == pytest.approx(
            model_wait(given_limits, poured, now, write), rel=1e-6, abs=1e-6
        )
        if patient:  # if not, it is let through all the same, as where a node is drained
            now += wait
        buckets.account(length, now, write=write)
        pour(given_limits, poured, now, length, write)


@given(any_limits(), requests)
def test_no_stretch_of_time_lets_more_through_than_burst_rate_and_one_request(given_limits, asked):
    buckets, now = Buckets(given_limits, 0.0), 0.0
    poured = {kind: [] for kind in KINDS}
    for write, length, gap, _ in asked:
        now += gap
        now += buckets.wait_s(now, write=write)
        buckets.account(length, now, write=write)
        pour(given_limits, poured, now, length, write)
    for kind, done in poured.items():
        rate, burst, seconds = (
            given_limits.value(f"{kind}{part}") for part in ("", "-max", "-max-length")
        )
        for first, (since, _) in enumerate(done if rate else ()):
            amount = 0.0
            for until, units in done[first:]:
                allowed = (burst * seconds or rate / 10) + rate * (until - since)
                assert amount <= allowed * (1 + 1e-6) + 1e-3  # the last request comes on top
                amount += units
