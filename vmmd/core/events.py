# SPDX-License-Identifier: Apache-2.0
"""Events the machine tells the world (QMP events), declared once, typed, cheap to import.

An event is a NamedTuple subclass registered with ``@event(WIRE_NAME)``. Its fields are the members of the QMP
``data`` object (``_`` becomes ``-``; a field that is None is left out; ``Annotated[str, …]`` names the words that a
text may be). ``EventSink.emit`` may be called from any thread; the monitor server orders, throttles and queues them on
the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NotRequired, Protocol, TypedDict, TypeVar

from vmmd.core.device import ShutdownCause
from vmmd.core.unions import TaggedUnion
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bound=type)


class EventInfo(NamedTuple):
    """Registration of one event type."""

    wire_name: str
    #: minimum distance of two sent events with equal ``rate_key`` fields; 0: every one is sent, but of those that other
    #: threads emit before the loop comes to them only the last, if there is a key: a guest makes any number of them
    rate_limit_ns: int
    rate_key: tuple[str, ...]
    doc: str
    #: (field, value): events with it are sent whatever the limit says
    never_limited: tuple[str, object] | None = None


EVENTS: dict[type, EventInfo] = {}


def event(
    wire_name: str,
    *,
    rate_limit_ns: int = 0,
    rate_key: tuple[str, ...] = (),
    never_limited: tuple[str, object] | None = None,
) -> Callable[[T], T]:
    """Register a NamedTuple as QMP event ``wire_name``."""

    def register(cls: T) -> T:
        EVENTS[cls] = EventInfo(wire_name, rate_limit_ns, rate_key, cls.__doc__ or "", never_limited)
        return cls

    return register


def event_data(instance: tuple[object, ...]) -> dict[str, object]:
    """The QMP ``data`` object of an event, without the members that are None."""
    names: tuple[str, ...] = instance._fields  # type: ignore[attr-defined]  # NamedTuple
    return {name.replace("_", "-"): value for name, value in zip(names, instance, strict=True) if value is not None}


class EventSink(Protocol):
    def emit(self, instance: tuple[object, ...]) -> None:
        """Queue an event for every negotiated monitor session. Any thread; never blocks."""


@event("STOP")
class StopEvent(NamedTuple):
    """The virtual machine has stopped."""


@event("RESUME")
class ResumeEvent(NamedTuple):
    """The virtual machine has been resumed."""


@event("RESET")
class ResetEvent(NamedTuple):
    """The virtual machine has been reset."""

    guest: bool
    reason: Annotated[str, ShutdownCause]


@event("SHUTDOWN")
class ShutdownEvent(NamedTuple):
    """The virtual machine has shut down and is about to end, or waits in state ``shutdown`` with -no-shutdown."""

    guest: bool
    reason: Annotated[str, ShutdownCause]


@event("POWERDOWN")
class PowerdownEvent(NamedTuple):
    """The power button was pressed (system_powerdown)."""


@event("SUSPEND_DISK")
class SuspendDiskEvent(NamedTuple):
    """The guest has hibernated (ACPI S4) and powers off; SHUTDOWN follows."""


# a guest that goes on with a broken disk makes thousands of them; one that stops the machine is never held back
@event(
    "BLOCK_IO_ERROR",
    rate_limit_ns=NS_PER_S,
    rate_key=("device", "node_name", "operation", "action"),
    never_limited=("action", "stop"),
)
class BlockIoErrorEvent(NamedTuple):
    """A disk request failed and the rerror/werror policy was applied."""

    device: str
    node_name: str | None
    operation: Annotated[str, Literal["read", "write"]]
    action: Annotated[str, Literal["ignore", "report", "stop"]]
    nospace: bool | None  # None for disks whose errors never stop the VM
    reason: str


@event("NIC_RX_FILTER_CHANGED")
class NicRxFilterChangedEvent(NamedTuple):
    """The guest has changed which frames its network card takes. Told once; query-rx-filter makes it be told again."""

    name: str | None  # the device's id
    path: str


@event("RTC_CHANGE", rate_limit_ns=NS_PER_S)
class RtcChangeEvent(NamedTuple):
    """The guest set its real-time clock; ``offset`` is seconds from ``-rtc base``."""

    offset: int
    qom_path: str


@event("BALLOON_CHANGE", rate_limit_ns=NS_PER_S)
class BalloonChangeEvent(NamedTuple):
    """The guest has given memory back, or taken some: ``actual`` bytes are left to it now."""

    actual: int


@event("DEVICE_DELETED")
class DeviceDeletedEvent(NamedTuple):
    """A device is gone; its id is free."""

    device: str | None
    path: str


# a guest may report as often as it likes, once for each request of a client
@event("DEVICE_UNPLUG_GUEST_ERROR")
class DeviceUnplugGuestErrorEvent(NamedTuple):
    """The guest was asked to let go of a device and has refused, or has not answered in the time that
    ``__org.vmmd_set-unplug-timeout`` gives it. ``device`` is the device's id."""

    device: str | None
    path: str


# a guest opens and closes as often as it likes
@event("VSERPORT_CHANGE", rate_limit_ns=NS_PER_S, rate_key=("id",))
class VserportChangeEvent(NamedTuple):
    """The guest has opened or closed its end of a virtio-serial port."""

    id: str
    open: bool


@event("DEVICE_TRAY_MOVED", rate_key=("id",))
class DeviceTrayMovedEvent(NamedTuple):
    """The tray of a drive has opened or closed, by the guest or by a command. ``id`` is the device's, or its path."""

    device: str
    id: str
    tray_open: bool


# a guest may say so as often as it likes when it goes on
@event("GUEST_PANICKED", rate_limit_ns=NS_PER_S, rate_key=("action",), never_limited=("action", "pause"))
class GuestPanickedEvent(NamedTuple):
    """The guest has panicked and said so (pvpanic); ``action`` is what follows."""

    action: Annotated[str, Literal["pause", "poweroff", "run"]]


@event("GUEST_CRASHLOADED", rate_limit_ns=NS_PER_S)
class GuestCrashloadedEvent(NamedTuple):
    """The guest has panicked and runs its crash kernel now (pvpanic); it goes on."""

    action: Annotated[str, Literal["pause", "poweroff", "run"]]


@event("WATCHDOG")
class WatchdogEvent(NamedTuple):
    """A watchdog device has expired; ``action`` is what follows."""

    action: Annotated[str, Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]]


class InetPeer(TypedDict):
    """A TCP address; ``ipv4`` or ``ipv6`` says of which kind."""

    type: Literal["inet"]
    host: str
    port: str
    ipv4: NotRequired[bool]
    ipv6: NotRequired[bool]


class UnixPeer(TypedDict):
    """A UNIX socket."""

    type: Literal["unix"]
    path: str
    abstract: NotRequired[bool]
    tight: NotRequired[bool]


Peer = Annotated[InetPeer | UnixPeer, TaggedUnion("type")]


@event("NETDEV_STREAM_CONNECTED")
class NetdevStreamConnectedEvent(NamedTuple):
    """A netdev ``stream`` has a peer: ``addr`` is the peer's TCP address, or the UNIX socket where they met."""

    netdev_id: str
    addr: Peer


@event("NETDEV_STREAM_DISCONNECTED")
class NetdevStreamDisconnectedEvent(NamedTuple):
    """The peer of a netdev ``stream`` has gone, or was dropped because it sent what is no frame."""

    netdev_id: str


@event("__org.vmmd_EVENT_OVERFLOW")
class EventOverflowEvent(NamedTuple):
    """This client did not read, and as many events for it were dropped here. ``__org.vmmd_query-events`` may have them
    still."""

    dropped: int
