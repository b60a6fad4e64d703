# SPDX-License-Identifier: Apache-2.0
"""Builds a machine from a plan: opens the accelerator and images and puts the machine together, paused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.access_trace import AccessTrace
from vmmd.core.device import DeviceContext, ResetKind
from vmmd.core.irq import GsiFanIn
from vmmd.errors import named
from vmmd.machine.accelerator import open_first
from vmmd.machine.machine_tree import describe_board, describe_machine
from vmmd.machine.memory_map import FlatMemory, MemoryMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.irq import Chips
    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.kvm.host_cpu import HostCpu
    from vmmd.machine.accelerator import Accelerator, Platform
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.machine.plan import MachinePlan
    from vmmd.machine.ram import RamBlock
    from vmmd.machine.vm import Vm
    from vmmd.net.base import Netdev
    from vmmd.options.models import AccelOptions, Config

DEFAULT_CPU = "qemu64"
DEFAULT_RAM = "pc.ram"  # id of the memory that -m gives


class Builder:
    """Builds ``vm`` from ``plan``, once."""

    def __init__(
        self,
        vm: Vm,
        plan: MachinePlan,
        find_accelerator: Callable[[str], Callable[[Vm, AccelOptions], Accelerator] | None],
    ) -> None:
        """``find_accelerator(name)`` gives what opens one; None: there is none of that name."""
        self._find_accelerator = find_accelerator
        self._accelerator: Accelerator
        self.vm = vm
        self.plan = plan
        self.config = vm.config
        self._netdevs: list[tuple[str, Netdev]] = []  # planned, with the options that they were made from
        describe_machine(vm.qom, self.config)
        #: for stderr, when the start has succeeded: an error would otherwise not be the one line that is read
        self.warnings: list[str] = []

    def make_objects(self) -> None:
        """Every ``-object``, in order. Raises VmmdError."""
        store = self.vm.objects
        self.vm.on_close(store.close)
        for each in self.config.objects:
            with named(f"-object {each.qom_type},id={each.id}"):
                store.add(each)

    def plan_netdevs(self) -> None:
        """Every ``-netdev``: what was inherited is what it has to be. No side effect. Raises VmmdError."""
        if not self.config.netdevs:
            return
        from vmmd.net.descriptors import OutsideDescriptors

        descriptors = OutsideDescriptors(self.vm.fdsets)
        for each in self.config.netdevs:
            with named(each.where):
                self._netdevs.append((each.where, self.vm.network().plan(each, descriptors)))

    def open_accelerator(self) -> None:
        """Open the first accelerator that is usable, and find out what CPU it can give. Raises VmmdError."""
        from vmmd.kvm.cpu_query import CpuModels

        vm, config = self.vm, self.config
        found, self.warnings = open_first(vm, self._find_accelerator)
        vm.accelerator = None if found is None else found.name
        if found is None:
            vm.cpu_models = CpuModels(None, config.machine_version)
            return
        self._accelerator = found
        vm.cpu_models = CpuModels(found.host, config.machine_version)
        if self.plan.is_none:
            return
        smp = config.smp
        self.cpu_config = resolve_cpu(config, found.host)
        self.warnings += [*found.check_cpus(smp.cpus, smp.maxcpus), *self.cpu_config.warnings]

    def build(self) -> None:
        """Open images and assemble. Raises VmmdError; ``vm.close`` then gives back what was opened."""
        self._open_disks()
        self._open_netdevs()
        if self.plan.is_none:
            if self.vm.ram_bytes:
                self.vm.memory_map = FlatMemory(None, self._ram_blocks(), self.vm.memory)
                self.vm.memory_map.commit()
            return
        vm = self.vm
        platform = self._accelerator.make_platform(vm)
        vm.on_close(AccessTrace((vm.pio, vm.mmio), vm.lock).close)
        vm.chips = platform.chips
        vm.memory_map = MemoryMap(platform.slots, self._ram_blocks(), vm.memory)
        if self.config.mem_lock:
            vm.memory.pin("all memory is locked (mem-lock=on)")
        ctx = self._context(platform)
        self._place_cpus(platform.chips)
        for rom in self.config.option_roms:
            with named(f"-option-rom {rom.romfile}"):
                self._roms.add_option(rom)
        with vm.lock:
            board = self._board(ctx)
        self._warn_of_loose_ends()
        vm.cpus = self._accelerator.make_cpus(vm, self.cpu_config)
        self._make_firmware(board, platform.chips)

    def _ram_blocks(self) -> list[RamBlock]:
        """The memory backends that are the guest's RAM: those that the user named, or one of vmmd's own."""
        from vmmd.machine.objects.memory import MemoryObject
        from vmmd.options.objects import MemoryBackendRam

        config = self.config
        names = [node.memdev for node in config.numa if node.memdev]
        if config.machine.memory_backend:
            names = [config.machine.memory_backend]
        if not names:
            name = "ram" if self.plan.is_none else DEFAULT_RAM
            own = MemoryBackendRam.from_items([("id", name), ("size", str(config.memory.size_bytes))], "-m")
            self.vm.objects.add(own)
            names = [name]
        blocks = []
        for name in names:
            backend = self.vm.objects.get(name)
            assert isinstance(backend, MemoryObject)  # the plan says so
            backend.users.append("the machine")
            blocks.append(backend.block)
        return blocks

    def _context(self, platform: Platform) -> DeviceContext:
        from vmmd.machine.backends import MachineBackends
        from vmmd.machine.option_roms import MachineRoms

        vm = self.vm
        assert vm.memory_map is not None
        self._roms = MachineRoms(vm.memory_map, vm.mmio, self.config.data_dirs)
        vm.irqs = GsiFanIn(platform.interrupts)
        ctx = DeviceContext(
            lock=vm.lock,
            memory=vm.memory,
            pio=vm.pio,
            mmio=vm.mmio,
            interrupts=platform.interrupts,
            irqs=vm.irqs,
            clock=vm.clock,
            loop=vm.loop,
            doorbells=platform.doorbells,
            events=vm.events,
            requests=vm.requests,
            backends=MachineBackends(vm),
            inputs=vm.inputs,
            roms=self._roms,
            vcpus=self.config.smp.cpus,
        )
        vm.balloon = ctx.balloon
        return ctx

    def _board(self, ctx: DeviceContext) -> PcI440fx:
        from vmmd.machine.pc_i440fx import PcI440fx

        assert self.vm.memory_map is not None
        board = PcI440fx(self.config, ctx, self.vm.memory_map, self.vm.qom)
        self.vm.devices = board.devices
        self.vm.pci = board.bus
        board.serial_ports = self._serial_ports()
        board.bus_names = self.plan.buses
        if self.vm.chips is not None:
            board.connect_kernel_pit = self.vm.chips.connect_pit
        board.build()
        describe_board(board)
        self.vm.press_power_button = board.pm.press_power_button
        for each in self.plan.devices:
            with named(each.option):
                board.add(each)
        board.complete()
        return board

    def _place_cpus(self, chips: Chips) -> None:
        """vCPUs in the object tree, before the devices: /machine/unattached/device[0] is the first."""
        from vmmd.machine.cpu_tree import CpuNodes

        nodes = CpuNodes(self.cpu_config, chips.types.apic)
        for index in range(self.config.smp.cpus):
            self.vm.qom.unattached.add(f"device[{index}]", nodes.make(index))

    def _serial_ports(self) -> frozenset[int]:
        """COM ports that the planned devices will be (DEVRESA tells firmware)."""
        ports: set[int] = set()
        for each in self.plan.devices:
            if each.cls.type_name == "isa-serial":
                index = each.props.values.get("index")
                free = next(number for number in range(len(ports) + 1) if number not in ports)
                ports.add(free if index is None else index)
        return frozenset(ports)

    def _open_disks(self) -> None:
        """Every -blockdev node and -drive. Raises VmmdError."""
        if not (self.config.blockdevs or self.config.drives):
            return
        graph = self.vm.block_graph()
        for node in self.config.blockdevs:
            with named(f"-blockdev node-name={node.node_name}"):
                graph.add(node)
        for drive in self.config.drives:
            with named(drive.where):
                graph.add_drive(drive)

    def _open_netdevs(self) -> None:
        """Those that ``plan_netdevs`` has made. Raises VmmdError."""
        for where, each in self._netdevs:
            with named(where):
                each.open()
            self.vm.network().enter(each)

    def _warn_of_loose_ends(self) -> None:
        """QEMU-COMPAT: NICs without a netdev, and netdevs without a NIC, are warned of."""
        if self.vm.net is not None:
            from vmmd.net.listing import loose_ends

            self.warnings += loose_ends(self.vm.net)

    def _make_firmware(self, board: PcI440fx, chips: Chips) -> None:
        """Firmware or kernel, and what a reset of the board does from now on."""
        from vmmd.machine.firmware_setup import FirmwareSetup
        from vmmd.machine.hotplug import Plugger

        vm = self.vm
        assert vm.memory_map is not None
        assert vm.cpus is not None
        cpus = vm.cpus
        setup = FirmwareSetup(vm, board, self.cpu_config, self._roms, self.plan.node_sizes)
        setup.publish()
        setup.map_firmware()
        cpus.start()

        boot = self.config.boot

        def reset_board() -> None:
            chips.reset()
            setup.publish_boot_order()
            if boot.once is not None:
                board.set_boot_order(boot.order)
            if self.plan.direct_boot is not None:
                state, elcr = setup.start_kernel(self.plan.direct_boot)
                chips.set_elcr(elcr)
                cpus.set_boot_state(state)
            cpus.reset()

        def tell_firmware() -> None:
            setup.publish_boot_order()
            if self.plan.direct_boot is not None:  # its place is taken by what a reset does
                for device in vm.devices:
                    device.reset(ResetKind.COLD)
                reset_board()

        vm.plugger = Plugger(vm, board, tell_firmware)
        vm.reset_board = reset_board
        with vm.lock:
            vm.memory_map.commit()
            reset_board()
            if boot.once is not None:
                board.set_boot_order(boot.once)


def resolve_cpu(config: Config, host: HostCpu) -> CpuConfig:
    """The CPU of ``-cpu`` (default qemu64) on this host. Raises UsageError."""
    from vmmd.kvm.cpuid import Topology, resolve

    smp = config.smp
    topology = Topology(smp.sockets, smp.dies, smp.cores, smp.threads)
    with named(f"-cpu {config.cpu}"):
        return resolve(config.cpu or DEFAULT_CPU, host, topology, config.machine_version)
