# SPDX-License-Identifier: Apache-2.0
"""``-netdev user``: the keys of QEMU's user mode network, as far as passt can serve them (docs/adr/0014)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.props import BOOL, STR, U32, PropType, prop
from vmmd.errors import UsageError
from vmmd.options.fields import NOTHING
from vmmd.options.netdev_base import NetdevOptions

if TYPE_CHECKING:
    from vmmd.options.fields import Items
    from vmmd.options.user_network import UserNetwork

#: keys that passt cannot serve, and what to do instead
_REFUSED = {
    "dns": "passt gives the guest the host's name servers",
    "domainname": "dnssearch= is what passt can give the guest",
    "guestfwd": "the guest reaches servers on the host's loopback interface at the address host=, 10.0.2.2",
    "hostname": "passt gives the guest no name: set it there",
    "ip": "it is net= now",
    "ipv6-dns": "passt gives the guest the host's name servers",
    "smb": "passt has no SMB server: the guest reaches one of the host at the address host=, 10.0.2.2",
    "smbserver": "passt has no SMB server",
    "tftp": "passt has no TFTP server: -netdev tap with dnsmasq does that",
    "bootfile": "passt has no TFTP server: -netdev tap with dnsmasq does that",
    "tftp-server-name": "passt has no TFTP server: -netdev tap with dnsmasq does that",
}


def _strings(value: Any) -> tuple[str, ...]:
    """``[{"str": …}, …]``."""
    if not all(isinstance(each, dict) and set(each) == {"str"} and isinstance(each["str"], str) for each in value):
        raise ValueError
    return tuple(each["str"] for each in value)


#: a key that may come several times; in JSON a list
STRINGS: PropType[tuple[str, ...]] = PropType(
    "str", 'a string, in JSON [{"str": STRING}, …]', lambda text: (text,), json_kinds=(list,), from_json=_strings
)


class NetdevUser(NetdevOptions):
    kind = "user"
    ipv4 = prop(BOOL, None, "IPv4; on alone switches IPv6 off")
    ipv6 = prop(BOOL, None, "IPv6; on alone switches IPv4 off")
    net = prop(STR, None, "ADDRESS[/MASK] of the guest's network, default 10.0.2.0/24")
    host = prop(STR, None, "address of the host in it, default its .2")
    dhcpstart = prop(STR, None, "address that the guest gets by DHCP, default the network's .15")
    dnssearch = prop(STRINGS, (), "domain that the guest searches names in")
    ipv6_prefix = prop(STR, None, "IPv6 network of the guest, default fec0::")
    ipv6_prefixlen = prop(U32, None, "its length: 64")
    ipv6_host = prop(STR, None, "address of the host in it, default its ::2")
    restrict = prop(BOOL, False, "the guest reaches nobody")
    hostfwd = prop(STRINGS, (), "[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT")
    guestfwd = prop(STRINGS, (), "tcp:SERVER:PORT-TARGET")
    hostname = prop(STR, None, "name of the guest")
    domainname = prop(STR, None, "domain of the guest")
    ip = prop(STR, None, "older name of net")
    dns = prop(STR, None, "address of the virtual name server")
    ipv6_dns = prop(STR, None, "IPv6 address of the virtual name server")
    tftp = prop(STR, None, "directory of the TFTP server")
    bootfile = prop(STR, None, "name of the boot file")
    tftp_server_name = prop(STR, None, "name of the TFTP server")
    smb = prop(STR, None, "directory of the SMB server")
    smbserver = prop(STR, None, "address of the SMB server")

    repeatable = frozenset({"hostfwd", "guestfwd", "dnssearch"})
    later: ClassVar = dict.fromkeys(_REFUSED, NOTHING)

    #: what the keys mean; made by ``check``
    network: UserNetwork

    def take(self, items: Items, where: str, *, is_json: bool = False) -> None:
        own: Items = []
        for key, value in items:
            if key == "ipv6-net" and not is_json:  # QEMU-COMPAT: of the command line only
                prefix, slash, bits = str(value).partition("/")
                own += [("ipv6-prefix", prefix), *([("ipv6-prefixlen", bits)] if slash else [])]
            else:
                own.append((key, value))
        super().take(own, where, is_json=is_json)

    def check(self, where: str) -> None:
        super().check(where)
        for key, hint in _REFUSED.items():
            if key in self.given:
                raise UsageError(f"{where},{key}=: not available in this version", hint)
        from vmmd.options.user_network import read_network  # what it imports takes time, and is seldom needed

        self.network = read_network(self, where)
