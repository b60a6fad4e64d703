# SPDX-License-Identifier: Apache-2.0
"""Commands about displays (LIMIT: there are none yet) and input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core import input as guest_input
from vmmd.core.keycodes import key_of_number
from vmmd.errors import DeviceNotFoundError, StateError, UsageError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.qmp.models.ui import DisplayOptions, InputEvent, KeyValue, MouseInfo

#: a key without a code anywhere: what an unknown number is
_NO_KEY = "unmapped"
#: events of one command: more are no one moment, and would keep the vCPUs waiting for milliseconds
EVENTS_MAX = 256
_VALUE_MAX = 1 << 31


@command("query-display-options", since="3.1")
def query_display_options(ctx: Context) -> DisplayOptions:
    """Where the guest's screen is shown (-display)."""
    return {"type": "none"}


@command("query-mice", since="0.14")
def query_mice(ctx: Context) -> list[MouseInfo]:
    """The guest's pointing devices; relative movements go to the first relative one."""
    with ctx.vm.lock:
        mice = ctx.vm.inputs.mice()
    return [
        {"name": each.name, "index": each.number, "current": each.current, "absolute": each.absolute} for each in mice
    ]


@command("send-key", since="1.3", example=Example({"keys": [{"type": "qcode", "data": "ret"}]}))
def send_key(ctx: Context, *, keys: list[KeyValue], hold_time: int | None = None) -> dict[str, object]:
    """Press keys one after the other, each ``hold-time`` milliseconds (default: 10) after the last, and release them
    likewise in reverse order, by the guest's time. Keys of further commands follow behind. A VM that does not run takes
    none."""
    names = [_key(each) for each in keys]
    with ctx.vm.lock:
        ctx.vm.inputs.typer.type(names, hold_time or guest_input.HOLD_DEFAULT_MS)
    return {}


@command(
    "input-send-event",
    since="2.6",
    example=Example({"events": [{"type": "rel", "data": {"axis": "x", "value": 10}}]}, before=(("cont", {}),)),
)
def input_send_event(
    ctx: Context,
    *,
    events: list[InputEvent],
    device: str | None = None,
    head: int | None = None,
) -> dict[str, object]:
    """Do at keyboard, mouse and tablet what happens at one moment: keys and buttons go down or up, pointers move.
    Nothing happens when one of the events has no device that takes it. LIMIT: ``device``, with ``head``, names a
    display, and there is none."""
    if device is not None:
        raise DeviceNotFoundError(f"Device '{device}' not found", "the machine has no display")
    if not ctx.vm.runstate.running:
        raise StateError("VM not running", "cont lets it run")
    if len(events) > EVENTS_MAX:
        raise UsageError(f"too many events: {len(events)}", f"at most {EVENTS_MAX} at once")
    inputs = ctx.vm.inputs
    with ctx.vm.lock:
        for each in events:
            if not inputs.takes(each["type"]):
                raise UsageError(
                    f"Input handler not found for event type {each['type']}", "the machine has no device for it"
                )
        inputs.send([_event(each) for each in events])
    return {}


def _key(value: KeyValue) -> str:
    return value["data"] if value["type"] == "qcode" else key_of_number(value["data"]) or _NO_KEY


def _event(event: InputEvent) -> guest_input.InputEvent:
    if event["type"] == "key":
        return guest_input.KeyEvent(_key(event["data"]["key"]), event["data"]["down"])
    if event["type"] == "btn":
        return guest_input.ButtonEvent(event["data"]["button"], event["data"]["down"])
    data = event["data"]
    kind = guest_input.RelativeEvent if event["type"] == "rel" else guest_input.AbsoluteEvent
    return kind(data["axis"], max(-_VALUE_MAX, min(_VALUE_MAX - 1, data["value"])))
