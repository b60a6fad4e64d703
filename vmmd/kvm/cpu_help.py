# SPDX-License-Identifier: Apache-2.0
"""The text of ``-cpu help``: models, then every feature name, in QEMU's layout (libvirt and people grep it)."""

from __future__ import annotations

from vmmd.kvm.cpu_features import NOT_BUILT, bits_by_name
from vmmd.kvm.cpu_models import ALIASES, ROWS
from vmmd.kvm.cpuid import cpu_model_names

_SPECIAL = {
    "base": "base CPU model type with no features enabled",
    "host": "processor with all supported host features ",
    "max": "Enables all features supported by the accelerator in the current host",
}
_WIDTH = 75


def help_text() -> str:
    """All lines, newline-terminated."""
    described = {row.name: f"{row.model_id} {row.note}".strip() for row in ROWS}
    lines = ["Available CPUs:"]
    for name in cpu_model_names():
        if name in _SPECIAL:
            text = _SPECIAL[name]
        elif name in ALIASES:
            text = f"(alias of {ALIASES[name]})"
        else:
            text = described.get(name, "(alias configured by machine type)")
        lines.append(f"x86 {name:<20}  {text}")
    lines += ["", "Recognized CPUID flags:"]
    return "\n".join(lines + _wrapped(sorted(set(bits_by_name()) - NOT_BUILT))) + "\n"


def _wrapped(names: list[str]) -> list[str]:
    lines, line = [], " "
    for name in names:
        if len(line) + 1 + len(name) > _WIDTH:
            lines.append(line)
            line = " "
        line += f" {name}"
    return [*lines, line]
