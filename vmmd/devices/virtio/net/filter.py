# SPDX-License-Identifier: Apache-2.0
"""Which frames the guest wants (virtio 1.2 §5.1.6.5.1 to §5.1.6.5.3): told by the control queue, asked for each."""

from __future__ import annotations

from vmmd.core.backend import ReceiveFilter

BROADCAST = b"\xff" * 6
#: addresses in both tables together; what a guest asks for beyond it is «all of that kind»
TABLE_MAX = 64
VLANS = 4096
_ETHERTYPE_AT, _VLAN_TAG, _VID_MASK = 12, b"\x81\x00", VLANS - 1
#: bytes of a frame that the filter looks at
LOOKED_AT = 16


class RxFilter:
    """The state, and the decision. On the loop; reset with the DeviceLock held while no queue is active."""

    def __init__(self, mac: bytes) -> None:
        self.reset(mac)

    def reset(self, mac: bytes) -> None:
        """As after power-on: everything passes."""
        self.mac = mac
        self.promisc = True
        self.allmulti = self.alluni = False
        self.nomulti = self.nouni = self.nobcast = False
        self.unicast: tuple[bytes, ...] = ()
        self.multicast: tuple[bytes, ...] = ()
        self.unicast_overflow = self.multicast_overflow = False
        #: the driver has negotiated the VLAN filter
        self.filters_vlans = False
        self.vlans: set[int] = set()
        self.settle()

    def settle(self) -> None:
        """Work out what ``accepts`` looks up; after every change of an address."""
        self._wanted = {self.mac, *self.unicast, *self.multicast}

    def set_mode(self, name: str, on: bool) -> None:
        """``promisc``, ``allmulti``, ``alluni``, ``nomulti``, ``nouni``, ``nobcast``."""
        setattr(self, name, on)

    def set_mac(self, mac: bytes) -> None:
        self.mac = mac
        self.settle()

    def set_tables(self, unicast: tuple[bytes, ...] | None, multicast: tuple[bytes, ...] | None) -> None:
        """The tables; None: more than there is room for."""
        self.unicast_overflow, self.unicast = unicast is None, unicast or ()
        self.multicast_overflow, self.multicast = multicast is None, multicast or ()
        self.settle()

    def shown(self) -> ReceiveFilter:
        """For managers. QEMU-COMPAT: what was added last comes first, and all VLANs are named while none is filtered.
        Not as in QEMU 7.2, whose ``broadcast-allowed`` says the opposite of what is documented."""
        vlan = ("normal" if self.vlans else "none") if self.filters_vlans else "all"
        return ReceiveFilter(
            promiscuous=self.promisc,
            multicast="none" if self.nomulti else "all" if self.allmulti else "normal",
            unicast="none" if self.nouni else "all" if self.alluni else "normal",
            vlan=vlan,
            broadcast_allowed=not self.nobcast,
            multicast_overflow=self.multicast_overflow,
            unicast_overflow=self.unicast_overflow,
            main_mac=self.mac,
            vlan_table=tuple(sorted(self.vlans if self.filters_vlans else range(VLANS), reverse=True)),
            unicast_table=self.unicast[::-1],
            multicast_table=self.multicast[::-1],
        )

    def accepts(self, head: bytes) -> bool:
        """Whether the guest wants the frame that begins with ``head`` (LOOKED_AT bytes, fewer in shorter frames)."""
        if self.promisc:  # QEMU-COMPAT: whatever its VLAN
            return True
        if self.filters_vlans and head[_ETHERTYPE_AT : _ETHERTYPE_AT + 2] == _VLAN_TAG:
            tag = int.from_bytes(head[_ETHERTYPE_AT + 2 : _ETHERTYPE_AT + 4], "big")
            if tag & _VID_MASK not in self.vlans:
                return False
        target = head[:6]
        if not head[:1] or not head[0] & 1:
            return not self.nouni and (self.alluni or self.unicast_overflow or target in self._wanted)
        if target == BROADCAST:
            return not self.nobcast
        return not self.nomulti and (self.allmulti or self.multicast_overflow or target in self._wanted)
