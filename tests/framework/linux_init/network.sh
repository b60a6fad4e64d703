#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# /init of the guest for the network, serial, balloon and hotplug tests: names for the virtio ports, the guest agent in
# the background when there is a port for it, and a shell on the serial port.
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
printf 'PRETTY_NAME="busybox initramfs"\nID=test\n' >/etc/os-release
cat >/etc/udhcpc <<'END'
#!/bin/sh
[ "$1" = bound ] && ip addr add "$ip/$mask" dev "$interface" && echo "BOUND $interface $ip"
END
chmod 755 /etc/udhcpc
mkdir /dev/virtio-ports
for p in /sys/class/virtio-ports/*; do
  [ -e "$p/name" ] && read -r name <"$p/name" && ln -s "../${p##*/}" "/dev/virtio-ports/$name"
done
agent=/dev/virtio-ports/org.qemu.guest_agent.0
[ -e $agent ] && qemu-ga -m virtio-serial -p $agent -t /tmp >/tmp/agent.log 2>&1 &
echo "INIT: done"
exec setsid cttyhack sh
