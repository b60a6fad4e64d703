# SPDX-License-Identifier: Apache-2.0
"""What is done to a guest from outside: NMI button, keys, memory balloon, watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError, VmmdError
from vmmd.qmp.hmp.arguments import ArgumentError, signed
from vmmd.qmp.hmp.registry import forward, hmp
from vmmd.units import MiB

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

MAX_KEYS = 16
_KEY_NAMES = """
unmapped shift shift_r alt alt_r ctrl ctrl_r menu esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab q w e r t y u i o p
bracket_left bracket_right ret a s d f g h j k l semicolon apostrophe grave_accent backslash z x c v b n m comma dot
slash asterisk spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock kp_divide kp_multiply kp_subtract
kp_add kp_enter kp_decimal sysrq kp_0 kp_1 kp_2 kp_3 kp_4 kp_5 kp_6 kp_7 kp_8 kp_9 less f11 f12 print home pgup pgdn
end left up down right insert delete stop again props undo front copy open paste find cut lf help meta_l meta_r compose
pause ro hiragana henkan yen muhenkan katakanahiragana kp_comma kp_equals power sleep wake audionext audioprev
audiostop audioplay audiomute volumeup volumedown mediaselect mail calculator computer ac_home ac_back ac_forward
ac_refresh ac_bookmarks lang1 lang2
"""
#: names of keys (QKeyCode of QAPI)
KEYS = frozenset(_KEY_NAMES.split())


forward("nmi", to="inject-nmi", help="send a non-maskable interrupt to every vCPU")


@hmp("balloon", params="target", help="ask the guest to keep no more than target MiB of memory")
async def balloon(monitor: HumanMonitor, arguments: Arguments) -> str:
    target_mib = signed(arguments.expression())
    arguments.done()
    if target_mib < 0:
        raise ArgumentError("enter a positive value")
    if target_mib >= 1 << 43:
        raise ArgumentError("integer is too large")
    await monitor.qmp("balloon", {"value": target_mib * MiB})
    return ""


@hmp("info balloon", help="memory that the balloon has left to the guest")
async def info_balloon(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    found = await monitor.qmp("query-balloon")
    return f"balloon: actual={found['actual'] // MiB}\n"


@hmp("sendkey", params="keys [hold_ms]", help="press keys together (ctrl-alt-f1; a number is a scan code)")
def sendkey(monitor: HumanMonitor, arguments: Arguments) -> str:
    keys = arguments.string()
    if not arguments.at_end:
        arguments.expression()  # how long they are held
    arguments.done()
    names = ["less"] if keys == "<" else keys.split("-")
    for name in names:
        if name not in KEYS and not _is_scan_code(name):
            return f"invalid parameter: {name}\n"
    if len(names) > MAX_KEYS:
        raise UsageError("too many keys", f"at most {MAX_KEYS} at once")
    # LIMIT: no device takes keys yet
    raise VmmdError("There is no keyboard that could take the keys", "this version has none")


def _is_scan_code(text: str) -> bool:
    digits = text.removeprefix("0x")
    return digits != text and 0 < len(digits) <= 8 and all(each in "0123456789abcdefABCDEF" for each in digits)


@hmp("watchdog_action", params="action", help="what happens when a watchdog expires")
async def watchdog_action(monitor: HumanMonitor, arguments: Arguments) -> str:
    action = arguments.string()
    arguments.done()
    await monitor.qmp("watchdog-set-action", {"action": action})
    return ""
