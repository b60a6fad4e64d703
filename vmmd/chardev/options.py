# SPDX-License-Identifier: Apache-2.0
"""What character devices see of their options: the parts of ``options.backends``' models that are read here.

The models declare, convert and check; this package may not import them. Nothing is checked a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vmmd.core.sockets import Address

    class CharOptions(Protocol):
        """Of every backend."""

        @property
        def backend(self) -> str: ...
        @property
        def id(self) -> str: ...
        @property
        def logfile(self) -> str | None: ...
        @property
        def logappend(self) -> bool: ...
        @property
        def logmax(self) -> int: ...
        @property
        def logkeep(self) -> int: ...

    class FileOptions(CharOptions, Protocol):
        @property
        def path(self) -> str: ...
        @property
        def append(self) -> bool: ...
        @property
        def max(self) -> int: ...
        @property
        def keep(self) -> int: ...

    class PeerOptions(CharOptions, Protocol):
        """Of backends whose peers come and go."""

        @property
        def replay(self) -> int: ...
        @property
        def stale_input(self) -> str: ...

    class StdioOptions(CharOptions, Protocol):
        @property
        def signal(self) -> bool: ...

    class RingbufOptions(CharOptions, Protocol):
        @property
        def size(self) -> int: ...

    class SocketOptions(PeerOptions, Address, Protocol):
        """Exactly one of ``path``, ``fd`` and ``host`` (with ``port``) is not None."""

        @property
        def fd(self) -> str | None: ...
        @property
        def nodelay(self) -> bool: ...
        @property
        def server(self) -> bool: ...
        @property
        def waits(self) -> bool: ...
        @property
        def reconnect(self) -> int: ...
