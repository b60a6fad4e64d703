# SPDX-License-Identifier: Apache-2.0
"""System control port B, 61h: gate and output of the 8254's counter 2, and the speaker's data bit.

Registers: IBM PC AT technical reference, "Port 61h"; Intel 290562 (PIIX4) NMISC. Bit 0 is counter 2's gate, bit 1 the
speaker's data, bit 4 the refresh toggle, bit 5 counter 2's output. QEMU-COMPAT: the refresh bit toggles with each read
(guests wait for its change), and the parity and channel-check bits read 0. No sound is made.

Where the kernel has the timer, it answers port 61h too, and this is only the device's place in the object tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import U32, prop

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_B_GATE = 0x01
PORT_B_DATA = 0x02
PORT_B_REFRESH = 0x10
PORT_B_OUT = 0x20


class SpeakerTimer(Protocol):
    """What the port needs of the timer."""

    @property
    def speaker_gate(self) -> bool: ...

    def set_speaker_gate(self, level: bool) -> None: ...

    def speaker_out(self) -> int: ...


class PcSpeaker(Device):
    """Port 61h. The machine sets ``timer`` before ``plug``; None: the kernel answers."""

    type_name = "isa-pcspk"
    description = "speaker port 61h"
    bus_type = "ISA"

    class Props(Device.Props):
        iobase = prop(U32, 0x61, "its port")

    props: PcSpeaker.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.timer: SpeakerTimer | None = None
        self._data = 0
        self._refresh = 0

    def realize(self) -> None:
        if self.timer is not None:
            port = self.props.iobase & 0xFFFF
            self.claim_pio(IoRange(port, 1, self._read, self._write, name="pcspk", max_width=1))

    def reset(self, kind: ResetKind) -> None:
        """The gate goes with the timer's own reset."""
        self._data = self._refresh = 0

    def _read(self, offset: int, size: int) -> int:
        timer = self.timer
        assert timer is not None  # or the port would not be claimed
        self._refresh ^= PORT_B_REFRESH
        value = self._data | self._refresh
        if timer.speaker_gate:
            value |= PORT_B_GATE
        if timer.speaker_out():
            value |= PORT_B_OUT
        return value

    def _write(self, offset: int, size: int, value: int) -> None:
        assert self.timer is not None
        self._data = value & PORT_B_DATA
        self.timer.set_speaker_gate(bool(value & PORT_B_GATE))
