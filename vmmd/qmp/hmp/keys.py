# SPDX-License-Identifier: Apache-2.0
"""Keyboard and mouse of the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.keycodes import scan_codes
from vmmd.core.props import parse_int
from vmmd.errors import UsageError
from vmmd.qmp.hmp.arguments import ArgumentError
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

MAX_KEYS = 16
_HEX_DIGITS_MAX = 8
#: QEMU-COMPAT: the bits of mouse_button, as they are in a PS/2 report
_BUTTON_BITS = {"left": 1, "right": 2, "middle": 4}


def _complete_key(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    before, dash, _ = words[-1].rpartition("-")
    return [before + dash + name for name in scan_codes()] if len(words) == 1 else ()


@hmp(
    "sendkey",
    params="keys [hold_ms]",
    help="press keys together (ctrl-alt-f1; a number is a scan code); each step takes hold_ms, 10 if not given",
    complete=_complete_key,
)
async def sendkey(monitor: HumanMonitor, arguments: Arguments) -> str:
    keys = arguments.string()
    wanted: dict[str, object] = {}
    if not arguments.at_end:
        wanted["hold-time"] = arguments.integer()
    arguments.done()
    values: list[dict[str, object]] = []
    for name in ["less"] if keys == "<" else keys.split("-"):
        if name in scan_codes():
            values.append({"type": "qcode", "data": name})
        elif _is_scan_code(name):
            values.append({"type": "number", "data": int(name, 16)})
        else:
            return f"invalid parameter: {name}\n"
    if len(values) > MAX_KEYS:
        raise UsageError("too many keys", f"at most {MAX_KEYS} at once")
    await monitor.qmp("send-key", wanted | {"keys": values})
    return ""


def _is_scan_code(text: str) -> bool:
    digits = text.removeprefix("0x")
    return (
        digits != text
        and 0 < len(digits) <= _HEX_DIGITS_MAX
        and all(each in "0123456789abcdefABCDEF" for each in digits)
    )


@hmp(
    "mouse_move", params="dx dy [dz]", help="move the mouse; dz above 0 turns the wheel up, below 0 down, by one notch"
)
async def mouse_move(monitor: HumanMonitor, arguments: Arguments) -> str:
    dx, dy = _distance(arguments), _distance(arguments)
    dz = 0 if arguments.at_end else _distance(arguments)
    arguments.done()
    button = "wheel-up" if dz > 0 else "wheel-down"
    turn = [_press(button, down=True)] if dz else []
    await _send(monitor, _move("x", dx), _move("y", dy), *turn)
    if dz:
        await _send(monitor, _press(button, down=False))
    return ""


def _distance(arguments: Arguments) -> int:
    word = arguments.string()
    try:
        return parse_int(word)
    except ValueError:
        raise ArgumentError(f"invalid number: '{word}'") from None


@hmp("mouse_button", params="state", help="press and release buttons of the mouse (sum of 1 left, 2 right, 4 middle)")
async def mouse_button(monitor: HumanMonitor, arguments: Arguments) -> str:
    state = arguments.integer()
    arguments.done()
    held = monitor.vm.inputs.buttons
    changed = [name for name, bit in _BUTTON_BITS.items() if bool(state & bit) != (name in held)]
    if changed:
        await _send(monitor, *(_press(name, down=name not in held) for name in changed))
    return ""


def _move(axis: str, by: int) -> dict[str, object]:
    return {"type": "rel", "data": {"axis": axis, "value": by}}


def _press(button: str, *, down: bool) -> dict[str, object]:
    return {"type": "btn", "data": {"button": button, "down": down}}


async def _send(monitor: HumanMonitor, *events: dict[str, object]) -> None:
    await monitor.qmp("input-send-event", {"events": list(events)})


@hmp("mouse_set", params="index", help="make one of the mice the current one (info mice)")
def mouse_set(monitor: HumanMonitor, arguments: Arguments) -> str:
    index = arguments.integer()
    arguments.done()
    try:
        with monitor.vm.lock:
            monitor.vm.inputs.select_mouse(index)
    except UsageError as error:
        return f"{error.desc}\n"  # QEMU-COMPAT: without "Error: "
    return ""


@hmp("info mice", help="the guest's mice and tablets; * is the one that is moved")
async def info_mice(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    mice = await monitor.qmp("query-mice")
    lines = (
        f"{'*' if each['current'] else ' '} Mouse #{each['index']}: {each['name']}"
        f"{' (absolute)' if each['absolute'] else ''}\n"
        for each in mice
    )
    return "".join(lines) or "No mouse devices connected\n"
