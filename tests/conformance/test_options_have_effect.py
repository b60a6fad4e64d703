# SPDX-License-Identifier: Apache-2.0
"""Nothing is accepted and ignored: every key of an option is used by some code, or refused by name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import vmmd.options.netdevs  # noqa: F401  # so that its models are among the subclasses
from vmmd.options import backends, models
from vmmd.options.fields import OptionSet
from vmmd.options.netdev_base import LaterNetdev
from vmmd.options.objects import LIMITS

SOURCES = Path(models.__file__).resolve().parents[1]

#: keys whose values cannot differ in effect in this version
WITHOUT_EFFECT = {
    "timer_period": "-audiodev none plays nothing",
    "nodeid": "one node, number 0",
    "localaddr": "-netdev socket hands it on as local",
    **dict.fromkeys(
        ("dhcpstart", "dnssearch", "ipv6_prefix", "ipv6_prefixlen", "ipv6_host"),
        "-netdev user hands them on as its network",
    ),
    "max_speed": "SMBIOS keys are handed on by their wire names",
    "current_speed": "SMBIOS keys are handed on by their wire names",
}
#: options that are refused as a whole, or (sandbox) unless they ask for nothing
REFUSED = (LaterNetdev, backends.VncOptions, models.SandboxOptions, models.NumaDistance, models.NumaCpu)


@cache
def code() -> str:
    """All of vmmd but the options: what only checks or completes a value gives it no effect."""
    options = Path(models.__file__).resolve().parent
    return "\n".join(path.read_text("utf-8") for path in sorted(SOURCES.rglob("*.py")) if options not in path.parents)


def option_sets() -> list[type[OptionSet]]:
    found, todo = [], [OptionSet]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls is not OptionSet and not issubclass(cls, REFUSED):
            found.append(cls)
    return sorted(set(found), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", option_sets(), ids=lambda cls: cls.__name__)
def test_every_key_is_used_or_refused(cls: type[OptionSet]) -> None:
    for wire_name, declared in cls.declared.items():
        needless = declared.name in WITHOUT_EFFECT
        assert needless or is_used(cls, wire_name), f"{cls.__name__}: {wire_name} is ignored"


def is_used(cls: type[OptionSet], wire_name: str) -> bool:
    """Something outside of the options reads the key, or it is refused."""
    name = cls.declared[wire_name].name
    used = re.search(rf'\.{name}\b|"{name}"|\b{name}=', code()) is not None
    used = used or wire_name.removeprefix("x-").removeprefix("limits.") in LIMITS  # read by their wire names
    return used or wire_name in cls.later


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_the_exceptions_are_needed(name: str) -> None:
    keys = [(cls, wire) for cls in option_sets() for wire, declared in cls.declared.items() if declared.name == name]
    assert not all(is_used(cls, wire) for cls, wire in keys), f"{name} has an effect now"
