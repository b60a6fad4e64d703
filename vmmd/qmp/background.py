# SPDX-License-Identifier: Apache-2.0
"""Slow work off the loop: imports and reads that would hold up the other clients and the vCPUs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.notify import LoopPort

T = TypeVar("T")


async def on_thread(loop: LoopPort, function: Callable[[], T], name: str) -> T:
    """What ``function`` returns or raises when it runs on a thread of its own. For a handler on the loop."""
    returned: list[T] = []
    raised: list[BaseException] = []
    finished = loop.create_future()

    def run() -> None:
        try:
            returned.append(function())
        except BaseException as error:
            raised.append(error)
        finally:
            loop.post(finished.set_result, None)

    threading.Thread(target=run, name=name, daemon=True).start()
    await finished
    if raised:
        raise raised[0]
    return returned[0]
