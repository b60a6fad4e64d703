# SPDX-License-Identifier: Apache-2.0
"""KVM as the builder's ``Accelerator``: vCPUs, interrupt controllers, memory slots and doorbells of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.machine.accelerator import Platform

if TYPE_CHECKING:
    from vmmd.kvm.chips import KernelChips
    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.kvm.irqchip import KvmInterrupts
    from vmmd.kvm.system import Kvm
    from vmmd.kvm.vm import KvmVm
    from vmmd.machine.cpus import VcpuManager
    from vmmd.machine.user_chips import RunLoops, SplitChips, UserChips
    from vmmd.machine.vm import Vm
    from vmmd.options.models import AccelOptions


class KvmAccelerator:
    """/dev/kvm, open."""

    name = "kvm"

    def __init__(self, kvm: Kvm, irqchip: str) -> None:
        """``irqchip``: which controllers are in the kernel: ``on`` (all), ``split`` (local APICs), ``off`` (none)."""
        from vmmd.kvm.host_cpu import HostCpu

        self._kvm = kvm
        self._kvm_vm: KvmVm
        self._irqchip = irqchip
        self._loops: RunLoops | None = None
        self.host = HostCpu.read(kvm)
        if irqchip == "off":
            self.host = self.host.without_kernel_apic()

    @classmethod
    def open(cls, vm: Vm, options: AccelOptions) -> KvmAccelerator:
        """Raises BackendError, MissingKvmCapError."""
        from vmmd.kvm.caps import check_required
        from vmmd.kvm.system import Kvm

        kvm = Kvm.open("/dev/kvm")
        vm.on_close(kvm.close)
        check_required(kvm)
        return cls(kvm, options.kernel_irqchip or vm.config.machine.kernel_irqchip)

    def check_cpus(self, count: int, maximum: int) -> list[str]:
        from vmmd.kvm.caps import check_vcpu_count

        return check_vcpu_count(self._kvm, count, maximum)

    def make_platform(self, vm: Vm) -> Platform:
        from vmmd.machine.doorbells import KvmDoorbells

        kvm_vm = self._kvm_vm = self._kvm.create_vm()
        vm.on_close(kvm_vm.close)
        doorbells = KvmDoorbells(kvm_vm, vm.loop)
        if self._irqchip == "on":
            return Platform(*self._make_kernel_chips(vm), doorbells, kvm_vm)
        chips = self._make_user_chips(vm)
        self._loops = chips
        return Platform(chips.interrupts, chips.interrupts, doorbells, kvm_vm)

    def _make_user_chips(self, vm: Vm) -> UserChips | SplitChips:
        from vmmd.devices.apic import Apic
        from vmmd.machine.device_plan import new_props
        from vmmd.machine.user_chips import SplitChips, UserChips

        if self._irqchip == "split":
            self._kvm_vm.create_split_irqchip()
            return SplitChips(self._kvm_vm)
        self._kvm_vm.reserve_pages()
        return UserChips(vm.clock, new_props(Apic, vm.config.globals).version)

    def _make_kernel_chips(self, vm: Vm) -> tuple[KvmInterrupts, KernelChips]:
        from vmmd.devices.kernel_chips import KvmPit
        from vmmd.kvm.chips import KernelChips
        from vmmd.kvm.irqchip import KvmInterrupts
        from vmmd.machine.device_plan import new_props

        kvm_vm = self._kvm_vm
        kvm_vm.create_irqchip()
        has_pit = vm.config.machine.pit != "off"
        if has_pit:
            kvm_vm.create_pit(new_props(KvmPit, vm.config.globals).lost_tick_policy)
        return KvmInterrupts(kvm_vm), KernelChips(kvm_vm, has_pit=has_pit)

    def make_cpus(self, vm: Vm, cpu_config: CpuConfig) -> VcpuManager:
        from vmmd.machine.cpus import VcpuManager

        assert vm.memory_map is not None  # the board is there
        return VcpuManager(
            self._kvm_vm,
            count=vm.config.smp.cpus,
            pio=vm.pio,
            mmio=vm.mmio,
            lock=vm.lock,
            requests=vm.requests,
            loop=vm.loop,
            cpu_config=cpu_config,
            debug_threads=vm.config.name.debug_threads,
            hidden=vm.memory_map,
            node_id=0 if vm.config.numa else None,  # LIMIT: one node
            loops=self._loops,
        )
