# SPDX-License-Identifier: Apache-2.0
"""Checks across options that need nothing but the text: names that must exist, numbers that must agree.

Properties of devices are checked by the machine, which imports their classes; here only the driver's name is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core import registry
from vmmd.errors import UsageError
from vmmd.options.backends import BLOCK_CHILD, BlockdevOptions, ChardevStdio
from vmmd.options.fields import shown, unknown_name
from vmmd.options.models import machine_types
from vmmd.options.objects import LaterObject, MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.options.draft import Draft
    from vmmd.options.models import Config, MachineType

BOOT_DRIVES = "abcdefghijklmnop"
#: QOM types that -global names although no -device creates them
GLOBAL_TYPES = ("kvm-pit", "kvm-apic", "kvm-ioapic", "kvm-i8259", "virtio-blk-device", "virtio-pci", "virtio-device")


def check(draft: Draft) -> None:
    """Raises UsageError for the first contradiction."""
    config = draft.config
    machine = machine_types()[config.machine.type]
    _check_drivers(config)
    _check_chardevs(draft)
    _check_smp(config, machine)
    _check_memory(config, machine)
    _check_numa(config, machine)
    _check_boot(config)
    _check_rtc(config)
    _check_kernel(config)
    _check_blocks(config)
    _check_globals(config)
    if config.daemonize:
        _check_daemonize(config)


def _check_drivers(config: Config) -> None:
    for device in config.devices:
        if device.driver not in registry.DEVICES and device.driver not in registry.LATER:
            # QEMU-COMPAT: the phrase
            what = f"'{shown(device.driver)}' is not a valid device model name"
            raise unknown_name(f"-device {shown(device.driver)}", device.driver, registry.DEVICES, what)


def _check_chardevs(draft: Draft) -> None:
    """Every named character device exists, and no two options use the same one."""
    config = draft.config
    users: dict[str, str] = {}
    for option, id_ in draft.chardev_users:
        if id_ not in config.chardevs:
            # QEMU-COMPAT: the phrase
            raise unknown_name(option, id_, config.chardevs, f'chardev "{shown(id_)}" not found')
        if id_ in users:
            raise UsageError(f"{option}: Device '{id_}' is in use", f"by {users[id_]}")
        users[id_] = option
    on_stdio = [entry.id for entry in config.chardevs.values() if isinstance(entry, ChardevStdio)]
    if len(on_stdio) > 1:
        # QEMU-COMPAT: the phrase
        ids = " and ".join(on_stdio[:2])
        raise UsageError(f"-chardev stdio,id={on_stdio[1]}: cannot use stdio by multiple character devices", ids)


def _check_smp(config: Config, machine: MachineType) -> None:
    smp = config.smp
    if smp.clusters > 1:
        raise UsageError("-smp clusters: clusters not supported by this machine's CPU topology", "leave it out")
    total = smp.sockets * smp.dies * smp.cores * smp.threads
    shape = f"sockets ({smp.sockets}) * dies ({smp.dies}) * cores ({smp.cores}) * threads ({smp.threads})"
    if total != smp.maxcpus:
        raise UsageError(
            "-smp: Invalid CPU topology: product of the hierarchy must match maxcpus: "
            f"{shape} != maxcpus ({smp.maxcpus})"
        )
    if smp.cpus > smp.maxcpus:
        raise UsageError(
            "-smp: Invalid CPU topology: maxcpus must be equal to or greater than smp: "
            f"{shape} == maxcpus ({smp.maxcpus}) < smp_cpus ({smp.cpus})"
        )
    if smp.maxcpus > machine.max_cpus:
        raise UsageError(
            f"-smp maxcpus={smp.maxcpus}: Invalid SMP CPUs {smp.maxcpus}. The max CPUs supported by machine "
            f"'{machine.name}' is {machine.max_cpus}"
        )


def _check_memory(config: Config, machine: MachineType) -> None:
    memory = config.memory
    size = memory.size_bytes
    if memory.maxmem_bytes is not None and memory.maxmem_bytes < size:
        raise UsageError(
            f"-m maxmem={memory.maxmem_bytes}: invalid value of maxmem: maximum memory size "
            f"({memory.maxmem_bytes:#x}) must be at least the initial memory size ({size:#x})"
        )
    if memory.slots and memory.maxmem_bytes is None:
        raise UsageError(f"-m slots={memory.slots}: slots specified but no max-size", "give maxmem= as well")
    if memory.slots and memory.maxmem_bytes == size:
        raise UsageError(
            f"-m maxmem={memory.maxmem_bytes}: invalid value of maxmem: memory slots were specified but maximum memory "
            f"size ({size:#x}) is equal to the initial memory size ({size:#x})"
        )
    named = config.machine.memory_backend
    if named is not None and machine.name != "none":
        backend = _memory_backend(config, named, f"-machine memory-backend={shown(named)}")
        if backend is not None and backend.size_bytes != size:
            raise UsageError(
                f"-machine memory-backend={named}: Machine memory size does not match the size of the memory backend",
                f"-m says {size:#x}, -object says {backend.size_bytes:#x}",
            )


def _memory_backend(config: Config, named: str, prefix: str) -> MemoryBackend | None:
    """The object, or None when it is of a kind that is refused anyway."""
    for entry in config.objects:
        if entry.id == named:
            if isinstance(entry, (MemoryBackend, LaterObject)):
                return entry if isinstance(entry, MemoryBackend) else None
            raise UsageError(f"{prefix}: '{named}' is no memory backend", "an -object memory-backend-… is needed")
    known = [entry.id for entry in config.objects if isinstance(entry, MemoryBackend)]
    # QEMU-COMPAT: the phrase
    raise unknown_name(prefix, named, known, f"Memory backend '{shown(named)}' not found")


def _check_numa(config: Config, machine: MachineType) -> None:
    if not config.numa:
        return
    if machine.name == "none":
        raise UsageError("-numa node: NUMA is not supported by this machine-type")
    numbers: set[int] = set()
    owners: dict[int, int] = {}
    for node in config.numa:
        nodeid = node.nodeid or 0
        where = f"-numa node,nodeid={nodeid}"
        if nodeid in numbers:
            raise UsageError(f"{where}: Duplicate NUMA nodeid: {nodeid}")
        numbers.add(nodeid)
        if node.mem_bytes is not None and not machine.numa_mem_supported:
            raise UsageError(
                f"{where},mem: Parameter -numa node,mem is not supported by this machine type",
                "use -numa node,memdev instead",
            )
        if node.mem_bytes is not None and node.memdev is not None:
            raise UsageError(f"{where}: 'mem' and 'memdev' exclude each other")
        _check_node_cpus(config, node.cpus, owners, nodeid, where)
    if numbers != set(range(len(numbers))):
        missing = min(set(range(len(numbers))) - numbers)
        raise UsageError(f"-numa: numa: Node ID missing: {missing}", "nodes are numbered from 0 without gaps")
    _check_numa_sizes(config)


def _check_node_cpus(config: Config, cpus: tuple[int, ...], owners: dict[int, int], nodeid: int, where: str) -> None:
    for cpu in cpus:
        if cpu >= config.smp.maxcpus:
            raise UsageError(
                f"{where},cpus={cpu}: CPU index ({cpu}) should be smaller than maxcpus ({config.smp.maxcpus})"
            )
        if cpu in owners and owners[cpu] != nodeid:
            raise UsageError(f"{where},cpus={cpu}: CPU {cpu} is already in node {owners[cpu]}")
        owners[cpu] = nodeid


def _check_numa_sizes(config: Config) -> None:
    sizes = []
    for node in config.numa:
        if node.memdev is not None:
            backend = _memory_backend(config, node.memdev, f"-numa node,memdev={shown(node.memdev)}")
            if backend is None:
                return
            sizes.append(backend.size_bytes)
        elif node.mem_bytes is not None:
            sizes.append(node.mem_bytes)
    if sizes and sum(sizes) != config.memory.size_bytes:
        ram = config.memory.size_bytes
        raise UsageError(f"-numa: total memory for NUMA nodes ({sum(sizes):#x}) should equal RAM size ({ram:#x})")


def _check_boot(config: Config) -> None:
    for key in ("order", "once"):
        drives = config.boot.values.get(key) or ""
        for position, drive in enumerate(drives):
            if drive not in BOOT_DRIVES:
                raise UsageError(
                    f"-boot {key}={shown(drives)}: Invalid boot device '{shown(drive)}'", "it takes letters from a to p"
                )
            if drive in drives[:position]:
                raise UsageError(f"-boot {key}={shown(drives)}: Boot device '{drive}' was given twice")


def _check_rtc(config: Config) -> None:
    base = config.rtc.base
    if base in ("utc", "localtime"):
        return
    from datetime import datetime

    try:
        if len(base) not in (10, 19) or (len(base) == 19 and base[10] != "T"):
            raise ValueError
        datetime.fromisoformat(base)
    except ValueError:
        raise UsageError(
            f"-rtc base={shown(base)}: 'base' takes utc, localtime or a date like 2006-06-17T16:01:21 or 2006-06-17"
        ) from None


def _check_kernel(config: Config) -> None:
    if config.kernel is None:
        # QEMU-COMPAT: the phrases
        if config.append is not None:
            raise UsageError("-append: -append only allowed with -kernel option")
        if config.initrd is not None:
            raise UsageError("-initrd: -initrd only allowed with -kernel option")


def _check_blocks(config: Config) -> None:
    """Node names are unique, and references to nodes are to existing ones (defined before or after)."""
    names: list[str] = [drive.id for drive in config.drives if drive.id is not None]
    for node in _all_nodes(config):
        if node.node_name is not None:
            if node.node_name in names:
                raise UsageError(
                    f"-blockdev node-name={shown(node.node_name)}: Duplicate nodes with node-name='{node.node_name}'"
                )
            names.append(node.node_name)
    for drive in config.drives:
        if drive.node_name is not None:
            if drive.node_name in names:
                raise UsageError(
                    f"-drive node-name={shown(drive.node_name)}: Duplicate nodes with node-name='{drive.node_name}'"
                )
            names.append(drive.node_name)
    for node in _all_nodes(config):
        for key, value in node.values.items():
            declared = node.declared.get(key)
            is_child = declared is not None and declared.kind is BLOCK_CHILD
            if is_child and isinstance(value, str) and value not in names:
                prefix = f"-blockdev {node.driver},node-name={node.node_name} {key}={shown(value)}"
                what = f"Cannot find device='{shown(value)}' nor node-name='{shown(value)}'"
                raise unknown_name(prefix, value, names, what)


def _all_nodes(config: Config) -> Iterator[BlockdevOptions]:
    stack = [*reversed(config.blockdevs)]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children())


def _check_globals(config: Config) -> None:
    for entry in config.globals:
        known = entry.driver in registry.DEVICES or entry.driver in registry.LATER or entry.driver in GLOBAL_TYPES
        if not known:
            name = f"{entry.driver}.{entry.property}"
            # QEMU-COMPAT: a warning, not an error; machine types of other builds name devices of their own
            config.notices.append(f"warning: global {shown(name)} has invalid class name")


def _check_daemonize(config: Config) -> None:
    # QEMU-COMPAT: the phrase
    for entry in config.chardevs.values():
        if isinstance(entry, ChardevStdio):
            raise UsageError(f"-chardev stdio,id={entry.id}: cannot use stdio with -daemonize", "use another backend")
