# SPDX-License-Identifier: Apache-2.0
"""Builds a machine from a Config, in two steps: ``plan`` checks everything that the command line says and has no side
effects; ``build`` opens images and KVM and puts the machine together, paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.device import DeviceContext
from vmmd.core.irq import GsiFanIn
from vmmd.errors import UsageError
from vmmd.log import get_logger
from vmmd.machine import device_plan
from vmmd.machine.memory_map import MemoryMap
from vmmd.machine.ram import RamBlock, RamSettings

if TYPE_CHECKING:
    from collections.abc import Container

    from vmmd.firmware.direct_boot import DirectBoot
    from vmmd.kvm.chips import KernelChips
    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.kvm.vm import KvmVm
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.machine.vm import Vm
    from vmmd.options.backends import MemoryBackend

log = get_logger("vmmd.machine")

#: parts that are no devices of the registry and take -global properties
_KERNEL_PARTS = {
    "kvm-pit": {"lost_tick_policy": ("delay", "discard")},
    "kvm-apic": {},
    "kvm-i8259": {},
    "kvm-ioapic": {},
}


class Builder:
    """Builds ``vm`` once."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.config = vm.config
        self.plans: list[device_plan.DevicePlan] = []
        self.is_none = self.config.machine.type == "none"
        self.direct_boot: DirectBoot | None = None

    # --- plan -------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Check machine, devices and what they refer to. Raises UsageError."""
        config = self.config
        if self.is_none:
            if config.devices or config.kernel:
                what = f"-device {config.devices[0].driver}" if config.devices else "-kernel"
                raise UsageError(f"{what}: machine 'none' has no buses and no memory", "use -machine pc")
            return
        from vmmd.options.models import DeviceOptions

        self._plan_globals()
        ports = [
            DeviceOptions("isa-serial", None, None, [("index", str(port.com_index)), ("chardev", port.chardev)])
            for port in config.serials
        ]
        self.plans = [device_plan.plan(options, config.globals) for options in [*ports, *config.devices]]
        known: dict[str, Container[str]] = {
            "chardev": config.chardevs,
            "drive": {each for drive in config.drives if (each := drive.id)}
            | {each for node in config.blockdevs if (each := node.node_name)},
        }
        device_plan.check_references(self.plans, known)
        self._plan_chardev_users()
        self._plan_memory()
        self._plan_kernel()

    def _plan_globals(self) -> None:
        from vmmd.core.registry import DEVICES, device_class

        for each in self.config.globals:
            if each.driver in _KERNEL_PARTS:
                values = _KERNEL_PARTS[each.driver].get(each.property)
                if values is None:
                    raise UsageError(f"Property '{each.driver}.{each.property}' not found")
                if each.value not in values:
                    raise UsageError(
                        f"-global {each.driver}.{each.property}={each.value}: Parameter '{each.property}' does not "
                        f"accept value '{each.value}'",
                        "it takes " + " or ".join(values),
                    )
            elif each.driver in DEVICES:
                cls = device_class(each.driver)
                assert cls is not None
                device_plan.new_props(cls, [each])

    def _plan_kernel(self) -> None:
        """Open and recognise -kernel and -initrd: a damaged image is refused before anything is made."""
        config = self.config
        kernel = config.kernel or config.machine.kernel
        if kernel is None:
            return
        if config.bios or config.machine.firmware:
            raise UsageError("-kernel with -bios: not available in this version", "-kernel starts without firmware")
        from vmmd.firmware.direct_boot import DirectBoot

        append = config.append or config.machine.append or ""
        self.direct_boot = DirectBoot(kernel, append, config.initrd or config.machine.initrd)
        self.vm.on_close(self.direct_boot.close)

    def _plan_chardev_users(self) -> None:
        """One chardev, one user; monitors count."""
        users = {monitor.chardev: "a monitor" for monitor in self.config.monitors}
        for each in self.plans:
            for declared in each.props.each():
                if declared.kind.ref_kind == "chardev" and (name := each.props.values.get(declared.name)):
                    if name in users:
                        raise UsageError(f"Device '{name}' is in use", f"chardev {name} is used by {users[name]}")
                    users[name] = each.id or each.cls.type_name

    def _plan_memory(self) -> None:
        """Sizes of -m, -numa and memory backends agree."""
        config = self.config
        total = config.memory.size_bytes
        named = [node.memdev for node in config.numa if node.memdev]
        if named and config.machine.memory_backend:
            raise UsageError("'-machine memory-backend' and '-numa memdev' properties are mutually exclusive")
        sizes = [self._backend(name).size_bytes for name in named]
        if named:
            if len(named) != len(config.numa):
                raise UsageError("memdev option must be specified for either all or no nodes")
        elif any(node.mem_bytes is not None for node in config.numa):
            sizes = [node.mem_bytes or 0 for node in config.numa]
        elif config.machine.memory_backend:
            size = self._backend(config.machine.memory_backend).size_bytes
            if "size" in config.memory.given and size != total:
                raise UsageError(
                    f"Size specified by -m option must match size of explicitly specified 'memory-backend' property: "
                    f"-m says {total}, {config.machine.memory_backend} has {size}"
                )
        if sizes and sum(sizes) != total:
            raise UsageError(f"total memory for NUMA nodes ({sum(sizes):#x}) should equal RAM size ({total:#x})")

    def _backend(self, name: str) -> MemoryBackend:
        from vmmd.options.backends import MemoryBackend

        for each in self.config.objects:
            if each.id == name and isinstance(each, MemoryBackend):
                return each
        raise UsageError(
            f"memdev={name} is ambiguous or not a memory backend", f"no -object memory-backend-* has id {name}"
        )

    # --- build ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Open and assemble. Raises VmmdError; ``vm.close`` then gives back what was opened."""
        from vmmd.kvm.chips import KernelChips
        from vmmd.kvm.system import Kvm

        vm = self.vm
        kvm = Kvm.open("/dev/kvm")
        vm.on_close(kvm.close)
        vm.kvm_present = vm.kvm_enabled = True
        if self.is_none:
            return
        cpu_config = self._cpu_config(kvm)
        self._open_disks()
        kvm_vm = kvm.create_vm()
        vm.on_close(kvm_vm.close)
        kvm_vm.create_irqchip()
        has_pit = self.config.machine.pit != "off"
        if has_pit:
            kvm_vm.create_pit(self._pit_policy())
        chips = KernelChips(kvm_vm, has_pit=has_pit)
        vm.memory_map = MemoryMap(kvm_vm, self._ram_blocks(), vm.memory)
        ctx = self._context(kvm_vm)
        with vm.lock:
            board = self._board(ctx)
        self._make_cpus(kvm_vm, cpu_config)
        self._make_firmware(board, cpu_config, chips)

    def _pit_policy(self) -> str:
        policy = "delay"
        for each in self.config.globals:
            if (each.driver, each.property) == ("kvm-pit", "lost_tick_policy"):
                policy = each.value
        return policy

    def _ram_blocks(self) -> list[RamBlock]:
        config = self.config
        names = [node.memdev for node in config.numa if node.memdev]
        if config.machine.memory_backend:
            names = [config.machine.memory_backend]
        machine = config.machine
        if not names:
            settings = RamSettings(
                size_bytes=config.memory.size_bytes, merge=machine.mem_merge, dump=machine.dump_guest_core
            )
            return [RamBlock("pc.ram", settings)]
        return [RamBlock(name, _settings(self._backend(name), self.config)) for name in names]

    def _context(self, kvm_vm: KvmVm) -> DeviceContext:
        from vmmd.kvm.irqchip import KvmInterrupts
        from vmmd.machine.backends import MachineBackends
        from vmmd.machine.doorbells import KvmDoorbells

        vm = self.vm
        interrupts = KvmInterrupts(kvm_vm)
        return DeviceContext(
            lock=vm.lock,
            memory=vm.memory,
            pio=vm.pio,
            mmio=vm.mmio,
            interrupts=interrupts,
            irqs=GsiFanIn(interrupts),
            clock=vm.clock,
            loop=vm.loop,
            doorbells=KvmDoorbells(kvm_vm, vm.loop),
            events=vm.events,
            requests=vm.requests,
            backends=MachineBackends(vm),
        )

    def _board(self, ctx: DeviceContext) -> PcI440fx:
        from vmmd.machine.pc_i440fx import PcI440fx

        assert self.vm.memory_map is not None
        board = PcI440fx(self.config, ctx, self.vm.memory_map)
        self.vm.devices = board.devices
        self.vm.pci = board.bus
        board.serial_ports = self._serial_ports()
        board.build()
        self.vm.press_power_button = board.pm.press_power_button
        for each in self.plans:
            board.add(each)
        return board

    def _serial_ports(self) -> frozenset[int]:
        """COM ports that the planned devices will be (DEVRESA tells firmware)."""
        ports: set[int] = set()
        for each in self.plans:
            if each.cls.type_name == "isa-serial":
                index = each.props.values.get("index")
                ports.add(next(free for free in range(len(self.plans) + 1) if free not in ports) if index is None else index)
        return frozenset(ports)

    def _cpu_config(self, kvm: object) -> CpuConfig:
        raise NotImplementedError

    def _open_disks(self) -> None:
        raise NotImplementedError

    def _make_cpus(self, kvm_vm: KvmVm, cpu_config: CpuConfig) -> None:
        from vmmd.machine.cpus import VcpuManager

        vm = self.vm
        assert vm.memory_map is not None
        vm.cpus = VcpuManager(
            kvm_vm,
            count=self.config.smp.cpus,
            pio=vm.pio,
            mmio=vm.mmio,
            memory=vm.memory,
            lock=vm.lock,
            requests=vm.requests,
            loop=vm.loop,
            cpu_config=cpu_config,
            debug_threads=self.config.name.debug_threads,
            hidden=vm.memory_map,
        )

    def _make_firmware(self, board: PcI440fx, cpu_config: CpuConfig, chips: KernelChips) -> None:
        """Firmware or kernel, and what a reset of the board does from now on."""
        from vmmd.machine.firmware_setup import FirmwareSetup

        vm = self.vm
        assert vm.memory_map is not None
        assert vm.cpus is not None
        cpus = vm.cpus
        setup = FirmwareSetup(vm, board, cpu_config)
        setup.publish()
        setup.map_firmware()
        cpus.start()

        def reset_board() -> None:
            chips.reset()
            if self.direct_boot is not None:
                state, elcr = setup.start_kernel(self.direct_boot)
                chips.set_elcr(elcr)
                cpus.set_boot_state(state)
            cpus.reset()

        vm.reset_board = reset_board
        with vm.lock:
            vm.memory_map.commit()
            reset_board()


def _settings(backend: MemoryBackend, config: object) -> RamSettings:
    """A memory backend's options as RamSettings."""
    from vmmd.options.backends import MemoryBackendFile, MemoryBackendMemfd

    common = RamSettings(
        size_bytes=backend.size_bytes,
        share=backend.share,
        prealloc=backend.prealloc,
        merge=True if backend.merge is None else backend.merge,
        dump=True if backend.dump is None else backend.dump,
        reserve=backend.reserve,
    )
    if isinstance(backend, MemoryBackendMemfd):
        return common._replace(
            kind="memfd", hugetlb=backend.hugetlb, hugetlb_size_bytes=backend.hugetlbsize or 0, seal=backend.seal
        )
    if isinstance(backend, MemoryBackendFile):
        return common._replace(
            kind="file", path=backend.mem_path, readonly=backend.readonly, discard_data=backend.discard_data
        )
    return common
