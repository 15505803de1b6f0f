import time

import pytest

from qmpfleece.qapi.bus import EventBus
from qmpfleece.qapi.events import EVENTS, Event


@pytest.fixture
def event_class():
    class SomethingHappened(Event, name="TEST_SOMETHING_HAPPENED"):
        node_name: str

    yield SomethingHappened
    del EVENTS._items["TEST_SOMETHING_HAPPENED"]


def test_events_are_registered_by_name_once(event_class):
    assert EVENTS["TEST_SOMETHING_HAPPENED"] is event_class
    with pytest.raises(ValueError, match="event 'TEST_SOMETHING_HAPPENED' is registered twice"):

        class Again(Event, name="TEST_SOMETHING_HAPPENED"):
            pass


def test_every_listener_hears_every_event_in_order_with_its_time(event_class):
    bus, heard = EventBus(), []
    before = time.time_ns() // 1000
    for name in "ab":
        bus.subscribe(lambda event, now, name=name: heard.append((name, event, now)))
    first, second = event_class(node_name="1"), event_class(node_name="2")
    bus.emit(first)
    bus.emit(second)
    assert [entry[:2] for entry in heard] == [
        ("a", first),
        ("b", first),
        ("a", second),
        ("b", second),
    ]
    assert before <= heard[0][2] <= heard[-1][2] <= time.time_ns() // 1000
    assert first.to_wire() == {"node-name": "1"}


def test_listener_may_leave_while_it_is_told(event_class):
    bus, heard = EventBus(), []

    def once(event, now_us):
        heard.append("once")
        leave()

    leave = bus.subscribe(once)
    bus.subscribe(lambda event, now_us: heard.append("always"))
    bus.emit(event_class(node_name="1"))
    bus.emit(event_class(node_name="2"))
    assert heard == ["once", "always", "always"]
