# SPDX-License-Identifier: Apache-2.0
"""vhost-user, the front end's side: rings served by another process (the public vhost-user protocol document).

``messages``: their bytes. ``session``: one connection, without I/O. ``backend``: rings over connections that come and
go (``core.vhost.VhostBackend``). ``netdev``: ``-netdev vhost-user`` over a character device.
"""
