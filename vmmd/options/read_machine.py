# SPDX-License-Identifier: Apache-2.0
"""Readers of the options that describe machine, CPU, memory, boot and process. Each is called once per occurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.props import parse_int
from vmmd.errors import UsageError
from vmmd.options import keyval, lexer
from vmmd.options.draft import HelpRequested
from vmmd.options.fields import UUID, UUID_ACCEPTS, shown, unknown_name
from vmmd.options.models import (
    SMBIOS_TYPES,
    AccelOptions,
    ActionOptions,
    AddFdOptions,
    FwCfgOptions,
    GlobalProperty,
    NumaCpu,
    NumaDistance,
    NumaNode,
    OptionRomOptions,
    RealtimeOptions,
    SandboxOptions,
    SmbiosFile,
    SmbiosOptions,
    TraceOptions,
    machine_types,
)

if TYPE_CHECKING:
    from vmmd.options.draft import Draft
    from vmmd.options.fields import Items, OptionSet

ACCELS = ("kvm", "qtest")
ACCELS_LATER = ("tcg", "xen", "hax", "hvf", "nvmm", "whpx")
FW_CFG_NAME_MAX = 55
STANDARD_FDS = 3


# --- options whose occurrences are merged, a later key wins ----------------------------------------------------------


def _merge(option: str, text: str, implied: str | None, target: OptionSet, *, strict: bool = False) -> None:
    target.take(keyval.parse(option, text, implied, strict=strict).items, option)


def read_name(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, "guest", draft.config.name)


def read_memory(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, "size", draft.config.memory)


def read_smp(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, "cpus", draft.config.smp, strict=True)


def read_boot(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, "order", draft.config.boot, strict=True)


def read_rtc(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, None, draft.config.rtc)


def read_msg(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, None, draft.config.msg)


def read_overcommit(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, None, draft.config.overcommit)


def read_realtime(draft: Draft, option: str, text: str) -> None:
    draft.config.realtime = draft.config.realtime or RealtimeOptions()
    _merge(option, text, None, draft.config.realtime)


def read_log_items(draft: Draft, option: str, text: str) -> None:
    """``-d ITEM,…``; the last one counts."""
    from vmmd.core.trace import LogRequest

    if text in ("help", "?"):
        raise HelpRequested("d")
    if text == "trace:help":
        raise HelpRequested("trace")
    try:
        draft.config.log_items = LogRequest(text)
    except UsageError as error:
        raise error.named(f"{option} {shown(text)}") from None


def read_qtest_log(draft: Draft, _option: str, text: str) -> None:
    draft.config.qtest_log = text


def read_log_file(draft: Draft, option: str, text: str) -> None:
    draft.config.log_file, draft.config.log_file_option = text, option


def read_trace(draft: Draft, option: str, text: str) -> None:
    """``-trace PATTERN,…``, as often as wanted."""
    if lexer.wants_help(text):
        raise HelpRequested("trace")
    made: TraceOptions = TraceOptions.from_items(keyval.parse(option, text, "enable").items, option)
    draft.config.traces.append(made)
    if made.file is not None:
        draft.config.log_file, draft.config.log_file_option = made.file, f"{option} file={shown(made.file)}"


def read_sandbox(draft: Draft, option: str, text: str) -> None:
    draft.config.sandbox = draft.config.sandbox or SandboxOptions()
    _merge(option, text, "enable", draft.config.sandbox)


def read_action(draft: Draft, option: str, text: str) -> None:
    _merge(option, text, None, draft.config.action)


def read_watchdog_action(draft: Draft, option: str, text: str) -> None:
    try:
        draft.config.action.take([("watchdog", text)], option)
    except UsageError:
        accepts = ActionOptions.watchdog.kind.accepts
        raise UsageError(
            f"{option} {shown(text)}: Parameter 'watchdog' does not accept value '{shown(text)}'", accepts
        ) from None


def read_no_reboot(draft: Draft, option: str, _text: str) -> None:
    draft.config.action.take([("reboot", "shutdown")], option)


def read_no_shutdown(draft: Draft, option: str, _text: str) -> None:
    draft.config.action.take([("shutdown", "pause")], option)


# --- machine and accelerator ------------------------------------------------------------------------------------------


def read_machine(draft: Draft, option: str, text: str) -> None:
    """``-machine TYPE,…``; keys may be written with underscores, as older callers do."""
    if lexer.wants_help(text):
        raise HelpRequested("machine")
    head, _, last = text.rpartition(",")
    if lexer.wants_help(last):
        raise HelpRequested("machine", _machine_type(option, head.partition(",")[0].removeprefix("type=")))
    items = keyval.parse(option, text, "type", strict=True).items
    topology = [(key.removeprefix("smp."), value) for key, value in items if key.startswith("smp.")]
    if topology:  # the keys of -smp
        draft.config.smp.take(topology, option)
        items = [(key, value) for key, value in items if not key.startswith("smp.")]
    draft.config.machine.take([(key.replace("_", "-"), value) for key, value in items], option)
    name = next((value for key, value in items if key == "type"), None)
    if name is not None:
        draft.config.machine.type = _machine_type(option, name)


def _machine_type(option: str, name: str) -> str:
    types = machine_types()
    for known in types.values():
        if name in (known.name, known.alias):
            return known.name
    # QEMU-COMPAT: the phrase
    raise unknown_name(f"{option} {shown(name)}", name, [*types, "pc"], "unsupported machine type")


def read_enable_kvm(draft: Draft, option: str, _text: str) -> None:
    _add_accel(draft, option, [("accel", "kvm")])


def read_accel(draft: Draft, option: str, text: str) -> None:
    """``-accel NAME,…``; several are tried in order."""
    if lexer.wants_help(text):
        raise HelpRequested("accel")
    _add_accel(draft, option, keyval.parse(option, text, "accel").items)


def _add_accel(draft: Draft, option: str, items: Items) -> None:
    made: AccelOptions = AccelOptions.from_items([(key.replace("_", "-"), value) for key, value in items], option)
    check_accel(option, made)
    draft.config.accels.append(made)


def check_accel(option: str, made: AccelOptions) -> None:
    """Refuse what no accelerator is, and keys that this one has not. A single unknown word is no error here: others may
    be given, which are used in its place. Raises UsageError."""
    name = made.accel
    if ":" in name:
        raise UsageError(f"{option} {shown(name)}: invalid accelerator {shown(name)}", "give -accel once for each")
    if name == "qtest":
        for key in made.given - {"accel"}:
            raise UsageError(f"{option} qtest: Property 'qtest-accel.{key}' not found", "it has none")


def read_cpu(draft: Draft, option: str, text: str) -> None:
    if lexer.wants_help(text):
        raise HelpRequested("cpu")
    if not text:
        raise UsageError(f"{option}: a CPU model is missing", "-cpu help lists them")
    draft.config.cpu = text


def read_global(draft: Draft, option: str, text: str) -> None:
    """``-global DRIVER.PROPERTY=VALUE`` or the long form ``driver=,property=,value=``."""
    name, equals, value = text.partition("=")
    driver, dot, prop_name = name.rpartition(".")
    if equals and dot and driver and prop_name and "," not in name:
        draft.config.globals.append(GlobalProperty(driver, prop_name, value))
        return
    argument = keyval.parse(option, text)
    parts = [argument.take(key) for key in ("driver", "property", "value")]
    if argument.items:
        key, odd = argument.items[0]
        raise UsageError(f"{option} {shown(key)}={shown(odd)}: Invalid parameter '{shown(key)}'", _GLOBAL_FORM)
    for key, part in zip(("driver", "property", "value"), parts, strict=True):
        if not part:
            raise UsageError(f"{option} {shown(text)}: Parameter '{key}' is missing", _GLOBAL_FORM)
    draft.config.globals.append(GlobalProperty(*parts))


_GLOBAL_FORM = "the form is -global DRIVER.PROPERTY=VALUE"


def read_numa(draft: Draft, option: str, text: str) -> None:
    """``-numa node|dist|cpu,…``."""
    argument = keyval.parse(option, text, "type")
    kind = argument.take("type")
    if kind == "node":
        draft.config.numa.append(NumaNode.from_items(argument.items, f"{option} node"))
    elif kind == "dist":
        draft.config.numa_distances.append(NumaDistance.from_items(argument.items, f"{option} dist"))
    elif kind == "cpu":
        draft.config.numa_cpus.append(NumaCpu.from_items(argument.items, f"{option} cpu"))
    elif kind in ("hmat-lb", "hmat-cache"):
        draft.later(option, kind)
    else:
        what = f"Parameter 'type' does not accept value '{shown(kind)}'"
        raise unknown_name(f"{option} {shown(text)}", str(kind), ["node", "dist", "cpu"], what)


# --- identity ---------------------------------------------------------------------------------------------------------


def read_uuid(draft: Draft, option: str, text: str) -> None:
    try:
        draft.config.uuid = UUID.parse(text)
    except ValueError:
        # QEMU-COMPAT: the phrase
        raise UsageError(
            f"{option} {shown(text)}: failed to parse UUID string: wrong format", f"it takes {UUID_ACCEPTS}"
        ) from None


def read_smbios(draft: Draft, option: str, text: str) -> None:
    """``-smbios type=N,…`` (several of one type are merged) or ``-smbios file=…``."""
    argument = keyval.parse(option, text)
    if argument.peek("file") is not None:
        if argument.peek("type") is not None:
            raise UsageError(f"{option} {shown(text)}: 'file' and 'type' exclude each other")
        draft.config.smbios.append(SmbiosFile.from_items(argument.items, option))
        return
    number = argument.take("type")
    if number is None:
        raise UsageError(f"{option} {shown(text)}: Must specify type= or file=", _smbios_form())
    cls = _smbios_class(option, number)
    if cls is None:
        draft.later(option, f"type={number}")
        return
    where = f"{option} type={number}"
    for entry in draft.config.smbios:
        if type(entry) is cls:
            entry.take(argument.items, where)
            return
    draft.config.smbios.append(cls.from_items(argument.items, where))


_SMBIOS_LATER = (8, 9, 41)


def _smbios_class(option: str, number: str) -> type[SmbiosOptions] | None:
    try:
        value = parse_int(number)
    except ValueError:
        value = -1
    if value in _SMBIOS_LATER:
        return None
    if value not in SMBIOS_TYPES:
        # QEMU-COMPAT: the phrase
        sentence = f"{option} type={shown(number)}: Don't know how to build fields for SMBIOS type {shown(number)}"
        raise UsageError(sentence, _smbios_form())
    return SMBIOS_TYPES[value]


def _smbios_form() -> str:
    return "type takes one of " + ", ".join(str(number) for number in SMBIOS_TYPES)


def read_fw_cfg(draft: Draft, option: str, text: str) -> None:
    """``-fw_cfg name=opt/…,string=…|file=…``."""
    argument = keyval.parse(option, text, "name")
    made: FwCfgOptions = FwCfgOptions.from_items(argument.items, option)
    where = f"{option} name={shown(made.name)}"
    if not made.name or len(made.name) > FW_CFG_NAME_MAX:
        raise UsageError(f"{where}: 'name' takes 1 to {FW_CFG_NAME_MAX} characters")
    if not (made.name.isascii() and made.name.isprintable()):
        raise UsageError(f"{where}: 'name' takes printable ASCII characters")
    sources = [value for value in (made.file, made.string, made.gen_id) if value is not None]
    if len(sources) != 1:
        raise UsageError(f"{where}: exactly one of 'file' and 'string' is needed")
    if any(other.name == made.name for other in draft.config.fw_cfg):
        raise UsageError(f"{where}: duplicate fw_cfg file name '{shown(made.name)}'")
    draft.config.fw_cfg.append(made)


def read_option_rom(draft: Draft, option: str, text: str) -> None:
    """``-option-rom [romfile=]FILE[,bootindex=N]``."""
    made: OptionRomOptions = OptionRomOptions.from_items(keyval.parse(option, text, "romfile").items, option)
    if not made.romfile:
        # QEMU-COMPAT: the sentence
        raise UsageError(f"{option} {shown(text)}: Option ROM file is not specified")
    draft.config.option_roms.append(made)


def read_add_fd(draft: Draft, option: str, text: str) -> None:
    """``-add-fd fd=N,set=N,opaque=TEXT``."""
    made: AddFdOptions = AddFdOptions.from_items(keyval.parse(option, text).items, option)
    if made.fd < STANDARD_FDS:
        raise UsageError(f"{option} fd={made.fd}: fd cannot be a standard I/O stream", "it takes a number from 3")
    if any(other.fd == made.fd for other in draft.config.add_fds):
        raise UsageError(f"{option} fd={made.fd}: fd is not valid or already in use", "each is given once")
    draft.config.add_fds.append(made)


# --- plain texts and switches -----------------------------------------------------------------------------------------


def read_bios(draft: Draft, _option: str, text: str) -> None:
    draft.config.bios = text


def read_data_dir(draft: Draft, option: str, text: str) -> None:
    if lexer.wants_help(text):
        raise UsageError(f"{option} {text}: there is no list of directories", "it takes a directory")
    draft.config.data_dirs.append(text)


def read_kernel(draft: Draft, _option: str, text: str) -> None:
    draft.config.kernel = text


def read_initrd(draft: Draft, _option: str, text: str) -> None:
    draft.config.initrd = text


def read_append(draft: Draft, _option: str, text: str) -> None:
    draft.config.append = text


def read_pidfile(draft: Draft, _option: str, text: str) -> None:
    draft.config.pidfile = text


def read_paused(draft: Draft, _option: str, _text: str) -> None:
    draft.config.paused = True


def read_preconfig(draft: Draft, _option: str, _text: str) -> None:
    draft.config.preconfig = True


def read_daemonize(draft: Draft, _option: str, _text: str) -> None:
    draft.config.daemonize = True


def read_nodefaults(draft: Draft, _option: str, _text: str) -> None:
    draft.config.nodefaults = True


def read_no_user_config(_draft: Draft, _option: str, _text: str) -> None:
    """vmmd reads no configuration files, so there is nothing to leave out."""


def read_nographic(draft: Draft, _option: str, _text: str) -> None:
    draft.config.nographic = True
    draft.config.display = "none"


def read_no_fd_bootchk(draft: Draft, _option: str, _text: str) -> None:
    draft.config.floppy_boot_check = False


def read_no_hpet(draft: Draft, option: str, _text: str) -> None:
    draft.config.machine.take([("hpet", "off")], option)


def read_no_acpi(draft: Draft, option: str, _text: str) -> None:
    draft.config.machine.take([("acpi", "off")], option)


VGA_TYPES = ("none", "std", "cirrus", "vmware", "qxl", "virtio", "xenfb", "tcx", "cg3")
DISPLAYS = ("none", "gtk", "sdl", "curses", "vnc", "egl-headless", "spice-app", "dbus", "cocoa", "default")
KEYBOARDS = (
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr", "fr-be", "fr-ca", "fr-ch",
    "hr", "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "no", "pl", "pt", "pt-br", "ru", "sl", "sv", "th", "tr",
)  # fmt: skip


def read_vga(draft: Draft, option: str, text: str) -> None:
    if lexer.wants_help(text):
        raise HelpRequested(option[1:])
    if text not in VGA_TYPES:
        raise unknown_name(f"{option} {shown(text)}", text, VGA_TYPES, f"unknown vga type: {shown(text)}")
    draft.config.vga = text


def read_display(draft: Draft, option: str, text: str) -> None:
    if lexer.wants_help(text):
        raise HelpRequested(option[1:])
    argument = keyval.parse(option, text, "type", strict="=" not in text)
    kind = "vnc" if argument.peek("vnc") is not None else str(argument.take("type"))
    if kind not in DISPLAYS:
        what = f"Parameter 'type' does not accept value '{shown(kind)}'"
        raise unknown_name(f"{option} {shown(text)}", kind, DISPLAYS, what)
    if kind == "none" and argument.items:
        key, value = argument.items[0]
        raise UsageError(f"{option} none,{shown(key)}={shown(value)}: Invalid parameter '{shown(key)}'")
    draft.config.display = kind


def read_keyboard(draft: Draft, option: str, text: str) -> None:
    if lexer.wants_help(text):
        raise HelpRequested(option[1:])
    if text not in KEYBOARDS:
        raise unknown_name(f"{option} {shown(text)}", text, KEYBOARDS, "no such keyboard layout")
    draft.config.keyboard = text


def read_later(draft: Draft, option: str, text: str) -> None:
    """An option of QEMU that this version does not have: ``availability`` refuses it by name."""
    draft.later(option, text or None)


def read_help(_draft: Draft, _option: str, _text: str) -> None:
    raise HelpRequested("help")


def read_version(_draft: Draft, _option: str, _text: str) -> None:
    raise HelpRequested("version")
