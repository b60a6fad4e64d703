# SPDX-License-Identifier: Apache-2.0
"""``-nic`` and ``-net``: short forms of a NIC of the board and a netdev.

    -nic tap,script=no,model=virtio,mac=…    a netdev, and a NIC that is connected to it
    -net nic,model=virtio -net tap,script=no  both are at ports of hub 0
    -nic none, -net none                      no default NIC

They are read in order, but entered into the configuration when all is read (``place_nics``): after the netdevs that
have an option of their own, first what -nic makes, then what -net does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.core import registry
from vmmd.core.props import STR, prop
from vmmd.errors import UsageError
from vmmd.options import keyval
from vmmd.options.draft import HelpRequested, asks_for_help, refuse_duplicate
from vmmd.options.fields import NUMBER, OptionSet, shown, unknown_name
from vmmd.options.models import DeviceOptions
from vmmd.options.netdev_base import LaterNetdev, NetdevOptions
from vmmd.options.netdevs import NETDEVS, NETDEVS_LATER, NetdevHubport

if TYPE_CHECKING:
    from vmmd.options.draft import Draft

#: QEMU-COMPAT: the model of a NIC that does not say, and another name of one
DEFAULT_MODEL = "e1000"
_ALIASES = {"virtio": "virtio-net-pci"}
#: models that QEMU has for a PC; those that are in ``core.registry`` are there
_MODELS = (
    "e1000", "e1000-82544gc", "e1000-82545em", "e1000e", "i82550", "i82551", "i82557a", "i82557b", "i82557c",
    "i82558a", "i82558b", "i82559a", "i82559b", "i82559c", "i82559er", "i82562", "i82801", "ne2k_isa", "ne2k_pci",
    "pcnet", "pvrdma", "rtl8139", "tulip", "virtio-net-pci", "virtio-net-pci-non-transitional",
    "virtio-net-pci-transitional", "vmxnet3",
)  # fmt: skip
_MULTICAST = 1  # in the first byte of an Ethernet address
_ADDRESS_BYTES = 6
#: QEMU-COMPAT: a single number is the last three bytes
_NUMBERED_BYTES = 3
_HUB = 0  # where -net connects


def _parse_mac(text: str) -> bytes:
    separator = "-" if "-" in text else ":"
    parts = text.split(separator)
    if len(parts) == 1 and text.lower().startswith("0x"):
        return bytes(_ADDRESS_BYTES - _NUMBERED_BYTES) + int(text, 16).to_bytes(_NUMBERED_BYTES, "big")
    if len(parts) != _ADDRESS_BYTES or not all(len(part) <= 2 and part.isascii() for part in parts):
        raise ValueError(text)
    return bytes(int(part, 16) for part in parts)


class NicKeys(OptionSet):
    """``-net nic``."""

    netdev = prop(STR, None, "network backend to connect it to, instead of hub 0")
    id = prop(STR, None, "name of the option")
    macaddr = prop(STR, None, "Ethernet address")
    model = prop(STR, None, "kind of NIC: virtio (-net nic,model=help)")
    addr = prop(STR, None, "PCI address")
    vectors = prop(NUMBER, None, "MSI-X vectors of a virtio NIC")


class _ShortNicKeys(OptionSet):
    """Of ``-nic``, besides those of its netdev."""

    mac = prop(STR, None, "Ethernet address")
    model = prop(STR, None, "kind of NIC")


class NicRequest(NamedTuple):
    """One option that was read: a netdev, a NIC, or both."""

    option: str  # the whole of it, as errors begin
    short: str  # its beginning, where errors add a key
    on_hub: bool  # -net
    netdev: NetdevOptions | None
    nic: NicKeys | _ShortNicKeys | None


def read_nic(draft: Draft, option: str, text: str) -> None:
    """``-nic TYPE,model=…,mac=…``: the other keys are the netdev's."""
    where = f"{option} {shown(text)}"
    argument = keyval.parse(option, _asked(option, text), "type")
    kind = _kind(argument, where)
    if kind == "none":
        _nothing_else(argument, where)
        return
    own = [item for item in argument.items if item[0] in _ShortNicKeys.declared]
    rest = [item for item in argument.items if item[0] not in _ShortNicKeys.declared]
    nic = _ShortNicKeys.from_items(own, f"{option} {kind}")
    _check_model(nic.model, where)
    netdev = _netdev(draft, kind, keyval.Argument(option, rest), where)
    draft.nics.append(NicRequest(where, f"{option} {kind}", False, netdev, nic))


def read_net(draft: Draft, option: str, text: str) -> None:
    """``-net nic,…`` or ``-net TYPE,…``, each at a port of hub 0."""
    where = f"{option} {shown(text)}"
    argument = keyval.parse(option, _asked(option, text), "type")
    kind = _kind(argument, where)
    if kind == "none":
        _nothing_else(argument, where)
    elif kind == "nic":
        nic = NicKeys.from_items(argument.items, f"{option} {kind}")
        _check_model(nic.model, where)
        draft.nics.append(NicRequest(where, f"{option} {kind}", nic.netdev is None, None, nic))
    elif kind == "hubport":
        # QEMU-COMPAT: the sentence
        raise UsageError(f"{where}: network backend 'hubport' is only supported with -netdev/-nic")
    else:
        netdev = _netdev(draft, kind, argument, where)
        netdev.removable = False
        draft.nics.append(NicRequest(where, f"{option} {kind}", True, netdev, None))


def _asked(option: str, text: str) -> str:
    """``text``, unless it asks for help."""
    asks_for_help(option, text)
    if "model=help" in text.split(",") or "model=?" in text.split(","):
        raise HelpRequested("nic-model")
    return text


def _kind(argument: keyval.Argument, where: str) -> str:
    kind = argument.take("type")
    if not kind:
        # QEMU-COMPAT: the phrases here and below
        raise UsageError(f"{where}: Parameter 'type' is missing", "none, or a network backend (-netdev help)")
    known = ("none", *NETDEVS, *NETDEVS_LATER, *(("nic",) if argument.option == "-net" else ()))
    if kind not in known:
        what = f"Parameter 'type' does not accept value '{shown(kind)}'"
        raise unknown_name(where, kind, ("none", *NETDEVS, *(("nic",) if argument.option == "-net" else ())), what)
    return str(kind)


def _nothing_else(argument: keyval.Argument, where: str) -> None:
    if argument.items:
        raise UsageError(f"{where}: '{shown(argument.items[0][0])}' goes with a network, none has none")


def _netdev(draft: Draft, kind: str, argument: keyval.Argument, where: str) -> NetdevOptions:
    """The netdev; one without an id gets a name that no option can have."""
    if argument.peek("id") is None:
        argument.items.append(("id", f"#net{sum(each.netdev is not None for each in draft.nics):03d}"))
    if kind in NETDEVS:
        made = NETDEVS[kind].from_items(argument.items, f"{argument.option} {kind}")
    else:
        made = LaterNetdev(kind, argument.items)
        made.values["id"] = argument.peek("id")
    made.made_from = where
    return made


def _check_model(model: str | None, where: str) -> None:
    if model is not None and _ALIASES.get(model, model) not in _MODELS:
        # QEMU-COMPAT: the phrase
        raise UsageError(f"{where}: Unsupported NIC model: {shown(model)}", f"known are: {', '.join(models())}")


def models() -> list[str]:
    """Those that this version has."""
    return [name for name in _MODELS if name in registry.DEVICES]


def place_nics(draft: Draft) -> None:
    """Enter what was read into the configuration. Raises UsageError."""
    config = draft.config
    for request in sorted(draft.nics, key=lambda each: each.option.startswith("-net")):
        netdev = request.netdev
        name = None if netdev is None else netdev.id
        if netdev is not None:
            refuse_duplicate(request.short, "netdev", netdev.id, [other.id for other in config.netdevs])
            config.netdevs.append(netdev)
        if request.on_hub:
            name = _add_hub_port(draft, request.option, name)
        if request.nic is not None:
            _add_nic(draft, request.option, request.nic, name)


def _add_hub_port(draft: Draft, option: str, netdev: str | None) -> str:
    """A port of hub 0, for ``netdev`` or a NIC; its name."""
    netdevs = draft.config.netdevs
    number = sum(isinstance(each, NetdevHubport) and each.hubid == _HUB for each in netdevs)
    name = f"hub{_HUB}port{number}"
    items = [("id", name), ("hubid", str(_HUB)), *([] if netdev is None else [("netdev", netdev)])]
    made = NetdevHubport.from_items(items, option)
    made.made_from, made.removable = option, False
    netdevs.append(made)
    return name


def _add_nic(draft: Draft, option: str, nic: NicKeys | _ShortNicKeys, netdev: str | None) -> None:
    driver = DEFAULT_MODEL if nic.model is None else _ALIASES.get(nic.model, nic.model)
    items = []
    if isinstance(nic, NicKeys):
        mac, netdev = nic.macaddr, nic.netdev or netdev
        if nic.addr is not None:
            items.append(("addr", nic.addr))
        if nic.vectors is not None:
            items.append(("vectors", str(nic.vectors)))
    else:
        mac = nic.mac
        items.append(("vectors", "0"))  # QEMU-COMPAT: its -nic makes NICs without MSI-X
    if not driver.startswith("virtio"):
        items = [item for item in items if item[0] != "vectors"]
    if mac is not None:
        items.append(("mac", _checked_mac(mac, option)))
    assert netdev is not None  # named, or made above
    if not any(each.id == netdev for each in draft.config.netdevs):
        raise UsageError(f"{option}: netdev '{shown(netdev)}' not found", "no -netdev has this id")
    items.append(("netdev", netdev))
    draft.config.nics.append(DeviceOptions(driver, None, None, items, made_from=option, of_board=True))


def _checked_mac(text: str, option: str) -> str:
    """Raises UsageError, in QEMU's words."""
    try:
        mac = _parse_mac(text)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option}: invalid syntax for ethernet address", f"it takes the form 52:54:00:12:34:56, not {shown(text)}"
        ) from None
    if mac[0] & _MULTICAST:
        raise UsageError(f"{option}: NIC cannot have multicast MAC address (odd 1st byte)")
    return mac.hex(":")
