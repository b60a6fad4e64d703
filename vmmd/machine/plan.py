# SPDX-License-Identifier: Apache-2.0
"""Checks everything that a command line says about the machine, without side effects: the first step of a start.

What ``plan`` returns is what ``machine.build`` assembles. Reading files that are named (kernel, initrd) is part of it,
so that a damaged image is refused before anything is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError, named
from vmmd.machine import device_plan

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from vmmd.firmware.direct_boot import DirectBoot
    from vmmd.options.models import Config
    from vmmd.options.objects import MemoryBackend


class MachinePlan:
    """A checked machine."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.devices: list[device_plan.DevicePlan] = []
        self.buses = device_plan.BusNames()
        self.direct_boot: DirectBoot | None = None
        self.node_sizes: list[int] = []  # bytes of RAM of each -numa node
        self.is_none = config.machine.type == "none"

    def check(self) -> None:
        """Check machine, devices and what they refer to. Raises UsageError, BackendError."""
        config = self.config
        if self.is_none:
            self._check_none()
            return
        from vmmd.options.models import DeviceOptions

        self._check_globals()
        ports = [
            DeviceOptions("isa-serial", None, None, [("index", str(port.com_index)), ("chardev", port.chardev)])
            for port in config.serials
        ]
        for options in [*ports, *config.nics, *device_plan.behind_their_buses(config.devices)]:
            made = device_plan.plan(options, config.device_defaults, self.buses)
            self.buses.bring(made)
            self.devices.append(made)
        known: dict[str, Container[str]] = {
            "chardev": config.chardevs,
            "drive": {each for drive in config.drives if (each := drive.id)}
            | {each for node in config.blockdevs if (each := node.node_name)},
            "netdev": {each.id for each in config.netdevs},
        }
        device_plan.check_single(self.devices)
        device_plan.check_references(self.devices, known)
        self._check_rngs()
        self._check_chardev_users()
        self._check_memory()
        self._check_kernel()

    def _check_none(self) -> None:
        config = self.config
        if config.devices or config.kernel:
            what = f"-device {config.devices[0].driver}" if config.devices else "-kernel"
            raise UsageError(f"{what}: machine 'none' has no buses and no memory", "use -machine pc")

    def _check_globals(self) -> None:
        from vmmd.core.registry import DEVICES, device_class

        for each in self.config.globals:
            if each.driver in DEVICES:
                cls = device_class(each.driver)
                assert cls is not None
                device_plan.new_props(cls, [each])

    def _check_kernel(self) -> None:
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

    def _check_rngs(self) -> None:
        """``rng=`` of a device names an object that gives random bytes."""
        from vmmd.machine.backends import no_rng

        objects = {each.id: each.parent_type for each in self.config.objects}
        for each in self.devices:
            id_ = each.props.values.get("rng")
            if id_ and objects.get(id_) != "rng-backend":
                with named(each.option):
                    raise no_rng(id_, known=id_ in objects)

    def _check_chardev_users(self) -> None:
        """One chardev, one user; monitors and netdevs count."""
        users = {monitor.chardev: "a monitor" for monitor in self.config.monitors}
        if self.config.qtest is not None:
            users[self.config.qtest] = "-qtest"
        for name, user in self._chardev_uses():
            if name in users:
                raise UsageError(f"Device '{name}' is in use", f"chardev {name} is used by {users[name]}")
            users[name] = user

    def _chardev_uses(self) -> Iterator[tuple[str, str]]:
        """Character devices that are named, and by whom."""
        from vmmd.options.netdevs import NetdevVhostUser

        for netdev in self.config.netdevs:
            if isinstance(netdev, NetdevVhostUser):
                yield netdev.chardev, f"netdev {netdev.id}"
        for each in self.devices:
            for declared in each.props.each():
                if declared.kind.ref_kind == "chardev" and (name := each.props.values.get(declared.name)):
                    yield name, each.id or each.cls.type_name

    def _check_memory(self) -> None:
        """Sizes of -m, -numa and memory backends agree."""
        config = self.config
        total = config.memory.size_bytes
        named = [node.memdev for node in config.numa if node.memdev]
        if named and config.machine.memory_backend:
            raise UsageError("'-machine memory-backend' and '-numa memdev' properties are mutually exclusive")
        sizes = [self.backend(name).size_bytes for name in named]
        if named:
            if len(named) != len(config.numa):
                raise UsageError("memdev option must be specified for either all or no nodes")
        elif any(node.mem_bytes is not None for node in config.numa):
            sizes = [node.mem_bytes or 0 for node in config.numa]
        elif config.machine.memory_backend:
            size = self.backend(config.machine.memory_backend).size_bytes
            if "size" in config.memory.given and size != total:
                raise UsageError(
                    f"Size specified by -m option must match size of explicitly specified 'memory-backend' property: "
                    f"-m says {total}, {config.machine.memory_backend} has {size}"
                )
        elif config.numa:
            sizes = [total]
        self.node_sizes = sizes if config.numa else []
        if sizes and sum(sizes) != total:
            raise UsageError(f"total memory for NUMA nodes ({sum(sizes):#x}) should equal RAM size ({total:#x})")

    def backend(self, name: str) -> MemoryBackend:
        from vmmd.options.objects import MemoryBackend

        for each in self.config.objects:
            if each.id == name and isinstance(each, MemoryBackend):
                return each
        raise UsageError(
            f"memdev={name} is ambiguous or not a memory backend", f"no -object memory-backend-* has id {name}"
        )
