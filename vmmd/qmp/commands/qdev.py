# SPDX-License-Identifier: Apache-2.0
"""Commands about devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.qmp.registry import Context, Example, command
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from vmmd.machine.unplug import UnplugReport
    from vmmd.options.fields import Items
    from vmmd.options.models import DeviceOptions
    from vmmd.qmp.models.qdev import ObjectPropertyInfo, UnplugInfo
    from vmmd.qmp.vm_api import VmApi

UNPLUG_TIMEOUT_MAX_S = 24 * 3600

_DISK: tuple[str, dict[str, object]] = ("blockdev-add", {"driver": "null-co", "node-name": "disk0"})
_DEVICE: dict[str, object] = {"driver": "virtio-blk-pci", "id": "vd0", "drive": "disk0"}


@command("device-list-properties", since="1.2", example=Example({"typename": "isa-serial"}))
async def device_list_properties(ctx: Context, *, typename: str) -> list[ObjectPropertyInfo]:
    """The properties that ``-device`` takes for a type of device, with their defaults."""
    from vmmd.machine import types
    from vmmd.qmp.commands.qom import known_types, property_info

    found = (await known_types(ctx.vm)).get(typename)
    if found is None:
        raise DeviceNotFoundError(f"Device '{typename}' not found")
    if found.abstract or not types.is_a(found, "device"):
        # QEMU-COMPAT: the sentence
        raise UsageError("Parameter 'typename' expects a non-abstract device type")
    return [property_info(each, with_default=True) for each in types.own_properties(found)]


@command(
    "device_add",
    since="0.13",
    features=("json-cli", "json-cli-hotplug"),
    example=Example(_DEVICE, before=(_DISK,)),
)
async def device_add(
    ctx: Context,
    /,
    *,
    driver: str,
    bus: str | None = None,
    id: str | None = None,  # noqa: A002  # the argument's name
    **properties: object,
) -> dict[str, object]:
    """Plug in a device, as -device; all other members of the arguments are properties of the driver. A guest that runs
    is told of it by ACPI and sets it up; one that stands at its start finds it there."""
    from vmmd.options.models import DeviceOptions

    await plug(ctx.vm, DeviceOptions(driver, id, bus, _as_text(driver, properties)))
    return {}


@command("device_del", since="0.14", example=Example({"id": "vd0"}, before=(_DISK, ("device_add", _DEVICE))))
async def device_del(ctx: Context, *, id: str) -> dict[str, object]:  # noqa: A002  # the argument's name
    """Unplug a device, by its id or by its path in the object tree. The guest is asked for a PCI device, which is gone
    when DEVICE_DELETED comes: its id and its backends are free then. ``__org.vmmd_query-unplug`` tells how far it is.
    When the guest has not run yet, and for devices on other buses, it is gone when this returns; a reset of the machine
    completes all that is pending."""
    if ctx.vm.plugger is None:
        raise DeviceNotFoundError(f"Device '{id}' not found")
    await ctx.vm.plugger.remove(id)
    return {}


@command(
    "__org.vmmd_query-unplug",
    since="7.2",
    example=Example(before=(_DISK, ("device_add", _DEVICE), ("device_del", {"id": "vd0"}))),
)
def query_unplug(ctx: Context) -> list[UnplugInfo]:
    """What became of every device_del: those that are pending, and the last that have ended; the oldest first."""
    plugger = ctx.vm.plugger
    return [] if plugger is None else [_unplug_info(each) for each in plugger.unplugger.reports()]


def _unplug_info(report: UnplugReport) -> UnplugInfo:
    info: UnplugInfo = {
        "qom-path": report.path,
        "driver": report.driver,
        "state": report.state,
        "deleted": report.deleted,
        "age-ns": report.age_ns,
    }
    if report.id is not None:
        info["id"] = report.id
    return info


@command("__org.vmmd_set-unplug-timeout", since="7.2", example=Example({"seconds": 30}))
def set_unplug_timeout(ctx: Context, *, seconds: int) -> None:
    """From now on, a guest that has not let go of a device so many seconds after device_del is reported by
    DEVICE_UNPLUG_GUEST_ERROR; it may let go later. 0: never, as at the start."""
    if not 0 <= seconds <= UNPLUG_TIMEOUT_MAX_S:
        raise UsageError(f"Parameter 'seconds' expects a value from 0 to {UNPLUG_TIMEOUT_MAX_S}")
    if ctx.vm.plugger is not None:
        ctx.vm.plugger.unplugger.report_after_ns = seconds * NS_PER_S or None


async def plug(vm: VmApi, options: DeviceOptions) -> None:
    """Plug in a device. Raises VmmdError."""
    from vmmd.options.fields import IDENTIFIER_FORM, is_identifier

    # QEMU-COMPAT: QEMU's sentences
    if options.id is not None and not is_identifier(options.id):
        raise UsageError("Parameter 'id' expects an identifier", IDENTIFIER_FORM)
    if vm.plugger is None:
        from vmmd.machine.device_plan import find_class

        bus = find_class(options.driver).bus_type
        raise UsageError(f"No '{bus}' bus found for device '{options.driver}'", "machine 'none' has no buses")
    await vm.plugger.add(options)


def _as_text(driver: str, properties: dict[str, object]) -> Items:
    """QEMU-COMPAT: over QMP, a number or boolean is what the same text is on the command line (``"addr": 10`` is slot
    0x10). QEMU passes over objects, arrays and null."""
    items: Items = []
    for key, value in properties.items():
        if isinstance(value, bool):
            items.append((key, "on" if value else "off"))
        elif isinstance(value, str | int | float):
            items.append((key, str(value)))
        else:
            raise UsageError(f"Invalid parameter type for '{key}', expected: string", f"it is a property of {driver}")
    return items
