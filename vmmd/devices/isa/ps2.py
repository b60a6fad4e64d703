# SPDX-License-Identifier: Apache-2.0
"""What a keyboard and a mouse at a PS/2 connector have in common, and the scan code translation of their controller.

After the IBM PS/2 Hardware Interface Technical Reference, "Keyboard" and "Keyboard and Auxiliary Device Controller".
The serial wire is not modelled: a byte is there at once, and what the device sends waits in it until the controller
takes it. The controller is told by ``changed`` when there is something to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.device import Device

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext
    from vmmd.core.props import PropSet

#: bytes of keys or movement that a device keeps; as many as the keyboard's buffer has
QUEUE_BYTES = 16

ACKNOWLEDGE = 0xFA
RESEND = 0xFE
SELF_TEST_PASSED = 0xAA

COMMAND_RESEND = 0xFE
COMMAND_RESET = 0xFF


class Ps2Device(Device):
    """One device at a connector. Subclasses say what is waiting. The controller sets ``changed``."""

    category = "input"
    parent_type = "ps2-device"

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.changed: Callable[[], None] = lambda: None
        self._last = 0

    @property
    def pending(self) -> bool:
        """Bytes wait for the controller."""
        raise NotImplementedError

    def receive(self, value: int) -> None:
        """A byte from the controller."""
        raise NotImplementedError

    def insert(self, value: int) -> None:
        """Queue a byte of the controller's as if the device had sent it (``extended-state=off``)."""
        raise NotImplementedError

    def take(self) -> int:
        """The next byte for the controller; the last one again when there is none."""
        if self.pending:
            self._last = self._pop()
        return self._last

    def _pop(self) -> int:
        raise NotImplementedError


SET2_BREAK = 0xF0
_SET1_BREAK_BIT = 0x80
#: codes of set 2 from 00h to 7Fh as the controller translates them to set 1
_TRANSLATED = bytes.fromhex(
    "ff43413f3d3b3c58644442403e0f2959 65382a701d10025a66712c1f1e11035b"
    "672e2d201205045c68392f211413065d 693130232215075e6a7232241608095f"
    "6b332517180b0a606c34352627190c61 6d7328741a0d626e3a361c1b752b6376"
    "55567778797a0e7b7c4f7d4b477e7f6f 5253504c4d480145574e514a37494654"
)
#: those above that do not stay as they are: F7, and SysRq
_TRANSLATED_HIGH = {0x83: 0x41, 0x84: 0x54}


def translate(sent: bytes) -> bytes:
    """What the controller makes of whole codes of a keyboard in set 2: a break prefix becomes the code's high bit."""
    result = bytearray()
    break_bit = 0
    for value in sent:
        if value == SET2_BREAK:
            break_bit = _SET1_BREAK_BIT
            continue
        made = _TRANSLATED[value] if value < len(_TRANSLATED) else _TRANSLATED_HIGH.get(value, value)
        result.append(made | break_bit)
        break_bit = 0
    return bytes(result)
