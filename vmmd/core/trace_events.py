# SPDX-License-Identifier: Apache-2.0
"""The trace events of vmmd: name, and the text whose fields are the arguments (``trace``).

Names and texts are QEMU 7.2's where QEMU has the same event, with names of devices instead of addresses of objects.
QEMU-COMPAT: no QEMU has those below "vmmd's own".
"""

from __future__ import annotations

from vmmd.core.trace import TraceEvent

# -- run state, machine ------------------------------------------------------------------------------------------------

RUNSTATE_SET = TraceEvent("runstate_set", "current_run_state {old} new_state {new}")
VM_STATE_NOTIFY = TraceEvent("vm_state_notify", "running {running} reason {reason}")
QEMU_SYSTEM_SHUTDOWN_REQUEST = TraceEvent("qemu_system_shutdown_request", "reason={reason}")
QEMU_SYSTEM_POWERDOWN_REQUEST = TraceEvent("qemu_system_powerdown_request")
QDEV_RESET = TraceEvent("qdev_reset", "obj={dev}({type})")

# -- KVM and vCPUs -----------------------------------------------------------------------------------------------------

KVM_RUN_EXIT = TraceEvent("kvm_run_exit", "cpu_index {cpu}, reason {reason}", per_vcpu=True)
KVM_INIT_VCPU = TraceEvent("kvm_init_vcpu", "index: {index} id: {id}")
GUEST_CPU_RESET = TraceEvent("guest_cpu_reset", "cpu={cpu}", per_vcpu=True)
KVM_SET_USER_MEMORY = TraceEvent(
    "kvm_set_user_memory", "Slot#{slot} flags=0x{flags:x} gpa=0x{gpa:x} size=0x{size:x} ua=0x{hva:x}"
)
KVM_SET_IOEVENTFD_MMIO = TraceEvent(
    "kvm_set_ioeventfd_mmio", "fd: {fd} @0x{address:x} val=0x{value:x} assign: {assign} size: {size} match: {match}"
)
KVM_SET_IOEVENTFD_PIO = TraceEvent(
    "kvm_set_ioeventfd_pio", "fd: {fd} @0x{address:x} val=0x{value:x} assign: {assign} size: {size} match: {match}"
)

# -- accesses ----------------------------------------------------------------------------------------------------------

MEMORY_REGION_OPS_READ = TraceEvent(
    "memory_region_ops_read", "cpu {cpu} addr 0x{address:x} value 0x{value:x} size {size} name '{dev}'"
)
MEMORY_REGION_OPS_WRITE = TraceEvent(
    "memory_region_ops_write", "cpu {cpu} addr 0x{address:x} value 0x{value:x} size {size} name '{dev}'"
)
PCI_CFG_READ = TraceEvent("pci_cfg_read", "{dev} {bus:02x}:{slot:02x}.{function:x} @0x{offset:x} -> 0x{value:x}")
PCI_CFG_WRITE = TraceEvent("pci_cfg_write", "{dev} {bus:02x}:{slot:02x}.{function:x} @0x{offset:x} <- 0x{value:x}")
PCI_UPDATE_MAPPINGS_ADD = TraceEvent(
    "pci_update_mappings_add", "{dev} {bus:02x}:{slot:02x}.{function:x} {bar},0x{address:x}+0x{size:x}"
)
PCI_UPDATE_MAPPINGS_DEL = TraceEvent(
    "pci_update_mappings_del", "{dev} {bus:02x}:{slot:02x}.{function:x} {bar},0x{address:x}+0x{size:x}"
)
MSIX_WRITE_CONFIG = TraceEvent("msix_write_config", "dev {dev} enabled {enabled:d} masked {masked:d}")
SERIAL_READ = TraceEvent("serial_read", "read addr 0x{address:02x} val 0x{value:02x} dev {dev}")
SERIAL_WRITE = TraceEvent("serial_write", "write addr 0x{address:02x} val 0x{value:02x} dev {dev}")
FW_CFG_SELECT = TraceEvent("fw_cfg_select", "key 0x{key:04x} '{name}', ret: {ret:d}")

# -- input -------------------------------------------------------------------------------------------------------------

INPUT_EVENT_KEY_QCODE = TraceEvent("input_event_key_qcode", "con -1, key qcode {key}, down {down:d}")
INPUT_EVENT_BTN = TraceEvent("input_event_btn", "con -1, button {button}, down {down:d}")
INPUT_EVENT_REL = TraceEvent("input_event_rel", "con -1, axis {axis}, value {value}")
INPUT_EVENT_ABS = TraceEvent("input_event_abs", "con -1, axis {axis}, value 0x{value:x}")
PCKBD_KBD_READ_DATA = TraceEvent("pckbd_kbd_read_data", "0x{value:02x}")
PCKBD_KBD_READ_STATUS = TraceEvent("pckbd_kbd_read_status", "0x{value:02x}")
PCKBD_KBD_WRITE_DATA = TraceEvent("pckbd_kbd_write_data", "0x{value:02x}")
PCKBD_KBD_WRITE_COMMAND = TraceEvent("pckbd_kbd_write_command", "0x{value:02x}")

# -- virtio ------------------------------------------------------------------------------------------------------------

VIRTIO_SET_STATUS = TraceEvent("virtio_set_status", "vdev {dev} val {value}")
VIRTIO_QUEUE_NOTIFY = TraceEvent("virtio_queue_notify", "vdev {dev} n {queue}")
VIRTIO_NOTIFY = TraceEvent("virtio_notify", "vdev {dev} n {queue}")
VIRTIO_SERIAL_SEND_CONTROL_EVENT = TraceEvent(
    "virtio_serial_send_control_event", "vdev {dev} port {port}, event {event}, value {value}"
)
VIRTIO_SERIAL_HANDLE_CONTROL_MESSAGE = TraceEvent(
    "virtio_serial_handle_control_message", "vdev {dev} port {port}, event {event}, value {value}"
)
VIRTIO_SERIAL_THROTTLE_PORT = TraceEvent("virtio_serial_throttle_port", "dev {dev} port {port}, throttle {throttle}")
VIRTIO_CONSOLE_CHR_EVENT = TraceEvent("virtio_console_chr_event", "dev {dev} port {port}, event {event}")
VIRTIO_BLK_HANDLE_READ = TraceEvent(
    "virtio_blk_handle_read", "vdev {dev} n {queue} req {head} sector {sector} nsectors {count}"
)
VIRTIO_BLK_HANDLE_WRITE = TraceEvent(
    "virtio_blk_handle_write", "vdev {dev} n {queue} req {head} sector {sector} nsectors {count}"
)
VIRTIO_BLK_REQ_COMPLETE = TraceEvent("virtio_blk_req_complete", "vdev {dev} n {queue} req {head} status {status}")
VIRTIO_BALLOON_BAD_ADDR = TraceEvent("virtio_balloon_bad_addr", "{gpa:x}")
VIRTIO_BALLOON_SET_CONFIG = TraceEvent("virtio_balloon_set_config", "dev {dev} actual: {actual} oldactual: {old}")
VIRTIO_BALLOON_TO_TARGET = TraceEvent(
    "virtio_balloon_to_target", "dev {dev} balloon target: {target} num_pages: {pages}"
)

# -- monitors ----------------------------------------------------------------------------------------------------------

HANDLE_QMP_COMMAND = TraceEvent("handle_qmp_command", "mon {monitor} req: {request}")
MONITOR_QMP_RESPOND = TraceEvent("monitor_qmp_respond", "mon {monitor} resp: {response}")
HANDLE_HMP_COMMAND = TraceEvent("handle_hmp_command", "mon {monitor} cmdline: {line}")
MONITOR_PROTOCOL_EVENT_QUEUE = TraceEvent("monitor_protocol_event_queue", "event={event} data={data}")

# -- vmmd's own --------------------------------------------------------------------------------------------------------

VCPU_KICK = TraceEvent("vcpu_kick", "cpu {cpu}", per_vcpu=True)
KVM_ERROR = TraceEvent("kvm_error", "{name} errno {errno}")
UNASSIGNED_READ = TraceEvent("unassigned_read", "cpu {cpu} {space} addr 0x{address:x} size {size}")
UNASSIGNED_WRITE = TraceEvent("unassigned_write", "cpu {cpu} {space} addr 0x{address:x} value 0x{value:x} size {size}")
PCI_INTX = TraceEvent("pci_intx", "{dev} level {level}")
MSIX_NOTIFY = TraceEvent("msix_notify", "dev {dev} address 0x{address:x} data 0x{data:x}")
RTC_READ = TraceEvent("rtc_read", "reg 0x{register:02x} val 0x{value:02x}")
RTC_WRITE = TraceEvent("rtc_write", "reg 0x{register:02x} val 0x{value:02x}")
PM_SLEEP = TraceEvent("pm_sleep", "type {type}")
PM_POWER_BUTTON = TraceEvent("pm_power_button", "enabled {enabled:d}")
PM_SCI = TraceEvent("pm_sci", "level {level}")
VIRTIO_FEATURES = TraceEvent("virtio_features", "vdev {dev} offered 0x{offered:x} accepted 0x{accepted:x}")
VIRTIO_QUEUE_START = TraceEvent(
    "virtio_queue_start", "vdev {dev} n {queue} size {size} desc 0x{desc:x} avail 0x{avail:x} used 0x{used:x}"
)
VIRTIO_QUEUE_STOP = TraceEvent("virtio_queue_stop", "vdev {dev} n {queue}")
VIRTIO_BROKEN = TraceEvent("virtio_broken", "vdev {dev} {reason}")
VIRTIO_BLK_HANDLE_OTHER = TraceEvent("virtio_blk_handle_other", "vdev {dev} n {queue} req {head} kind {kind}")
ACPI_PCI_EJECT_SLOT = TraceEvent("acpi_pci_eject_slot", "bsel: 0 slot: {slot}")
PCI_HOTPLUG_READ = TraceEvent("pci_hotplug_read", "reg 0x{register:02x} val 0x{value:x}")
PCI_HOTPLUG_WRITE = TraceEvent("pci_hotplug_write", "reg 0x{register:02x} val 0x{value:x}")
VIRTIO_BALLOON_DISCARD = TraceEvent("virtio_balloon_discard", "vdev {dev} gpa 0x{gpa:x} size 0x{size:x}")
CHARDEV_EVENT = TraceEvent("chardev_event", "chardev {dev} {event}")
