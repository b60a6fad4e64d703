# SPDX-License-Identifier: Apache-2.0
"""The typed model of a command line: ``Config`` and the options that describe machine, CPU, memory and process.

Attribute names are Python's; the keys on the command line are QEMU's (``wire_name``). ``None`` means: not given.
Sizes are bytes. Backends (chardev, block, netdev, object) have their models in ``backends.py``. A ``Config`` is
complete and textually consistent, but nothing of it has been opened: that is the work of machine and daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from vmmd.core.props import BOOL, BOOT_INDEX, ON_OFF_AUTO, PATH, SIZE, STR, U16, U32, enum_type, int_type, prop
from vmmd.options.fields import COUNT, FD, NOTHING, NUMBER, ONLY_OFF, RANGES, SIZE_MIB, UUID, OptionSet
from vmmd.options.old_machines import OldDefault, old_defaults
from vmmd.units import MiB

if TYPE_CHECKING:
    from vmmd.core.trace import LogRequest
    from vmmd.options.backends import (
        AudiodevOptions,
        BlockdevOptions,
        ChardevOptions,
        DriveOptions,
        VncOptions,
    )
    from vmmd.options.fields import Items
    from vmmd.options.netdev_base import NetdevOptions
    from vmmd.options.objects import ObjectOptions

DEFAULT_MEMORY_BYTES = 128 * MiB
ONLY_AUTO: tuple[object, ...] = (False, "off", "auto")


class MachineType(NamedTuple):
    """One name that ``-machine`` takes."""

    name: str
    description: str
    alias: str | None
    max_cpus: int
    numa_mem_supported: bool  # -numa node,mem=
    prefers_sockets: bool  # CPUs given without topology become sockets rather than cores


_PC_VERSIONS = (
    "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "3.0", "3.1", "4.0", "4.1", "4.2", "5.0", "5.1", "5.2",
    "6.0", "6.1", "6.2", "7.0", "7.1", "7.2",
)  # fmt: skip
PC_DEFAULT = "pc-i440fx-7.2"
_PC_TEXT = "Standard PC (i440FX + PIIX, 1996)"


def machine_types() -> dict[str, MachineType]:
    """Every machine type of this version by name; the newest first, as ``-machine help`` shows them."""
    types = {}
    for index in range(len(_PC_VERSIONS) - 1, -1, -1):
        name = f"pc-i440fx-{_PC_VERSIONS[index]}"
        types[name] = MachineType(
            name,
            _PC_TEXT,
            "pc" if name == PC_DEFAULT else None,
            255,
            numa_mem_supported=index <= _PC_VERSIONS.index("5.0"),
            prefers_sockets=index <= _PC_VERSIONS.index("6.1"),
        )
    types["none"] = MachineType("none", "empty machine", None, 1, numa_mem_supported=False, prefers_sockets=False)
    return types


class NameOptions(OptionSet):
    """``-name``: what the guest is called."""

    guest = prop(STR, None, "name of the guest, shown by query-name")
    process = prop(STR, None, "name of the process in ps")
    debug_threads = prop(BOOL, False, "give every thread its own name", wire="debug-threads")


class MachineOptions(OptionSet):
    """``-machine``: the board. Keys may be written with ``_`` or ``-``."""

    type = prop(STR, PC_DEFAULT, "machine type (-machine help)")
    accel = prop(STR, None, "accelerators in order of preference, with ':' between")
    acpi = prop(ON_OFF_AUTO, "auto", "ACPI tables and power management")
    usb = prop(BOOL, False, "add the PIIX3 USB controller")
    pit = prop(ON_OFF_AUTO, "auto", "i8254 timer")
    pic = prop(ON_OFF_AUTO, "auto", "i8259 interrupt controller")
    hpet = prop(BOOL, True, "high precision event timer")
    graphics = prop(BOOL, True, "off: firmware uses the serial port as its screen")
    kernel_irqchip = prop(enum_type("OnOffSplit", "on", "off", "split"), "on", "interrupt controllers in the kernel")
    memory_backend = prop(STR, None, "id of the memory backend that is the RAM")
    dump_guest_core = prop(BOOL, True, "include guest memory in core dumps")
    vmport = prop(ON_OFF_AUTO, "auto", "VMware I/O port")
    smm = prop(ON_OFF_AUTO, "auto", "system management mode")
    mem_merge = prop(BOOL, True, "let the host merge equal pages")
    nvdimm = prop(BOOL, False, "NVDIMM support")
    sata = prop(BOOL, None, "SATA controller")
    smbus = prop(BOOL, None, "system management bus")
    i8042 = prop(BOOL, True, "PS/2 keyboard controller")
    suppress_vmdesc = prop(BOOL, False, "leave the self-description out of migration streams")
    max_ram_below_4g = prop(SIZE, None, "RAM below 4 GiB at most")
    max_fw_size = prop(SIZE, None, "largest firmware image")
    smbios_entry_point_type = prop(enum_type("str", "32", "64"), "32", "SMBIOS entry point: 32 (2.1) or 64 (3.0)")
    kernel = prop(STR, None, "same as -kernel")
    initrd = prop(STR, None, "same as -initrd")
    append = prop(STR, None, "same as -append")
    firmware = prop(STR, None, "same as -bios")
    pflash0 = prop(STR, None, "block node of flash chip 0")
    pflash1 = prop(STR, None, "block node of flash chip 1")
    confidential_guest_support = prop(STR, None, "object id")
    memory_encryption = prop(STR, None, "object id")
    x_oem_id = prop(STR, None, "OEM id in ACPI tables, up to 6 characters")
    x_oem_table_id = prop(STR, None, "OEM table id in ACPI tables, up to 8 characters")

    later: ClassVar = {
        "usb": ONLY_OFF,
        "vmport": ONLY_AUTO,
        "smm": ONLY_AUTO,
        "nvdimm": ONLY_OFF,
        "sata": ONLY_OFF,
        "pic": ("on", "auto"),
        "suppress-vmdesc": NOTHING,
        "max-fw-size": NOTHING,
        "smbus": NOTHING,
        "max-ram-below-4g": NOTHING,
        "smbios-entry-point-type": ("32",),
        "x-oem-id": NOTHING,
        "x-oem-table-id": NOTHING,
        "pflash0": NOTHING,
        "pflash1": NOTHING,
        "confidential-guest-support": NOTHING,
        "memory-encryption": NOTHING,
    }


class AccelOptions(OptionSet):
    """``-accel``."""

    accel = prop(STR, "kvm", "kvm", required=True)
    kernel_irqchip = prop(enum_type("OnOffSplit", "on", "off", "split"), None, "interrupt controllers in the kernel")
    kvm_shadow_mem = prop(SIZE, None, "shadow page tables of KVM")
    dirty_ring_size = prop(U32, None, "entries of the KVM dirty ring")
    notify_vmexit = prop(enum_type("str", "run", "internal-error", "disable"), None, "what a notify exit does")
    notify_window = prop(U32, None, "cycles before a notify exit")
    thread = prop(enum_type("str", "single", "multi"), None, "threads of tcg")
    tb_size = prop(U32, None, "translation cache of tcg, MiB")
    split_wx = prop(BOOL, None, "split mapping of tcg")
    one_insn_per_tb = prop(BOOL, None, "of tcg")
    igd_passthru = prop(BOOL, None, "of xen")

    later: ClassVar = {
        "kvm-shadow-mem": NOTHING,
        "dirty-ring-size": (0,),
        "notify-vmexit": ("disable",),
        "notify-window": NOTHING,
        "thread": NOTHING,
        "tb-size": NOTHING,
        "split-wx": NOTHING,
        "one-insn-per-tb": NOTHING,
        "igd-passthru": NOTHING,
    }


class MemoryOptions(OptionSet):
    """``-m``."""

    size_bytes = prop(SIZE_MIB, DEFAULT_MEMORY_BYTES, "RAM at start; a plain number is MiB", wire="size")
    slots = prop(U32, 0, "sockets for memory devices added later")
    maxmem_bytes = prop(SIZE, None, "highest amount of RAM that can be reached", wire="maxmem")


class SmpOptions(OptionSet):
    """``-smp``; after ``parse`` every attribute has its final value."""

    cpus = prop(COUNT, 1, "CPUs at start")
    maxcpus = prop(COUNT, 1, "CPUs at most, with those added later")
    sockets = prop(COUNT, 1, "sockets on the board")
    dies = prop(COUNT, 1, "dies in a socket")
    clusters = prop(COUNT, 1, "clusters in a die (not on a PC)")
    cores = prop(COUNT, 1, "cores in a die")
    threads = prop(COUNT, 1, "threads in a core")


class NumaNode(OptionSet):
    """``-numa node``."""

    nodeid = prop(U16, None, "number of the node; otherwise in order")
    cpus = prop(RANGES, (), "CPU numbers of the node, 0-3; may be repeated")
    mem_bytes = prop(SIZE_MIB, None, "RAM of the node; a plain number is MiB", wire="mem")
    memdev = prop(STR, None, "id of the memory backend of the node")
    initiator = prop(U16, None, "node whose CPUs are nearest")

    repeatable: ClassVar = frozenset({"cpus"})
    later: ClassVar = {"initiator": NOTHING}


class NumaDistance(OptionSet):
    """``-numa dist``."""

    src = prop(U16, 0, "source node", required=True)
    dst = prop(U16, 0, "destination node", required=True)
    val = prop(U16, 0, "distance, 10 is local", required=True)


class NumaCpu(OptionSet):
    """``-numa cpu``."""

    node_id = prop(U16, 0, "node", required=True)
    socket_id = prop(NUMBER, None, "socket")
    die_id = prop(NUMBER, None, "die")
    core_id = prop(NUMBER, None, "core")
    thread_id = prop(NUMBER, None, "thread")


class RtcOptions(OptionSet):
    """``-rtc``."""

    base = prop(STR, "utc", "utc, localtime or a date like 2006-06-17T16:01:21")
    clock = prop(enum_type("str", "host", "rt", "vm"), "host", "which clock drives it")
    driftfix = prop(enum_type("str", "none", "slew"), "none", "slew: deliver lost ticks later")


class BootOptions(OptionSet):
    """``-boot``."""

    order = prop(STR, None, "drives in order: a floppy, c disk, d CD-ROM, n network")
    once = prop(STR, None, "the same, for the first boot only")
    menu = prop(BOOL, None, "offer a boot menu")
    splash = prop(PATH, None, "picture file shown by the firmware")
    splash_time = prop(U16, None, "milliseconds the picture stays")
    reboot_timeout = prop(int_type("int", -1, 0xFFFF), None, "milliseconds until a failed boot is retried; -1: never")
    strict = prop(BOOL, False, "boot from nothing but what has a bootindex")

    later: ClassVar = {"splash": NOTHING}


class ActionOptions(OptionSet):
    """``-action``, ``-no-reboot``, ``-no-shutdown``, ``-watchdog-action``."""

    reboot = prop(enum_type("RebootAction", "reset", "shutdown"), "reset", "when the guest reboots")
    shutdown = prop(enum_type("ShutdownAction", "poweroff", "pause"), "poweroff", "when the guest powers off")
    panic = prop(
        enum_type("PanicAction", "pause", "shutdown", "exit-failure", "none"), "shutdown", "when the guest panics"
    )
    watchdog = prop(
        enum_type("WatchdogAction", "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"),
        "reset",
        "when a watchdog fires",
    )


class OvercommitOptions(OptionSet):
    """``-overcommit``."""

    mem_lock = prop(BOOL, False, "lock all memory of the process")
    cpu_pm = prop(BOOL, False, "let the guest manage the CPU's power states")

    later: ClassVar = {"cpu-pm": ONLY_OFF}


class RealtimeOptions(OptionSet):
    """``-realtime``."""

    mlock = prop(BOOL, True, "lock all memory of the process")


class MsgOptions(OptionSet):
    """``-msg``."""

    timestamp = prop(BOOL, False, "put the time in front of messages")
    guest_name = prop(BOOL, False, "put the guest's name in front of messages")

    later: ClassVar = {"guest-name": ONLY_OFF}


class TraceOptions(OptionSet):
    """``-trace``: events to switch on at the start."""

    enable = prop(STR, None, "a name, or a pattern with *")
    events = prop(PATH, None, "a file with names and patterns, one on a line; - in front switches off")
    file = prop(PATH, None, "write the log there")


class SandboxOptions(OptionSet):
    """``-sandbox``."""

    enable = prop(BOOL, True, "filter system calls")
    obsolete = prop(enum_type("str", "allow", "deny"), "deny", "obsolete system calls")
    elevateprivileges = prop(enum_type("str", "allow", "deny", "children"), "allow", "set*uid and set*gid")
    spawn = prop(enum_type("str", "allow", "deny"), "allow", "fork and execve")
    resourcecontrol = prop(enum_type("str", "allow", "deny"), "allow", "affinity and scheduler priority")

    later: ClassVar = {"enable": ONLY_OFF}


class MonitorOptions(OptionSet):
    """``-mon``, ``-qmp``, ``-qmp-pretty``, ``-monitor``."""

    chardev = prop(STR, "", "id of the character device", required=True)
    id = prop(STR, None, "name of the monitor")
    mode = prop(enum_type("str", "readline", "control"), "readline", "control: QMP; readline: for people")
    pretty = prop(BOOL, False, "QMP with line breaks")


class AddFdOptions(OptionSet):
    """``-add-fd``: an inherited descriptor joins a set; ``/dev/fdset/N`` names the set."""

    fd = prop(FD, 0, "an open descriptor", required=True)
    set = prop(NUMBER, 0, "number of the set", required=True)
    opaque = prop(STR, None, "free text")


class FwCfgOptions(OptionSet):
    """``-fw_cfg``: a file for the firmware configuration device."""

    name = prop(STR, "", "name, opt/… by convention", required=True)
    file = prop(PATH, None, "take the content from this file")
    string = prop(STR, None, "the content itself")
    gen_id = prop(STR, None, "object that makes the content", wire="gen_id")

    later: ClassVar = {"gen_id": NOTHING}


class OptionRomOptions(OptionSet):
    """``-option-rom``: an image that firmware runs, and may boot from."""

    romfile = prop(PATH, None, "the image")
    bootindex = prop(BOOT_INDEX, None, "place in the boot order, 0 first")


class SmbiosOptions(OptionSet):
    """``-smbios type=N,…`` or ``file=…``; one class per type. Several of one type are merged into one."""

    number: ClassVar[int | None] = None  # the structure type; None: a file with raw structures


class SmbiosFile(SmbiosOptions):
    file = prop(PATH, "", "file with one raw structure", required=True)


class SmbiosType0(SmbiosOptions):
    number = 0
    vendor = prop(STR, None, "BIOS vendor")
    version = prop(STR, None, "BIOS version")
    date = prop(STR, None, "BIOS date")
    release = prop(STR, None, "major.minor")
    uefi = prop(BOOL, False, "UEFI is supported")


class SmbiosType1(SmbiosOptions):
    number = 1
    manufacturer = prop(STR, None, "maker of the system")
    product = prop(STR, None, "product name")
    version = prop(STR, None, "version")
    serial = prop(STR, None, "serial number")
    uuid = prop(UUID, None, "UUID; otherwise that of -uuid")
    sku = prop(STR, None, "SKU number")
    family = prop(STR, None, "family")


class SmbiosType2(SmbiosOptions):
    number = 2
    manufacturer = prop(STR, None, "maker of the board")
    product = prop(STR, None, "product name")
    version = prop(STR, None, "version")
    serial = prop(STR, None, "serial number")
    asset = prop(STR, None, "asset tag")
    location = prop(STR, None, "location in the chassis")


class SmbiosType3(SmbiosOptions):
    number = 3
    manufacturer = prop(STR, None, "maker of the chassis")
    version = prop(STR, None, "version")
    serial = prop(STR, None, "serial number")
    asset = prop(STR, None, "asset tag")
    sku = prop(STR, None, "SKU number")


class SmbiosType4(SmbiosOptions):
    number = 4
    sock_pfx = prop(STR, None, "socket designation prefix", wire="sock_pfx")
    manufacturer = prop(STR, None, "maker of the processor")
    version = prop(STR, None, "version")
    serial = prop(STR, None, "serial number")
    asset = prop(STR, None, "asset tag")
    part = prop(STR, None, "part number")
    max_speed = prop(U16, None, "MHz")
    current_speed = prop(U16, None, "MHz")


class SmbiosType11(SmbiosOptions):
    number = 11
    value: Any = prop(STR, (), "one OEM string; may be repeated")
    path: Any = prop(PATH, (), "file with one OEM string; may be repeated")

    repeatable: ClassVar = frozenset({"value", "path"})


class SmbiosType17(SmbiosOptions):
    number = 17
    loc_pfx = prop(STR, None, "device locator prefix", wire="loc_pfx")
    bank = prop(STR, None, "bank locator")
    manufacturer = prop(STR, None, "maker of the memory")
    serial = prop(STR, None, "serial number")
    asset = prop(STR, None, "asset tag")
    part = prop(STR, None, "part number")
    speed = prop(U16, None, "MHz")


SMBIOS_TYPES: dict[int, type[SmbiosOptions]] = {
    0: SmbiosType0,
    1: SmbiosType1,
    2: SmbiosType2,
    3: SmbiosType3,
    4: SmbiosType4,
    11: SmbiosType11,
    17: SmbiosType17,
}


class DeviceOptions(NamedTuple):
    """``-device``. The machine checks ``items`` against the properties of the driver."""

    driver: str
    id: str | None
    bus: str | None
    items: Items  # all other keys in order; text, or JSON values when ``is_json``
    is_json: bool = False
    made_from: str = ""  # another option (-drive if=virtio)
    of_board: bool = False  # the machine makes it (-nic)

    @property
    def option(self) -> str:
        """What errors begin with."""
        return self.made_from or f"-device {self.driver}" + (f",id={self.id}" if self.id else "")


class SerialOptions(NamedTuple):
    """One ``-serial``: COM port ``com_index`` (0-based) on character device ``chardev``."""

    com_index: int
    chardev: str


class GlobalProperty(NamedTuple):
    """One ``-global driver.property=value``; in order, a later one wins."""

    driver: str
    property: str
    value: str


class LaterOption(NamedTuple):
    """An option that was given and that this version does not have; ``check`` refuses it."""

    option: str  # with its dash
    argument: str | None


class Config:
    """Everything a command line asks for. Made by ``cmdline.parse``; plain data, no behaviour."""

    __slots__ = (
        "accels", "action", "add_fds", "append", "audiodevs", "bios", "blockdevs", "boot", "chardevs", "cpu",
        "daemonize", "data_dirs", "debugcon", "devices", "display", "drives", "floppy_boot_check", "fw_cfg", "globals",
        "initrd", "kernel", "keyboard", "later", "log_file", "log_file_option", "log_items", "machine", "memory",
        "monitors", "msg", "name", "netdevs", "nics", "nodefaults", "nographic", "notices", "numa", "numa_cpus",
        "numa_distances", "objects", "option_roms", "overcommit", "paused", "pidfile", "preconfig", "qtest",
        "qtest_log", "realtime", "rtc", "sandbox", "serials", "smbios", "smp", "traces", "uuid", "vga", "vnc",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = NameOptions()
        self.uuid: str | None = None
        self.machine = MachineOptions()
        self.accels: list[AccelOptions] = []  # in order of preference; after parse empty for machine none only
        self.cpu: str | None = None  # the text of -cpu; vmmd.kvm.cpuid understands it
        self.memory = MemoryOptions()
        self.smp = SmpOptions()
        self.numa: list[NumaNode] = []
        self.numa_distances: list[NumaDistance] = []
        self.numa_cpus: list[NumaCpu] = []
        self.rtc = RtcOptions()
        self.boot = BootOptions()
        self.bios: str | None = None
        self.data_dirs: list[str] = []  # -L
        self.kernel: str | None = None
        self.initrd: str | None = None
        self.append: str | None = None
        self.smbios: list[SmbiosOptions] = []
        self.fw_cfg: list[FwCfgOptions] = []
        self.option_roms: list[OptionRomOptions] = []
        self.globals: list[GlobalProperty] = []
        self.devices: list[DeviceOptions] = []
        self.chardevs: dict[str, ChardevOptions] = {}
        self.monitors: list[MonitorOptions] = []
        self.serials: list[SerialOptions] = []
        self.debugcon: str | None = None  # chardev id of -debugcon; the device itself stands in ``devices``
        self.drives: list[DriveOptions] = []
        self.blockdevs: list[BlockdevOptions] = []
        self.objects: list[ObjectOptions] = []
        self.netdevs: list[NetdevOptions] = []
        self.nics: list[DeviceOptions] = []  # of -nic and -net
        self.audiodevs: list[AudiodevOptions] = []
        self.vnc: VncOptions | None = None
        self.display: str | None = None  # the text of -display
        self.vga: str | None = None
        self.keyboard: str | None = None  # -k
        self.nographic = False
        self.nodefaults = False
        self.floppy_boot_check = True  # firmware looks for the signature of a floppy's boot sector
        self.add_fds: list[AddFdOptions] = []
        self.action = ActionOptions()
        self.paused = False  # -S
        self.preconfig = False
        self.qtest: str | None = None  # chardev id of -qtest
        self.qtest_log: str | None = None  # file of -qtest-log; None: stderr
        self.daemonize = False
        self.pidfile: str | None = None
        self.msg = MsgOptions()
        self.overcommit = OvercommitOptions()
        self.realtime: RealtimeOptions | None = None
        self.sandbox: SandboxOptions | None = None
        self.traces: list[TraceOptions] = []
        self.log_items: LogRequest | None = None  # -d
        self.log_file: str | None = None  # -D, -trace file=
        self.log_file_option = ""  # which of them it was
        self.later: list[LaterOption] = []
        self.notices: list[str] = []  # lines for stderr: "warning: …"

    @property
    def machine_version(self) -> tuple[int, int]:
        """Release of QEMU whose pc machine it is; for machine none the newest."""
        name = PC_DEFAULT if self.machine.type == "none" else self.machine.type
        major, minor = name.rpartition("-")[2].split(".")
        return int(major), int(minor)

    @property
    def device_defaults(self) -> list[GlobalProperty | OldDefault]:
        """What devices get before their own options: the machine version's, then ``-global``."""
        return [*old_defaults(self.machine_version), *self.globals]

    @property
    def no_shutdown(self) -> bool:
        """The guest's power-off pauses the VM."""
        return self.action.shutdown == "pause"

    @property
    def no_reboot(self) -> bool:
        """The guest's reboot ends the process."""
        return self.action.reboot == "shutdown"

    @property
    def msg_timestamp(self) -> bool:
        return self.msg.timestamp

    @property
    def mem_lock(self) -> bool:
        """Lock all memory: ``-overcommit mem-lock=on`` or ``-realtime mlock=on``."""
        return self.overcommit.mem_lock or (self.realtime is not None and self.realtime.mlock)
