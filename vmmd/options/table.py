# SPDX-License-Identifier: Apache-2.0
"""Every option of the command line, declared once: name, shape of the argument, group, help line, reader.

Parsing, ``-help``, the README's table and the hint for a misspelt option all follow from ``OPTIONS``. An option of QEMU
that this version does not have is listed with ``later`` so that it is refused by name.
"""

from __future__ import annotations

from vmmd.options import nics
from vmmd.options import read_backends as backend
from vmmd.options import read_machine as machine
from vmmd.options import read_netdevs as network
from vmmd.options.draft import OptionSpec
from vmmd.options.read_config import read_config_file

STANDARD = "Standard options"
BLOCK = "Block devices"
USB = "USB"
DISPLAY = "Display"
NETWORK = "Network"
CHARDEV = "Character devices"
BOOT = "Boot: kernel, firmware"
EXPERT = "Expert and debugging options"
OBJECTS = "Objects"

OPTIONS: tuple[OptionSpec, ...] = (
    OptionSpec("help", None, STANDARD, "show this text", machine.read_help),
    OptionSpec("h", None, STANDARD, "the same", machine.read_help),
    OptionSpec("version", None, STANDARD, "show the version", machine.read_version),
    OptionSpec("machine", "[type=]NAME[,KEY=VALUE…]", STANDARD, "the board (-machine help)", machine.read_machine),
    OptionSpec("M", "[type=]NAME[,KEY=VALUE…]", STANDARD, "same as -machine", machine.read_machine),
    OptionSpec("accel", "[accel=]kvm|qtest", STANDARD, "accelerator; several are tried in order", machine.read_accel),
    OptionSpec("enable-kvm", None, STANDARD, "same as -accel kvm", machine.read_enable_kvm),
    OptionSpec("cpu", "MODEL[,±FEATURE…]", STANDARD, "CPU model (-cpu help)", machine.read_cpu),
    OptionSpec(
        "smp", "[cpus=]N[,maxcpus=,sockets=,dies=,cores=,threads=]", STANDARD, "number and topology of CPUs",
        machine.read_smp,
    ),
    OptionSpec("m", "[size=]MIB[,slots=N,maxmem=SIZE]", STANDARD, "RAM, 128 MiB by default", machine.read_memory),
    OptionSpec(
        "numa", "node[,nodeid=,cpus=,mem=,memdev=] | dist,… | cpu,…", STANDARD, "NUMA nodes", machine.read_numa
    ),
    OptionSpec("add-fd", "fd=N,set=N[,opaque=TEXT]", STANDARD, "put an inherited fd into a set", machine.read_add_fd),
    OptionSpec("global", "DRIVER.PROPERTY=VALUE", STANDARD, "default of a device property", machine.read_global),
    OptionSpec(
        "boot", "[order=]DRIVES[,once=,menu=,strict=,reboot-timeout=]", STANDARD, "boot order", machine.read_boot
    ),
    OptionSpec("k", "LANGUAGE", STANDARD, "keyboard layout; en-us", machine.read_keyboard),
    OptionSpec("name", "[guest=]NAME[,process=,debug-threads=on]", STANDARD, "name of the guest", machine.read_name),
    OptionSpec("uuid", "UUID", STANDARD, "UUID of the guest", machine.read_uuid),
    OptionSpec("device", "DRIVER[,KEY=VALUE…] | JSON", STANDARD, "add a device (-device help)", backend.read_device),
    OptionSpec("overcommit", "mem-lock=on|off", STANDARD, "lock the memory of the process", machine.read_overcommit),
    OptionSpec("realtime", "mlock=on|off", STANDARD, "the same, older name", machine.read_realtime),
    OptionSpec("mem-path", "PATH", STANDARD, "RAM in a file; see -object", machine.read_later, True),
    OptionSpec("mem-prealloc", None, STANDARD, "touch all RAM; see -object", machine.read_later, True),
    OptionSpec("audiodev", "none,id=ID | JSON", STANDARD, "sound backend; only none", backend.read_audiodev),
    OptionSpec("audio", "DRIVER", STANDARD, "sound", machine.read_later, True),
    # ---
    OptionSpec(
        "drive",
        "if=none|virtio|ide|floppy,file=PATH,format=raw,id=ID[,cache=,aio=…]",
        BLOCK,
        "a disk",
        backend.read_drive,
    ),
    OptionSpec("blockdev", "driver=NAME,node-name=ID[,…] | JSON", BLOCK, "a block node", backend.read_blockdev),
    *(OptionSpec(name, "FILE", BLOCK, "an IDE disk", backend.read_hd) for name in ("hda", "hdb", "hdc", "hdd")),
    *(OptionSpec(name, "FILE", BLOCK, "a diskette", backend.read_fd) for name in ("fda", "fdb")),
    OptionSpec("cdrom", "FILE", BLOCK, "a CD-ROM in the drive that is there by default", backend.read_cdrom),
    *(
        OptionSpec(name, "FILE", BLOCK, "a flash medium", machine.read_later, True)
        for name in ("sd", "pflash", "mtdblock")
    ),
    OptionSpec("snapshot", None, BLOCK, "write to temporary files", machine.read_later, True),
    OptionSpec("fsdev", "…", BLOCK, "file system shared with the guest", machine.read_later, True),
    OptionSpec("virtfs", "…", BLOCK, "file system shared with the guest", machine.read_later, True),
    OptionSpec("iscsi", "…", BLOCK, "iSCSI session", machine.read_later, True),
    # ---
    OptionSpec("usb", None, USB, "USB controller", machine.read_later, True),
    OptionSpec("usbdevice", "NAME", USB, "USB device", machine.read_later, True),
    # ---
    OptionSpec("display", "none", DISPLAY, "where the screen is shown", machine.read_display),
    OptionSpec("nographic", None, DISPLAY, "no screen; COM1 on standard input and output", machine.read_nographic),
    OptionSpec("vga", "none", DISPLAY, "display adapter", machine.read_vga),
    OptionSpec("vnc", "ADDRESS:NUMBER[,…]", DISPLAY, "VNC server; only none", backend.read_vnc),
    OptionSpec("spice", "…", DISPLAY, "SPICE server", machine.read_later, True),
    OptionSpec("full-screen", None, DISPLAY, "start in full screen", machine.read_later, True),
    OptionSpec("g", "WxH[xDEPTH]", DISPLAY, "resolution", machine.read_later, True),
    OptionSpec("rotate", "DEGREES", DISPLAY, "turn the picture", machine.read_later, True),
    OptionSpec("portrait", None, DISPLAY, "turn the picture", machine.read_later, True),
    # ---
    OptionSpec("netdev", "TYPE,id=ID[,…] | JSON", NETWORK, "network backend (-netdev help)", network.read_netdev),
    OptionSpec("nic", "TYPE[,model=virtio][,mac=ADDR][,…]", NETWORK, "network card with backend", nics.read_nic),
    OptionSpec("net", "nic[,…]|TYPE[,…]", NETWORK, "network card, or backend, on hub 0", nics.read_net),
    # ---
    OptionSpec("chardev", "BACKEND,id=ID[,…]", CHARDEV, "character device (-chardev help)", backend.read_chardev),
    OptionSpec(
        "serial", "stdio|null|none|pty|file:F|unix:P|tcp:H:P|chardev:ID", CHARDEV, "the next COM port",
        backend.read_serial,
    ),
    OptionSpec("parallel", "none", CHARDEV, "parallel port; only none", backend.read_parallel),
    OptionSpec("debugcon", "DEV", CHARDEV, "debug port 0xe9, DEV as for -serial", backend.read_debugcon),
    OptionSpec(
        "mon", "[chardev=]ID[,mode=readline|control][,id=,pretty=]", CHARDEV, "monitor for people; mode=control: QMP",
        backend.read_mon,
    ),
    OptionSpec("qmp", "DEV", CHARDEV, "QMP monitor, DEV as for -serial", backend.read_qmp),
    OptionSpec("qmp-pretty", "DEV", CHARDEV, "the same with line breaks", backend.read_qmp),
    OptionSpec("monitor", "DEV", CHARDEV, "monitor for people, DEV as for -serial", backend.read_monitor),
    OptionSpec("echr", "CODE", CHARDEV, "escape character", machine.read_later, True),
    OptionSpec("tpmdev", "…", CHARDEV, "TPM backend", machine.read_later, True),
    # ---
    OptionSpec("bios", "FILE", BOOT, "firmware image", machine.read_bios),
    OptionSpec("L", "DIRECTORY", BOOT, "where firmware images are looked for", machine.read_data_dir),
    OptionSpec("kernel", "FILE", BOOT, "start this kernel: PVH or multiboot ELF, bzImage", machine.read_kernel),
    OptionSpec("initrd", "FILE", BOOT, "its initial RAM disk (multiboot: modules)", machine.read_initrd),
    OptionSpec("append", "TEXT", BOOT, "its command line", machine.read_append),
    OptionSpec("smbios", "type=N[,…] | file=F", BOOT, "SMBIOS fields, N 0-4, 11, 17", machine.read_smbios),
    OptionSpec("fw_cfg", "[name=]NAME,string=TEXT | file=F", BOOT, "file for the firmware", machine.read_fw_cfg),
    OptionSpec("no-acpi", None, BOOT, "no ACPI tables", machine.read_no_acpi),
    OptionSpec("no-hpet", None, BOOT, "no HPET", machine.read_no_hpet),
    OptionSpec("acpitable", "…", BOOT, "additional ACPI table", machine.read_later, True),
    OptionSpec("option-rom", "[romfile=]FILE[,bootindex=N]", BOOT, "additional option ROM", machine.read_option_rom),
    OptionSpec("dtb", "FILE", BOOT, "device tree", machine.read_later, True),
    OptionSpec("no-fd-bootchk", None, BOOT, "no check of floppy boot sectors", machine.read_no_fd_bootchk),
    OptionSpec("win2k-hack", None, BOOT, "workaround for old guests", machine.read_later, True),
    # ---
    OptionSpec("S", None, EXPERT, "start paused; the monitor's cont releases the guest", machine.read_paused),
    OptionSpec("no-reboot", None, EXPERT, "exit instead of rebooting", machine.read_no_reboot),
    OptionSpec("no-shutdown", None, EXPERT, "pause instead of exiting", machine.read_no_shutdown),
    OptionSpec(
        "action", "reboot=,shutdown=,panic=,watchdog=", EXPERT, "what follows such an event", machine.read_action
    ),
    OptionSpec("watchdog-action", "ACTION", EXPERT, "when a watchdog fires", machine.read_watchdog_action),
    OptionSpec("rtc", "base=utc|localtime|DATE[,clock=,driftfix=]", EXPERT, "real-time clock", machine.read_rtc),
    OptionSpec("nodefaults", None, EXPERT, "no default devices", machine.read_nodefaults),
    OptionSpec("readconfig", "FILE", EXPERT, "options from a file, one a section", read_config_file),
    OptionSpec("no-user-config", None, EXPERT, "read no configuration of the user", machine.read_no_user_config),
    OptionSpec(
        "preconfig", None, EXPERT, "build the machine when the monitor says x-exit-preconfig", machine.read_preconfig
    ),
    OptionSpec("daemonize", None, EXPERT, "into the background when the monitor listens", machine.read_daemonize),
    OptionSpec("pidfile", "FILE", EXPERT, "write the process id there", machine.read_pidfile),
    OptionSpec("d", "ITEM[,…]", EXPERT, "what to log (-d help)", machine.read_log_items),
    OptionSpec("D", "FILE", EXPERT, "write the log there instead of to stderr", machine.read_log_file),
    OptionSpec(
        "trace", "[enable=]PATTERN[,events=FILE][,file=FILE]", EXPERT, "trace events (-trace help)", machine.read_trace
    ),
    OptionSpec("qtest", "DEV", EXPERT, "a test program drives ports, memory and time; DEV as for -serial",
               backend.read_qtest),
    OptionSpec("qtest-log", "FILE", EXPERT, "write what is said there; without it to stderr, or none",
               machine.read_qtest_log),
    OptionSpec("msg", "timestamp=on|off", EXPERT, "form of messages", machine.read_msg),
    OptionSpec("sandbox", "off", EXPERT, "filter system calls; only off", machine.read_sandbox),
    *(
        OptionSpec(name, metavar, EXPERT, text, machine.read_later, True)
        for name, metavar, text in (
            ("dfilter", "RANGE", "addresses to log"),
            ("seed", "NUMBER", "random seed"),
            ("plugin", "…", "TCG plugin"),
            ("s", None, "same as -gdb tcp::1234"),
            ("gdb", "DEV", "wait for gdb"),
            ("incoming", "URI", "wait for migration"),
            ("only-migratable", None, "refuse what cannot migrate"),
            ("loadvm", "NAME", "start from a snapshot"),
            ("runas", "USER", "change the user"),
            ("chroot", "DIRECTORY", "change the root directory"),
            ("writeconfig", "FILE", "options to a file"),
            ("set", "GROUP.ID.ARG=VALUE", "change an option"),
            ("icount", "…", "count instructions"),
            ("singlestep", None, "single step"),
            ("compat", "…", "policy for deprecated interfaces"),
            ("dump-vmstate", "FILE", "describe the migration stream"),
            ("enable-sync-profile", None, "profile of locks"),
            ("async-teardown", None, "release memory in the background"),
            ("xen-domid", "ID", "Xen"),
            ("xen-attach", None, "Xen"),
            ("xen-domid-restrict", None, "Xen"),
        )
    ),
    # ---
    OptionSpec("object", "TYPE,id=ID[,…] | JSON", OBJECTS, "memory, secrets (-object help)", backend.read_object),
)  # fmt: skip

BY_NAME: dict[str, OptionSpec] = {spec.name: spec for spec in OPTIONS}
