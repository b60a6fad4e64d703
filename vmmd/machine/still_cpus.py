# SPDX-License-Identifier: Apache-2.0
"""vCPUs that never run: what monitors see of a machine whose accelerator executes nothing.

They stay in power-on state, or where ``-kernel`` would start. The methods are those of ``VcpuManager``; loop thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from vmmd.machine.exit_meter import ExitMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.bootstate import BootState
    from vmmd.core.memory import GuestMemory
    from vmmd.core.notify import LoopPort
    from vmmd.kvm import abi
    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.kvm.stats import Statistic
    from vmmd.machine.cpus import VcpuInfo


class _Registers:
    """One vCPU's state (``kvm.cpustate.State``), in memory; ``vm`` is as of a KVM without any MSR."""

    msr_indices: tuple[int, ...] = ()
    mce_banks = 0
    local_apic = None
    has_xcrs = False

    def __init__(self) -> None:
        self.vm = self
        self._sregs: abi.Sregs
        self._regs: abi.Regs
        self._debugregs: abi.Debugregs
        self._events: abi.VcpuEvents
        self._xsave = b""

    def is_halted(self) -> bool:
        return False

    def set_msrs(self, values: dict[int, int]) -> list[int]:
        """None of them is shown anywhere."""
        return []

    def set_xcr0(self, value: int) -> None:
        """It has none."""

    def set_lapic(self, lapic: abi.LapicState) -> None:
        """It has none."""

    def set_mp_state(self, state: int) -> None:
        """None of them runs."""

    def regs(self) -> abi.Regs:
        return self._regs

    def set_regs(self, regs: abi.Regs) -> None:
        self._regs = regs

    def sregs(self) -> abi.Sregs:
        return self._sregs

    def set_sregs(self, sregs: abi.Sregs) -> None:
        self._sregs = sregs

    def debugregs(self) -> abi.Debugregs:
        return self._debugregs

    def set_debugregs(self, debugregs: abi.Debugregs) -> None:
        self._debugregs = debugregs

    def events(self) -> abi.VcpuEvents:
        return self._events

    def set_events(self, events: abi.VcpuEvents) -> None:
        self._events = events

    def xsave(self) -> bytes:
        return self._xsave

    def set_xsave(self, area: bytes) -> None:
        self._xsave = area


class StillCpus:
    """All of them."""

    all_parked = True

    def __init__(
        self, loop: LoopPort, memory: GuestMemory, cpu_config: CpuConfig, *, count: int, node_id: int | None
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._config = cpu_config
        self._count = count
        self._node_id = node_id
        self._boot: BootState | None = None
        self._thread_id = threading.get_native_id()
        self.exit_meter = ExitMeter([() for _ in range(count)])

    @property
    def typename(self) -> str:
        """QOM type of the vCPUs."""
        return f"{self._config.model}-x86_64-cpu"

    @property
    def infos(self) -> tuple[VcpuInfo, ...]:
        """What monitors show. The thread is the loop's: there is no other that works for the guest."""
        from vmmd.machine.cpus import VcpuInfo

        found = []
        for index in range(self._count):
            socket, die, core, thread = self._config.topology_ids(index)
            path = f"/machine/unattached/device[{index}]"
            shown_die = die if self._config.topology.dies > 1 else None
            found.append(VcpuInfo(index, self._thread_id, path, False, self._node_id, socket, shown_die, core, thread))
        return tuple(found)

    # --- life: nothing runs, so all of this is done at once ---

    def start(self) -> None:
        """Nothing to make."""

    def stop(self) -> None:
        """Nothing runs."""

    def pause_now(self) -> bool:
        return True

    def pause(self, done: Callable[[], None]) -> None:
        self._loop.post(done)

    def resume(self) -> None:
        """Nothing will run."""

    def hold(self) -> None:
        """Nothing runs. Any thread."""

    def release(self, unless: Callable[[], bool] | None = None) -> None:
        """Nothing was held."""

    def set_boot_state(self, state: BootState | None) -> None:
        """Where the boot CPU stands from the next ``reset`` on."""
        self._boot = state

    def reset(self) -> None:
        """Registers are made when they are asked for."""

    # --- looking at vCPUs ---

    def _vcpu(self, index: int) -> _Registers:
        from vmmd.kvm import cpustate

        vcpu = _Registers()
        cpustate.reset(vcpu, None, signature=self._config.signature, is_bsp=index == 0, boot=self._boot)
        return vcpu

    def registers(self, index: int) -> dict[str, int]:
        """Registers by name."""
        from vmmd.kvm import cpustate

        return cpustate.registers(self._vcpu(index))

    def registers_text(self, index: int) -> str:
        """``info registers``."""
        from vmmd.kvm import cpustate

        return cpustate.registers_text(self._vcpu(index))

    def control_registers(self, index: int) -> abi.Sregs:
        """Segment and control registers."""
        return self._vcpu(index).sregs()

    def translate(self, index: int, gva: int) -> int | None:
        """Guest-physical address of a linear address."""
        from vmmd.kvm.pagewalk import walk

        last = walk(self.control_registers(index), self._memory, gva)[-1]
        return last.gpa if last.kind == "page" else None

    def run_on_vcpu(
        self, index: int, function: Callable[[Any], object], done: Callable[[object, Exception | None], None]
    ) -> None:
        """``function(vcpu)``; ``done(result, error)`` is posted to the loop."""
        try:
            result = function(self._vcpu(index))
        except Exception as error:
            self._loop.post(done, None, error)
        else:
            self._loop.post(done, result, None)

    def inject_nmi(self, done: Callable[[Exception | None], None]) -> None:
        """It stays pending for ever: no vCPU takes it."""
        self._loop.post(done, None)

    def exit_counts(self, index: int) -> dict[str, int]:
        """None has entered the guest."""
        return {}

    def statistics(self, index: int) -> list[Statistic]:
        """No accelerator counts."""
        return []

    def vm_statistics(self) -> list[Statistic]:
        """No accelerator counts."""
        return []
