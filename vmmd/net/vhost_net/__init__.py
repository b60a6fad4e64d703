# SPDX-License-Identifier: Apache-2.0
"""vhost-net: the kernel moves frames between rings in guest memory and a tap (linux/vhost.h).

``device``: its ioctls. ``backend``: rings over one descriptor for each pair of queues (``core.vhost.VhostBackend``).
``setup``: whether a tap has it, by ``vhost=``, ``vhostfd=``, ``vhostfds=`` and ``vhostforce=``.
"""
