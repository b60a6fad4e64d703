# SPDX-License-Identifier: Apache-2.0
"""Units: bytes, nanoseconds, sectors; and the one parser of sizes with suffixes.

Inside vmmd every quantity is in bytes or nanoseconds; other units exist only at the edges.
"""

from __future__ import annotations

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

SECTOR_BYTES = 512
#: size of sun_path in a UNIX socket address, <sys/un.h>
UNIX_PATH_BYTES = 108
PAGE_BYTES = 4096

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

U64_MAX = (1 << 64) - 1

_SUFFIXES = {"B": 1, "K": KiB, "M": MiB, "G": GiB, "T": TiB, "P": 1 << 50, "E": 1 << 60}


class TooLarge(ValueError):
    """A size that 64 bits do not hold."""


def parse_size(text: str, default_unit: str = "B") -> int:
    """Bytes of a size such as ``64``, ``1048576k``, ``1.5G`` or ``0x1000``.

    The suffix is one of B K M G T P E (either case, powers of 1024); without one ``default_unit``
    counts. A fraction is allowed in decimal numbers only. Raises ValueError with the accepted form.
    """
    body = text.strip()
    unit = _SUFFIXES[default_unit]
    hexadecimal = body[:2].lower() == "0x"
    if body and body[-1].upper() in _SUFFIXES and not (hexadecimal and body[-1].upper() in "BE"):
        unit = _SUFFIXES[body[-1].upper()]
        body = body[:-1]
    value = _number(body, hexadecimal, unit)
    if value is None:
        raise ValueError("a size is a number with an optional suffix B, K, M, G, T, P or E")
    if value > U64_MAX:
        raise TooLarge("a size must be below 16 EiB")
    return value


def _number(body: str, hexadecimal: bool, unit: int) -> int | None:
    if hexadecimal:
        digits = body[2:]
        return int(digits, 16) * unit if digits and all(c in "0123456789abcdefABCDEF" for c in digits) else None
    whole, dot, fraction = body.partition(".")
    if not (whole.isascii() and whole.isdigit()) or (dot and not (fraction.isascii() and fraction.isdigit())):
        return None
    if not dot:
        return int(whole) * unit
    scale: int = 10 ** len(fraction)
    return int(whole) * unit + int(fraction) * unit // scale


def format_size(size_bytes: int) -> str:
    """Short text of a size, for people: ``512 KiB``, ``1.5 GiB``."""
    for suffix, unit in (("EiB", 1 << 60), ("PiB", 1 << 50), ("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size_bytes >= unit:
            value = size_bytes / unit
            return f"{value:.0f} {suffix}" if value == int(value) else f"{value:.3g} {suffix}"
    return f"{size_bytes} B"
