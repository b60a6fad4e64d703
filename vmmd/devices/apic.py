# SPDX-License-Identifier: Apache-2.0
"""Local APIC of one CPU, in user space: for a machine whose interrupt controllers are not in the kernel.

Intel SDM vol. 3 chapter 11 "Advanced Programmable Interrupt Controller", xAPIC mode. Implemented: the
register page, IRR, ISR and TMR with priorities, TPR, IPIs with all shorthands and destinations, INIT and start-up
IPIs, NMI, lowest priority, ExtINT, LVT with LINT0 and LINT1, one-shot and periodic timer, ESR, EOI broadcast. Not:
x2APIC and the TSC deadline (CPUID does not offer them), SMI (there is no SMM), focus processors, CMCI, remote IRR of a
level-triggered LINT0 or LINT1 (their interrupts are delivered as edges). The performance and thermal entries of the LVT
keep what is written; nothing raises them.

A reset is power-on state, an INIT the same but for the id. While the machine is stopped virtual time stands, the timer
with it.

Threads: registers are accessed by the APIC's own vCPU, with the DeviceLock held; messages come from anywhere. State
that both touch is guarded by ``ApicBus.lock``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.device import Device
from vmmd.core.props import BOOL, U8, U32, prop
from vmmd.devices.apic_bus import EXTINT, FIXED, INIT, LOWEST, NMI, SMI, STARTUP, Message
from vmmd.devices.apic_timer import ApicTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.clock import Clock
    from vmmd.devices.apic_bus import ApicBus

# registers, by number (offset in the page / 16)
ID, VERSION, TPR, APR, PPR, END, LDR, DFR, SVR = 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F
ISR, TMR, IRR = 0x10, 0x18, 0x20
ESR, ICR_LOW, ICR_HIGH = 0x28, 0x30, 0x31
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = range(0x32, 0x38)
INITIAL_COUNT, CURRENT_COUNT, DIVIDE = 0x38, 0x39, 0x3E

SVR_ENABLED = 1 << 8
SVR_WRITABLE = 0x3FF
LVT_MASKED, LVT_LEVEL, LVT_ACTIVE_LOW, LVT_PERIODIC = 1 << 16, 1 << 15, 1 << 13, 1 << 17
LVT_MODE_SHIFT = 8
_LVT_WRITABLE = {
    TIMER: LVT_PERIODIC | LVT_MASKED | 0xFF,
    THERMAL: LVT_MASKED | 0x7FF,
    PERFORMANCE: LVT_MASKED | 0x7FF,
    LINT0: LVT_MASKED | LVT_LEVEL | LVT_ACTIVE_LOW | 0x7FF,
    LINT1: LVT_MASKED | LVT_LEVEL | LVT_ACTIVE_LOW | 0x7FF,
    ERROR: LVT_MASKED | 0xFF,
}
ICR_WRITABLE = 0xCCFFF
ICR_LOGICAL, ICR_ASSERT, ICR_LEVEL = 1 << 11, 1 << 14, 1 << 15
ICR_SHORTHAND_SHIFT = 18
NO_SHORTHAND, TO_ITSELF, TO_ALL, TO_OTHERS = range(4)
ESR_SEND_ILLEGAL, ESR_RECEIVED_ILLEGAL, ESR_ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7
FIRST_VECTOR = 16  # those below are illegal
APIC_VERSION = 0x14
MAX_LVT = 5  # the version register shows the number of LVT entries less one
BASE_ENABLED = 1 << 11  # in IA32_APIC_BASE


class Apic(Device):
    """What a local APIC shows in the object tree."""

    type_name = "apic"
    description = "local APIC"
    parent_type = "apic-common"

    class Props(Device.Props):
        apic_id = prop(U32, None, "APIC id", wire="id")
        version = prop(U8, APIC_VERSION, "what the version register shows")
        vapic = prop(BOOL, True, "of TPR accesses under KVM; has no effect with a local APIC in user space")


class LocalApic:
    """One. ``wake()`` is called, with the bus's lock held, when its CPU has something new to look at."""

    def __init__(self, bus: ApicBus, clock: Clock, apic_id: int, *, is_bsp: bool, version: int = APIC_VERSION) -> None:
        self.bus = bus
        self.is_bsp = is_bsp
        self.wake: Callable[[], None] = lambda: None
        self.base = BASE_ENABLED  # IA32_APIC_BASE, which KVM keeps
        self._version = version
        self._initial_id = apic_id
        self._timer = ApicTimer(clock, self._timer_fired)
        self.reset()
        bus.apics.append(self)

    def reset(self) -> None:
        """To power-on state. The vCPUs are parked, DeviceLock held."""
        with self.bus.lock:
            self.apic_id = self._initial_id
            self.initialise()

    def initialise(self) -> None:
        """What INIT does. Bus lock held."""
        self.irr = self.isr = self.tmr = 0
        self.tpr = 0
        self.logical_id, self.model = 0, 0xF
        self._spurious = 0xFF
        self._errors = self._shown_errors = 0
        self._icr_low = self._icr_high = 0
        self._lvt = dict.fromkeys(_LVT_WRITABLE, LVT_MASKED)
        self._timer.reset()
        self.halted = False
        #: the CPU has not been started: it waits for a start-up IPI
        self.waiting = not self.is_bsp
        self._init = self._nmi = False
        self._startup: int | None = None
        self._external: int | None = None  # vector of an ExtINT message

    # -- what the CPU sees ------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """True when it takes interrupts: software has switched it on."""
        return bool(self._spurious & SVR_ENABLED and self.base & BASE_ENABLED)

    @property
    def processor_priority(self) -> int:
        """PPR."""
        served = self.isr.bit_length() - 1 & 0xF0 if self.isr else 0
        return self.tpr if self.tpr & 0xF0 >= served else served

    @property
    def must_start(self) -> bool:
        """An INIT or start-up IPI is to be served."""
        return self._init or self._startup is not None

    def take_nmi(self) -> bool:
        """True once per NMI."""
        if not self._nmi:
            return False
        with self.bus.lock:
            found, self._nmi = self._nmi, False
        return found

    def take_init(self) -> bool:
        """True once per INIT; the APIC is as INIT leaves it then. A start-up IPI that came after it stays."""
        with self.bus.lock:
            if not self._init:
                return False
            startup = self._startup
            self.initialise()
            self._startup = startup
            return True

    def take_startup(self) -> int | None:
        """Vector of a start-up IPI that starts the CPU."""
        with self.bus.lock:
            vector, self._startup = self._startup, None
            if vector is not None:
                self.waiting = False
            return vector

    def is_deliverable(self) -> bool:
        """True when an interrupt could be taken now, if the CPU's flags let it."""
        if self.irr and self.irr.bit_length() - 1 & 0xF0 > self.processor_priority & 0xF0 and self.enabled:
            return True
        return self._external is not None or bool(self.bus.lint0 and self._takes_external())

    def take_vector(self) -> int | None:
        """The interrupt acknowledge cycle: the vector to run, or None. DeviceLock held."""
        with self.bus.lock:
            vector = self.irr.bit_length() - 1 if self.irr else 0
            if vector & 0xF0 > self.processor_priority & 0xF0 and self.enabled:
                self.irr &= ~(1 << vector)
                self.isr |= 1 << vector
                return vector
            if self._external is not None:
                vector, self._external = self._external, None
                return vector
            external = self.bus.lint0 and self._takes_external()
        return self.bus.acknowledge() if external else None

    def _takes_external(self) -> bool:
        """True when INT of the 8259 pair reaches the CPU: through LINT0, or past an APIC that is switched off."""
        if not self.base & BASE_ENABLED:
            return True
        entry = self._lvt[LINT0]
        return not entry & LVT_MASKED and entry >> LVT_MODE_SHIFT & 7 == EXTINT

    # -- what comes in; bus lock held -------------------------------------------------------------------------------

    def accept(self, message: Message) -> None:
        """A message for this APIC."""
        mode = message.mode
        if mode in (FIXED, LOWEST):
            self._interrupt(message.vector, level=message.level)
        elif mode == NMI:
            self._nmi = True
            self.wake()
        elif mode == INIT and message.asserted:
            self._init, self._startup = True, None
            self.wake()
        elif mode == STARTUP and (self.waiting or self._init) and self._startup is None:
            self._startup = message.vector
            self.wake()
        elif mode == EXTINT:
            self._external = message.vector
            self.wake()

    def _interrupt(self, vector: int, *, level: bool) -> None:
        if not self.enabled:
            return
        if vector < FIRST_VECTOR:
            self._error(ESR_RECEIVED_ILLEGAL)
            return
        bit = 1 << vector
        if self.irr & bit:
            return
        self.irr |= bit
        self.tmr = self.tmr | bit if level else self.tmr & ~bit
        if vector & 0xF0 > self.processor_priority & 0xF0:
            self.wake()

    def _error(self, bit: int) -> None:
        self._errors |= bit
        entry = self._lvt[ERROR]
        if not entry & LVT_MASKED and entry & 0xFF >= FIRST_VECTOR:
            self._interrupt(entry & 0xFF, level=False)

    def _local(self, number: int) -> None:
        """The source of an LVT entry fires."""
        entry = self._lvt[number]
        if not entry & LVT_MASKED:
            self.accept(Message(entry >> LVT_MODE_SHIFT & 7, entry & 0xFF, bool(entry & LVT_LEVEL)))

    def lint0_changed(self, level: int) -> None:
        """INT of the 8259 pair changed. Bus lock held."""
        if not level:
            return
        if self._takes_external():
            self.wake()
        elif self.base & BASE_ENABLED and self._lvt[LINT0] >> LVT_MODE_SHIFT & 7 != EXTINT:
            self._local(LINT0)

    def use_virtual_wire(self) -> None:
        """As firmware leaves the boot CPU's: on, the 8259 pair at LINT0, NMI at LINT1."""
        self._spurious |= SVR_ENABLED
        self._lvt[LINT0] = EXTINT << LVT_MODE_SHIFT
        self._lvt[LINT1] = NMI << LVT_MODE_SHIFT

    def pulse_lint1(self) -> None:
        """The machine's NMI button is wired to LINT1. Any thread."""
        with self.bus.lock:
            self._local(LINT1)

    def _timer_fired(self) -> None:
        with self.bus.lock:
            self._local(TIMER)

    # -- registers; the own vCPU, DeviceLock held --------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A read of the page. Anything but 4 bytes reads 0 (SDM §11.4.1: undefined)."""
        if size != 4:
            return 0
        number = offset >> 4
        if ISR <= number < ESR:
            word = (self.isr, self.tmr, self.irr)[number - ISR >> 3]
            return word >> 32 * (number & 7) & 0xFFFF_FFFF
        if number in self._lvt:
            return self._lvt[number]
        reader = _READERS.get(number)
        if reader is not None:
            return reader(self)
        if number not in _WRITERS:
            with self.bus.lock:
                self._error(ESR_ILLEGAL_REGISTER)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """A write to the page. Anything but 4 bytes has no effect."""
        if size != 4:
            return
        number = offset >> 4
        if number in self._lvt:
            self._write_lvt(number, value)
            return
        writer = _WRITERS.get(number)
        if writer is not None:
            writer(self, value)
        elif number not in _READERS and not ISR <= number < ESR:
            with self.bus.lock:
                self._error(ESR_ILLEGAL_REGISTER)

    def _write_lvt(self, number: int, value: int) -> None:
        value &= _LVT_WRITABLE[number]
        self._lvt[number] = value if self._spurious & SVR_ENABLED else value | LVT_MASKED
        if number == TIMER:
            self._timer.set_periodic(bool(value & LVT_PERIODIC))

    def _write_id(self, value: int) -> None:
        self.apic_id = value >> 24

    def _write_tpr(self, value: int) -> None:
        self.tpr = value & 0xFF

    def _write_end(self, value: int) -> None:
        with self.bus.lock:
            if not self.isr:
                return
            vector = self.isr.bit_length() - 1
            self.isr &= ~(1 << vector)
            level = self.tmr >> vector & 1
        if level:
            self.bus.end_of_interrupt(vector)

    def _write_logical_id(self, value: int) -> None:
        self.logical_id = value >> 24

    def _write_model(self, value: int) -> None:
        self.model = value >> 28

    def _write_spurious(self, value: int) -> None:
        self._spurious = value & SVR_WRITABLE
        if not value & SVR_ENABLED:
            for number in self._lvt:
                self._lvt[number] |= LVT_MASKED

    def _write_errors(self, value: int) -> None:
        """A write shows what has happened since the last one."""
        with self.bus.lock:
            self._shown_errors, self._errors = self._errors, 0

    def _write_icr_high(self, value: int) -> None:
        self._icr_high = value & 0xFF00_0000

    def _write_icr_low(self, value: int) -> None:
        self._icr_low = value & ICR_WRITABLE
        mode, vector = value >> LVT_MODE_SHIFT & 7, value & 0xFF
        if mode in (FIXED, LOWEST) and vector < FIRST_VECTOR:
            with self.bus.lock:
                self._error(ESR_SEND_ILLEGAL)
            return
        if mode in (SMI, EXTINT):
            return
        shorthand = value >> ICR_SHORTHAND_SHIFT & 3
        level = bool(value & ICR_LEVEL)
        message = Message(mode, vector, False, not level or bool(value & ICR_ASSERT))
        if shorthand == NO_SHORTHAND:
            self.bus.send(self._icr_high >> 24, message, logical=bool(value & ICR_LOGICAL))
        elif shorthand == TO_ITSELF:
            with self.bus.lock:
                self.accept(message)
        else:
            self.bus.send_others(self, message, itself=shorthand == TO_ALL)


_READERS: dict[int, Callable[[LocalApic], int]] = {
    ID: lambda apic: apic.apic_id << 24,
    VERSION: lambda apic: apic._version | MAX_LVT << 16,
    TPR: lambda apic: apic.tpr,
    APR: lambda apic: max(apic.tpr, (apic.irr.bit_length() - 1 if apic.irr else 0) & 0xF0),
    PPR: lambda apic: apic.processor_priority,
    LDR: lambda apic: apic.logical_id << 24,
    DFR: lambda apic: apic.model << 28 | 0x0FFF_FFFF,
    SVR: lambda apic: apic._spurious,
    ESR: lambda apic: apic._shown_errors,
    ICR_LOW: lambda apic: apic._icr_low,
    ICR_HIGH: lambda apic: apic._icr_high,
    INITIAL_COUNT: lambda apic: apic._timer.initial_count,
    CURRENT_COUNT: lambda apic: apic._timer.current_count,
    DIVIDE: lambda apic: apic._timer.divide,
}
_WRITERS: dict[int, Callable[[LocalApic, int], None]] = {
    ID: LocalApic._write_id,
    TPR: LocalApic._write_tpr,
    END: LocalApic._write_end,
    LDR: LocalApic._write_logical_id,
    DFR: LocalApic._write_model,
    SVR: LocalApic._write_spurious,
    ESR: LocalApic._write_errors,
    ICR_LOW: LocalApic._write_icr_low,
    ICR_HIGH: LocalApic._write_icr_high,
    INITIAL_COUNT: lambda apic, value: apic._timer.start(value),
    DIVIDE: lambda apic, value: apic._timer.set_divide(value),
}
