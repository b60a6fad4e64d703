# SPDX-License-Identifier: Apache-2.0
"""The numbered events that are kept, how they are asked for, and rate limits beside resets and stops."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.qmp_support import Client, ManualLoop, Monitor
from tests.unit.test_qmp_connection import Rig
from vmmd.core.event_ring import EventRing
from vmmd.core.events import (
    BlockIoErrorEvent,
    DeviceTrayMovedEvent,
    GuestCrashloadedEvent,
    GuestPanickedEvent,
    ResetEvent,
    RtcChangeEvent,
)
from vmmd.qmp.events import EventRouter

QUERY = "__org.vmmd_query-events"


def numbers(ring: EventRing, since: int, limit: int = 100) -> list[int]:
    return [each.number for each in ring.since(since, limit)]


def test_ring_is_bounded_by_count_and_knows_what_is_lost() -> None:
    ring = EventRing(max_events=3)
    assert (numbers(ring, 0), ring.next, ring.lost(0)) == ([], 1, 0)
    for turn in range(5):
        ring.add({"event": turn})
    assert numbers(ring, 0) == [3, 4, 5]
    assert numbers(ring, 4) == [4, 5]
    assert numbers(ring, 0, limit=2) == [3, 4]
    assert numbers(ring, 6) == numbers(ring, 600) == []
    assert (ring.lost(0), ring.lost(1), ring.lost(2), ring.lost(3), ring.lost(9)) == (2, 2, 1, 0, 0)


def test_ring_is_bounded_by_bytes() -> None:
    ring = EventRing(max_bytes=1000)
    for _turn in range(5):
        ring.add({"event": "x" * 300})
    assert numbers(ring, 0) == [3, 4, 5]
    ring.add({"event": "x" * 2000})
    assert (numbers(ring, 0), ring.lost(0), ring.next) == ([], 6, 7)


def test_client_that_comes_later_gets_what_it_has_missed() -> None:
    with Monitor() as monitor:
        first = Client(monitor)
        for name in ("cont", "stop", "cont"):
            assert first.run(name) == {}
        first.close()
        second = Client(monitor)
        answer = second.run(QUERY, since=2)
        assert [(each["number"], each["event"]["event"]) for each in answer["events"]] == [(2, "STOP"), (3, "RESUME")]
        assert set(answer["events"][0]["event"]) == {"event", "timestamp"}
        assert (answer["next"], answer["lost"]) == (4, 0)
        assert second.run(QUERY, since=0, limit=1)["next"] == 2
        assert second.run(QUERY, since=4) == {"events": [], "next": 4, "lost": 0}
        assert second.run(QUERY, since=-1) == "Parameter 'since' expects a non-negative value"
        assert second.run(QUERY, since=0, limit=0) == "Parameter 'limit' expects a value above 0"
        second.close()


def io_error(action: str) -> BlockIoErrorEvent:
    return BlockIoErrorEvent("", "n0", "write", action, None, "No space left on device")


@pytest.mark.parametrize(("action", "sent"), [("report", 1), ("ignore", 1), ("stop", 5)])
def test_disk_errors_are_limited_unless_they_stop_the_machine(action: str, sent: int) -> None:
    rig = Rig()
    for _turn in range(5):
        rig.server.emit(io_error(action))
    assert len(rig.stream.messages()) == sent


def test_a_guest_makes_no_more_events_than_the_loop_comes_to() -> None:
    """From other threads: the last of those about one thing; of panics one a second while the guest goes on."""
    loop = ManualLoop()
    sent: list[dict[str, Any]] = []
    router = EventRouter(loop, sent.append)
    loop.on_loop_thread = lambda: False  # type: ignore[method-assign]
    for is_open in (True, False) * 3:
        for each in ("cd0", "cd1"):
            router.emit(DeviceTrayMovedEvent("", each, is_open))
    for _turn in range(3):
        router.emit(GuestPanickedEvent("run"))
        router.emit(GuestCrashloadedEvent("run"))
    loop.run_posted()
    assert [each["event"] for each in sent] == 2 * ["DEVICE_TRAY_MOVED"] + ["GUEST_PANICKED", "GUEST_CRASHLOADED"]
    assert not any(each["data"]["tray-open"] for each in sent[:2])  # type: ignore[index]


def test_what_is_held_back_is_sent_before_a_reset_and_not_after_it() -> None:
    rig = Rig()
    for offset in (1, 2, 3):
        rig.server.emit(RtcChangeEvent(offset, "/machine/rtc"))
    rig.server.emit(ResetEvent(True, "guest-reset"))
    found: list[dict[str, Any]] = rig.stream.messages()
    assert [each["event"] for each in found] == ["RTC_CHANGE", "RTC_CHANGE", "RESET"]
    assert found[1]["data"]["offset"] == 3
    rig.loop.fire_timers()
    assert rig.stream.messages() == []
