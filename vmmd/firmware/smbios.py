# SPDX-License-Identifier: Apache-2.0
"""SMBIOS tables (DMTF DSP0134 2.8, 32-bit entry point) from the machine and ``-smbios``.

The structures, handles and default values are those that QEMU's pc machines show to guests (measured on 7.2), because
inventories and licences in guests depend on them: types 1, 3, 4 (one per socket), 16, 17 (one per 16 GiB), 19 (one per
RAM range), 32 and 127; types 0, 2, 8 and 11 appear when ``-smbios type=N`` asks for them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError
from vmmd.firmware import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

GIB = 1 << 30
DIMM_BYTES = 16 * GIB
UUID_NIL = bytes(16)

#: keys of ``-smbios type=N`` by type: the only declaration; ``parse_fields`` and the command line's help use it
FIELDS: dict[int, tuple[str, ...]] = {
    0: ("vendor", "version", "date", "release", "uefi"),
    1: ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
    2: ("manufacturer", "product", "version", "serial", "asset", "location"),
    3: ("manufacturer", "version", "serial", "asset", "sku"),
    4: ("sock_pfx", "manufacturer", "version", "serial", "asset", "part", "max-speed", "current-speed", "processor-id"),
    8: ("internal_reference", "external_reference", "connector_type", "port_type"),
    11: ("value", "path"),
    17: ("loc_pfx", "bank", "manufacturer", "serial", "asset", "part", "speed"),
}
_NUMBERS = {"max-speed": 0xFFFF, "current-speed": 0xFFFF, "processor-id": (1 << 64) - 1, "speed": 0xFFFF}
_NUMBERS |= {"connector_type": 0xFF, "port_type": 0xFF}
_REPEATED = {"value", "path"}  # of type 11
STRING_MAX = 1024  # LIMIT of one text: the tables have 64 KiB for everything
OEM_FILE_MAX = 32768

Fields = dict[str, object]


class SmbiosConfig(NamedTuple):
    """What the tables are made of. Sizes in bytes; ``fields`` by type as ``parse_fields`` returns them."""

    machine: str  # "pc-i440fx-7.2"
    ram_ranges: Sequence[tuple[int, int]]  # (base, size)
    uuid: bytes = UUID_NIL  # 16 bytes in the order of the text
    sockets: int = 1
    cores: int = 1  # per socket
    threads: int = 1  # per core
    cpu_signature: int = 0  # CPUID leaf 1 EAX
    cpu_features: int = 0  # CPUID leaf 1 EDX
    fields: Mapping[int, Fields] = {}
    ports: Sequence[Fields] = ()  # type 8, one structure each
    product: str = "Standard PC (i440FX + PIIX, 1996)"
    blobs: Sequence[bytes] = ()  # -smbios file=: whole structures with their strings


def parse_uuid(text: str) -> bytes | None:
    """16 bytes in the order of the text, or None: ``6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11``."""
    parts = text.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or not all(c in "0123456789abcdefABCDEF-" for c in text):
        return None
    return bytes.fromhex(text.replace("-", ""))


def parse_fields(type_number: int, items: Sequence[tuple[str, str]], where: str) -> Fields:
    """The checked keys of one ``-smbios type=N,…`` (without ``type`` itself). ``where`` starts error sentences.

    Texts stay texts, numbers become int, ``uefi`` bool, ``release`` a pair, ``uuid`` 16 bytes; ``value`` and ``path``
    of type 11 become the list ``value``. Raises UsageError, BackendError (type 11 ``path``).
    """
    known = FIELDS.get(type_number)
    if known is None:
        raise UsageError(
            f"{where}: Don't know how to build fields for SMBIOS type {type_number}",
            "known are: " + ", ".join(map(str, FIELDS)),
        )
    fields: Fields = {}
    for key, text in items:
        if key not in known:
            raise UsageError(f"{where}: Invalid parameter '{key}'", f"type {type_number} has: " + ", ".join(known))
        if "\0" in text or len(text) > STRING_MAX:
            raise UsageError(f"{where}: '{key}' takes a text of up to {STRING_MAX} characters")
        if key in _REPEATED:
            values = fields.setdefault("value", [])
            assert isinstance(values, list)  # for the type checker: only this line makes it
            values.append(_oem_file(text, where) if key == "path" else text)
        elif text or key in _NUMBERS:
            fields[key] = _convert(key, text, where)
    return fields


def collect(options: Iterable[tuple[int, Fields]]) -> tuple[dict[int, Fields], list[Fields]]:
    """(fields by type, type 8 ports) of all ``-smbios type=`` options in order.

    A later option of a type replaces what it names again; OEM strings add up; each type 8 is a port of its own.
    """
    fields: dict[int, Fields] = {}
    ports: list[Fields] = []
    for type_number, given in options:
        if type_number == 8:
            ports.append(given)
            continue
        known = fields.setdefault(type_number, {})
        values = [each for part in (known, given) for each in _oem_values(part)]
        known.update(given)
        if values:
            known["value"] = values
    return fields, ports


def _oem_values(fields: Mapping[str, object]) -> list[str]:
    values = fields.get("value")
    return values if isinstance(values, list) else []


def _oem_file(path: str, where: str) -> str:
    data = files.read_whole(path, OEM_FILE_MAX, where)
    if b"\0" in data:
        raise UsageError(f"{where}: NUL in OEM strings value")
    return data.decode("utf-8", "surrogateescape")


def _convert(key: str, text: str, where: str) -> object:
    if key == "uuid":
        uuid = parse_uuid(text)
        if uuid is None:
            raise UsageError(f"{where}: Invalid UUID", "it looks like 6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11")
        return uuid
    if key == "uefi":
        if text not in ("on", "off"):
            raise UsageError(f"{where}: Parameter 'uefi' expects 'on' or 'off'")
        return text == "on"
    if key == "release":
        parts = text.split(".")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
            raise UsageError(f"{where}: Invalid release", "it is two numbers up to 255 like 1.2")
        return int(parts[0]), int(parts[1])
    if key in _NUMBERS:
        return _number(key, text, where)
    return text


def _number(key: str, text: str, where: str) -> int:
    from vmmd.core.props import parse_int

    try:
        value = parse_int(text)
    except ValueError:
        raise UsageError(f"{where}: Parameter '{key}' expects a number") from None
    if not 0 <= value <= _NUMBERS[key]:
        raise UsageError(f"{where}: '{key}' is out of range (0 to {_NUMBERS[key]})")
    return value


class _Structure:
    """One structure: header, fixed part, and the strings it numbers from 1."""

    def __init__(self, type_number: int, handle: int, fields: Mapping[str, object]) -> None:
        self.type_number = type_number
        self.handle = handle
        self._fields = fields
        self._strings: list[bytes] = []

    def text(self, value: object) -> int:
        """The number of a string; 0 for none."""
        if not value:
            return 0
        self._strings.append(str(value).encode("utf-8", "surrogateescape"))
        return len(self._strings)

    def field(self, key: str, default: object = None) -> int:
        """The number of the string that the user gave for ``key``, or of the default."""
        return self.text(self._fields.get(key, default))

    def encode(self, body: bytes) -> bytes:
        """The whole structure around its fixed part."""
        strings = b"".join(text + b"\0" for text in self._strings) or b"\0"
        return struct.pack("<BBH", self.type_number, len(body) + 4, self.handle) + body + strings + b"\0"


def _bios(fields: Mapping[str, object]) -> bytes:
    made = _Structure(0, 0x0000, fields)
    vendor, version, date = made.field("vendor"), made.field("version"), made.field("date")
    release = fields.get("release")
    major, minor = release if isinstance(release, tuple) else (0, 0)
    # extension byte 2: bit 4 virtual machine, bit 3 UEFI, bit 2 targeted content distribution (§7.1.2.2)
    extension = 0x1C if fields.get("uefi") else 0x14
    return made.encode(
        struct.pack("<BBHBBQBBBBBB", vendor, version, 0xE800, date, 0, 8, 0, extension, major, minor, 0xFF, 0xFF)
    )


def _system(config: SmbiosConfig, fields: Mapping[str, object]) -> bytes:
    made = _Structure(1, 0x0100, fields)
    head = bytes(
        (
            made.field("manufacturer", "QEMU"),
            made.field("product", config.product),
            made.field("version", config.machine),
            made.field("serial"),
        )
    )
    uuid = fields.get("uuid", config.uuid)
    assert isinstance(uuid, bytes)  # _convert made it
    # the first three fields are little-endian since SMBIOS 2.6 (§7.2.1)
    wire = uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]
    wake_up_power_switch = 6
    return made.encode(head + wire + bytes((wake_up_power_switch, made.field("sku"), made.field("family"))))


def _baseboard(config: SmbiosConfig, fields: Mapping[str, object]) -> bytes:
    made = _Structure(2, 0x0200, fields)
    head = bytes(
        (
            made.field("manufacturer", "QEMU"),
            made.field("product", config.product),
            made.field("version", config.machine),
            made.field("serial"),
            made.field("asset"),
        )
    )
    hosting, motherboard = 1, 0x0A
    return made.encode(head + struct.pack("<BBHBB", hosting, made.field("location"), 0x0300, motherboard, 0))


def _chassis(config: SmbiosConfig, fields: Mapping[str, object]) -> bytes:
    made = _Structure(3, 0x0300, fields)
    maker, version = made.field("manufacturer", "QEMU"), made.field("version", config.machine)
    serial, asset, sku = made.field("serial"), made.field("asset"), made.field("sku")
    type_other, safe, security_unknown = 1, 3, 2
    head = bytes((maker, type_other, version, serial, asset, safe, safe, safe, security_unknown))
    return made.encode(head + bytes(8) + bytes((sku,)))


def _processor(config: SmbiosConfig, index: int, fields: Mapping[str, object]) -> bytes:
    made = _Structure(4, 0x0400 + index, fields)
    socket = made.text(f"{fields.get('sock_pfx', 'CPU')} {index}")
    maker, version = made.field("manufacturer", "QEMU"), made.field("version", config.machine)
    serial, asset, part = made.field("serial"), made.field("asset"), made.field("part")
    identifier = fields.get("processor-id", config.cpu_features << 32 | config.cpu_signature)
    speeds = (fields.get("max-speed", 2000), fields.get("current-speed", 2000))
    cores, threads = min(config.cores, 255), min(config.cores * config.threads, 255)
    populated_enabled, upgrade_other, no_cache = 0x41, 1, 0xFFFF
    body = struct.pack("<BBBBQBBHHH", socket, 3, 1, maker, identifier, version, 0, 0, *speeds)
    body += struct.pack("<BBHHH", populated_enabled, upgrade_other, no_cache, no_cache, no_cache)
    characteristics_unknown, family2_other = 2, 1
    body += bytes((serial, asset, part, cores, cores, threads))
    return made.encode(body + struct.pack("<HH", characteristics_unknown, family2_other))


def _port(fields: Mapping[str, object]) -> bytes:
    made = _Structure(8, 0x0000, fields)
    internal, external = made.field("internal_reference"), made.field("external_reference")
    connector, kind = fields.get("connector_type", 0), fields.get("port_type", 0)
    return made.encode(struct.pack("<BBBBB", internal, 0, external, connector, kind))


def _oem_strings(fields: Mapping[str, object]) -> bytes:
    made = _Structure(11, 0x0E00, fields)
    count = 0
    for value in _oem_values(fields):
        count = made.text(value) or count  # an empty string has no number
    if count > 255:
        raise UsageError("-smbios type=11: at most 255 strings fit in the structure")
    return made.encode(bytes((count,)))


def _memory_array(total_bytes: int, dimms: int) -> bytes:
    kilobytes = total_bytes >> 10
    extended = 0
    if kilobytes >= 0x8000_0000:
        kilobytes, extended = 0x8000_0000, total_bytes
    system_board_other, system_memory, multi_bit_ecc, no_errors = 1, 3, 6, 0xFFFE
    made = _Structure(16, 0x1000, {})
    return made.encode(
        struct.pack("<BBBIHHQ", system_board_other, system_memory, multi_bit_ecc, kilobytes, no_errors, dimms, extended)
    )


def _dimm(index: int, size_bytes: int, fields: Mapping[str, object]) -> bytes:
    made = _Structure(17, 0x1100 + index, fields)
    locator, bank = made.text(f"{fields.get('loc_pfx', 'DIMM')} {index}"), made.field("bank")
    maker, serial = made.field("manufacturer", "QEMU"), made.field("serial")
    asset, part = made.field("asset"), made.field("part")
    speed = fields.get("speed", 0)
    mebibytes, extended = size_bytes >> 20, 0
    if mebibytes >= 0x7FFF:
        mebibytes, extended = 0x7FFF, mebibytes
    form_dimm, type_ram, detail_other, no_errors, width_unknown = 9, 7, 2, 0xFFFE, 0xFFFF
    body = struct.pack("<HHHHHBB", 0x1000, no_errors, width_unknown, width_unknown, mebibytes, form_dimm, 0)
    body += struct.pack("<BBBHH", locator, bank, type_ram, detail_other, speed)
    body += struct.pack("<BBBBBIHHHH", maker, serial, asset, part, 0, extended, speed, 0, 0, 0)
    return made.encode(body)


def _mapped_range(index: int, base: int, size_bytes: int) -> bytes:
    start, end = base >> 10, (base + size_bytes - 1) >> 10
    extended = (0, 0)
    if end >= 0xFFFF_FFFF:
        start, end, extended = 0xFFFF_FFFF, 0xFFFF_FFFF, (base, base + size_bytes - 1)
    return _Structure(19, 0x1300 + index, {}).encode(struct.pack("<IIHBQQ", start, end, 0x1000, 1, *extended))


def _structures(config: SmbiosConfig) -> Iterator[bytes]:
    """Every structure in the order of its type."""
    given = {blob[0] for blob in config.blobs}
    fields = config.fields

    def of(type_number: int) -> Mapping[str, object]:
        return fields.get(type_number, {})

    yield from config.blobs
    if 0 in fields and 0 not in given:
        yield _bios(of(0))
    if 1 not in given:
        yield _system(config, of(1))
    if 2 in fields and 2 not in given:
        yield _baseboard(config, of(2))
    if 3 not in given:
        yield _chassis(config, of(3))
    if 4 not in given:
        yield from (_processor(config, index, of(4)) for index in range(config.sockets))
    yield from (_port(each) for each in config.ports)
    if 11 in fields and fields[11].get("value") and 11 not in given:
        yield _oem_strings(of(11))
    total = sum(size for _, size in config.ram_ranges)
    dimms = max(1, -(-total // DIMM_BYTES))
    yield _memory_array(total, dimms)
    for index in range(dimms):
        yield _dimm(index, min(DIMM_BYTES, total - index * DIMM_BYTES), of(17))
    for index, (base, size_bytes) in enumerate(config.ram_ranges):
        yield _mapped_range(index, base, size_bytes)
    yield _Structure(32, 0x2000, {}).encode(bytes(7))  # system boot: no errors
    yield _Structure(127, 0x7F00, {}).encode(b"")


def check_blob(data: bytes, where: str) -> bytes:
    """One structure read from ``-smbios file=``: header within the data, strings ended by two NULs."""
    if len(data) < 6 or data[1] < 4 or len(data) < data[1] + 2 or data[-2:] != b"\0\0":
        raise UsageError(f"{where}: the file is not one SMBIOS structure with its strings")
    if data.index(b"\0\0", data[1]) != len(data) - 2:
        raise UsageError(f"{where}: the file holds more than one SMBIOS structure")
    return data


def build(config: SmbiosConfig) -> tuple[bytes, bytes]:
    """(anchor, tables). The anchor lacks address and checksums, which the firmware (or ``seal``) fills in.

    Raises UsageError when the structures do not fit in the 64 KiB of an SMBIOS 2.x entry point.
    """
    structures = list(_structures(config))
    tables = b"".join(structures)
    if len(tables) > 0xFFFF:
        raise UsageError("-smbios: the tables are larger than 65535 bytes", "give shorter texts")
    longest = max(map(len, structures))
    head = struct.pack("<4sBBBBHB5s", b"_SM_", 0, 0x1F, 2, 8, longest, 0, bytes(5))
    return head + struct.pack("<5sBHIHB", b"_DMI_", 0, len(tables), 0, len(structures), 0x28), tables


def seal(anchor: bytes, tables_gpa: int) -> bytes:
    """The anchor with the tables' address and both checksums (§5.2.1), for a guest that no firmware serves."""
    made = bytearray(anchor)
    made[24:28] = tables_gpa.to_bytes(4, "little")
    made[21] = -sum(made[16:31]) & 0xFF
    made[4] = -sum(made) & 0xFF
    return bytes(made)
