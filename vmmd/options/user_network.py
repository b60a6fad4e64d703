# SPDX-License-Identifier: Apache-2.0
"""The addresses and forwarded ports of ``-netdev user``. QEMU-COMPAT: the sentences, each with a hint of our own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError
from vmmd.options.addresses import PORT_MAX
from vmmd.options.fields import shown

if TYPE_CHECKING:
    from vmmd.options.netdev_user import NetdevUser

#: QEMU-COMPAT: the networks, and what their hosts are in them
_DEFAULT_NET = "10.0.2.0/24"
_HOST_NUMBER = 2
_GUEST_NUMBER = 15
_DEFAULT_PREFIX = "fec0::"
_PREFIX_BITS = 64
#: of the guest; QEMU's guests make their own
_GUEST_NUMBER_6 = 0x15
_MASK_BITS_MIN = 4
_PREFIX_BITS_MAX = 126


class Forward(NamedTuple):
    """``hostfwd=``: connections to a port of the host go to one of the guest."""

    protocol: str  # "tcp", "udp"
    host: str  # address; "0.0.0.0": any
    host_port: int
    guest: str  # address, or ""
    guest_port: int
    rule: str  # as it was written


class Ipv4(NamedTuple):
    """Addresses of one protocol."""

    network: IPv4Network
    host: IPv4Address
    guest: IPv4Address


class Ipv6(NamedTuple):
    """Addresses of one protocol."""

    network: IPv6Network
    host: IPv6Address
    guest: IPv6Address
    demanded: bool  # a host that has none is an error


class UserNetwork(NamedTuple):
    """What a guest sees."""

    ipv4: Ipv4 | None
    ipv6: Ipv6 | None
    search: tuple[str, ...]
    restrict: bool
    forwards: tuple[Forward, ...]


def read_network(options: NetdevUser, where: str) -> UserNetwork:
    """Raises UsageError."""
    has_ipv4, has_ipv6 = _protocols(options, where)
    ipv4 = _read_ipv4(options, where) if has_ipv4 else None
    ipv6 = _read_ipv6(options, where) if has_ipv6 else None
    forwards = tuple(read_forward(rule, f"{where}: ") for rule in options.hostfwd)
    for domain in options.dnssearch:
        if not (domain and domain.isascii() and all(c.isalnum() or c in "-._" for c in domain)):
            raise UsageError(
                f"{where},dnssearch={shown(domain)}: it is no name of a domain", "letters, digits, '-', '.'"
            )
    made = UserNetwork(ipv4, ipv6, options.dnssearch, options.restrict, forwards)
    _check_forwards(made, where)
    return made


def _protocols(options: NetdevUser, where: str) -> tuple[bool, bool]:
    """Whether there is IPv4, and IPv6. QEMU-COMPAT: one that is switched on alone switches the other off."""
    ipv4 = options.ipv4 is not False and not (options.ipv6 is True and options.ipv4 is None)
    ipv6 = options.ipv6 is not False and not (options.ipv4 is True and options.ipv6 is None)
    if not (ipv4 or ipv6):
        raise UsageError(f"{where}: IPv4 and IPv6 disabled", "one is needed")
    if not ipv4 and options.given & {"net", "host", "dhcpstart", "hostfwd"}:
        raise UsageError(f"{where}: IPv4 disabled but netmask/host/dns provided", "ipv4=on")
    if not ipv6 and options.given & {"ipv6-prefix", "ipv6-prefixlen", "ipv6-host"}:
        raise UsageError(f"{where}: IPv6 disabled but prefix/host6/dns6 provided", "ipv6=on")
    return ipv4, ipv6


def _read_ipv4(options: NetdevUser, where: str) -> Ipv4:
    network = _network(options.net or _DEFAULT_NET, where)
    base = int(network.network_address)
    host = _address(options.host, "host", where) or IPv4Address(base | _HOST_NUMBER)
    guest = _address(options.dhcpstart, "DHCP start address", where) or IPv4Address(base | _GUEST_NUMBER)
    if host not in network:
        raise UsageError(f"{where}: Host doesn't belong to network", f"it is {network}")
    if guest not in network:
        raise UsageError(f"{where}: DHCP doesn't belong to network", f"it is {network}")
    if guest == host:
        raise UsageError(f"{where}: DHCP must be different from host and DNS", f"both are {host}")
    return Ipv4(network, host, guest)


def _read_ipv6(options: NetdevUser, where: str) -> Ipv6:
    bits = _PREFIX_BITS if options.ipv6_prefixlen is None else options.ipv6_prefixlen
    if bits > _PREFIX_BITS_MAX:
        sentence = "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)"
        raise UsageError(f"{where}: {sentence}", f"passt takes {_PREFIX_BITS}")
    if bits != _PREFIX_BITS:
        raise UsageError(f"{where},ipv6-prefixlen={bits}: not available in this version", f"passt takes {_PREFIX_BITS}")
    prefix = _address_6(options.ipv6_prefix or _DEFAULT_PREFIX, "prefix", where)
    network = IPv6Network((prefix, bits), strict=False)
    base = int(network.network_address)
    if options.ipv6_host is None:
        host = IPv6Address(base | _HOST_NUMBER)
    else:
        host = _address_6(options.ipv6_host, "host", where)
    if host not in network:
        raise UsageError(f"{where}: IPv6 Host doesn't belong to network", f"it is {network}")
    demanded = options.ipv6 is True or not options.given.isdisjoint({"ipv6-prefix", "ipv6-prefixlen", "ipv6-host"})
    return Ipv6(network, host, IPv6Address(base | _GUEST_NUMBER_6), demanded)


def _check_forwards(network: UserNetwork, where: str) -> None:
    """What passt can do. Raises UsageError."""
    guest = "" if network.ipv4 is None else str(network.ipv4.guest)
    taken: set[tuple[str, str, int]] = set()
    for each in network.forwards:
        what = f"{where},hostfwd={shown(each.rule)}: not available"
        if network.restrict:
            raise UsageError(
                f"{what} together with restrict=on", "passt would let the guest out: leave one of them out"
            )
        if each.guest not in ("", "0.0.0.0", guest):
            raise UsageError(f"{what}: passt forwards to the guest's own address", f"leave it out, or give {guest}")
        if not each.host_port:
            raise UsageError(f"{what}: nobody would know the port", f"give one from 1 to {PORT_MAX}")
        if each[:3] in taken:
            sentence = f"Could not set up host forwarding rule '{shown(each.rule)}'"
            raise UsageError(f"{where}: {sentence}", "another rule has that port")
        taken.add(each[:3])


def _network(text: str, where: str) -> IPv4Network:
    """``ADDRESS``, ``ADDRESS/BITS`` or ``ADDRESS/MASK``."""
    address, slash, mask = text.partition("/")
    try:
        number = IPv4Address(address)
        if not slash:
            return IPv4Network((number, _bits_by_class(int(number))), strict=False)
        if mask.isdigit() and not _MASK_BITS_MIN <= int(mask[:3]) <= number.max_prefixlen:
            raise UsageError(f"{where}: Invalid netmask provided (must be in range 4-32)", f"net={shown(text)}")
        return IPv4Network(f"{address}/{mask}", strict=False)
    except ValueError:
        hint = "net= takes an address with the number of its network's bits: 10.0.2.0/24"
        raise UsageError(f"{where}: Failed to parse netmask", hint) from None


def _bits_by_class(address: int) -> int:
    """The network that an address without a mask is in. QEMU-COMPAT: class A, private B, B, private C, others."""
    if address < 1 << 31:
        return 8
    if address >> 20 == 0xAC1:  # 172.16.0.0/12
        return 12
    if address >> 30 == 0b10 or address >> 16 == 0xC0A8:  # 192.168.0.0/16
        return 16
    return 24 if address >> 29 == 0b111 else 28


def _address(text: str | None, what: str, where: str) -> IPv4Address | None:
    if text is None:
        return None
    try:
        return IPv4Address(text)
    except ValueError:
        raise UsageError(f"{where}: Failed to parse {what}", f"{shown(text)} is no IPv4 address") from None


def _address_6(text: str, what: str, where: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError:
        raise UsageError(f"{where}: Failed to parse IPv6 {what}", f"{shown(text)} is no IPv6 address") from None


def read_forward(rule: str, prefix: str = "") -> Forward:
    """Raises UsageError in QEMU's words after ``prefix``."""

    def wrong(why: str) -> UsageError:
        hint = "it takes [tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT"
        return UsageError(f"{prefix}Invalid host forwarding rule '{shown(rule)}' ({why})", hint)

    protocol, colon, rest = rule.partition(":")
    if not colon:
        raise wrong("No : separators")
    if protocol not in ("", "tcp", "udp"):
        raise wrong("Bad protocol name")
    host, colon, rest = rest.partition(":")
    if not colon:
        raise wrong("Missing : separator")
    if host and not _is_ipv4(host):
        raise wrong("Bad host address")
    host_port, dash, rest = rest.partition("-")
    if not dash or _port(host_port) is None:
        raise wrong("Bad host port")
    guest, colon, guest_port = rest.partition(":")
    if not colon:
        raise wrong("Missing guest address")
    if guest and not _is_ipv4(guest):
        raise wrong("Bad guest address")
    if not _port(guest_port):
        raise wrong("Bad guest port")
    return Forward(protocol or "tcp", host or "0.0.0.0", _port(host_port) or 0, guest, _port(guest_port) or 0, rule)


def _port(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or int(text[:6]) > PORT_MAX:
        return None
    return int(text)


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
