"""The node's link to the machine, and the routes that keep a cluster's packets on this machine.

The node has no default route, and on both ends the cluster range is unreachable unless a cluster holds it: a packet
to a Service without endpoints, or to a cluster that is gone, ends here and never leaves through the machine's uplink.
kube-router's firewall accepts such packets ahead of kube-proxy's REJECT, so this cannot be left to iptables alone.
"""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Network
from pathlib import Path

from . import folders
from .addresses import RANGE, Addresses
from .command import Failure, run, succeeds
from .namespaces import Namespaces

SINK = "services0"
UPLINK = "uplink"
BRIDGE = "pods0"


def ensure_free(addresses: Addresses) -> None:
    """Refuse a machine that already routes the cluster range elsewhere."""
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"])):
        target = route.get("dst", "default")
        if target == "default" or route.get("type") in ("unreachable", "local", "broadcast"):
            continue
        device = route.get("dev", "")
        if not device.startswith("recell") and IPv4Network(target, strict=False).overlaps(RANGE):
            raise Failure(
                f"the machine routes {target} through {device}, and the local clusters need {RANGE}; "
                f"free that range (slot {addresses.slot} would use {addresses.share})"
            )


def ensure(addresses: Addresses, namespaces: Namespaces, init_pid: int) -> None:
    """Lay the link and the routes on both ends. The node's guard stands before its link comes up."""
    ensure_free(addresses)
    services, machine, node = addresses.services, addresses.machine, addresses.node
    guard = f"""
        # Pods and the machine asking for a Service that nothing answers for: refused at once. (DNAT comes before
        # routing, so only what kube-proxy left alone still carries a Service address here.)
        ip rule show | grep -q '^100:' || ip rule add pref 100 iif lo to {services} lookup main
        ip rule show | grep -q '^101:' || ip rule add pref 101 to {services} unreachable
        # The node's own programs need some route for kube-proxy to rewrite; this one leads nowhere.
        ip link show {SINK} >/dev/null 2>&1 || ip link add {SINK} type bridge
        ip link set {SINK} arp off up
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
    """
    namespaces.run(["sh", "-ec", guard])
    if not succeeds(namespaces.inside(["ip", "link", "show", UPLINK])):
        _delete_link(addresses)  # it leads into a node that died: the kernel takes a moment to remove what was in there
        run(["ip", "link", "add", addresses.link, "type", "veth", "peer", "name", UPLINK, "netns", str(init_pid)])
    joined = f"""
        ip addr replace {node}/30 dev {UPLINK}
        ip link set {UPLINK} up
        ip route replace {services} dev {SINK} src {node}
        ip route replace {RANGE} via {machine}
    """
    namespaces.run(["sh", "-ec", joined])
    run(["ip", "addr", "replace", f"{machine}/30", "dev", addresses.link])
    run(["ip", "link", "set", addresses.link, "up"])
    run(["ip", "route", "replace", "unreachable", str(RANGE), "metric", "4096"])
    for subnet in (addresses.pods, services):
        run(["ip", "route", "replace", str(subnet), "via", str(node)])


def remove(addresses: Addresses, *, last: bool) -> None:
    """Remove the machine's end of the link; with the last cluster also the range's guard."""
    _delete_link(addresses)
    if last:
        run(["ip", "route", "delete", "unreachable", str(RANGE), "metric", "4096"], check=False)


def _delete_link(addresses: Addresses) -> None:
    link = Path(f"/sys/class/net/{addresses.link}")
    if link.exists():
        try:
            run(["ip", "link", "delete", addresses.link])
        except Failure:  # its other end went with the node's network, and it with that, while we looked
            if link.exists():
                raise


KERNEL_SETTINGS = {"net/ipv4/ip_forward": "1"}


class KernelSettings:
    """The machine-wide kernel settings that a node changes, put back when the last cluster goes."""

    CHANGED_BY_KUBELET = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
    MODULES = ("overlay", "br_netfilter")

    def __init__(self) -> None:
        self._saved = folders.clusters() / "kernel-settings.json"

    def apply(self) -> None:
        """Save what there is (once), then set what a node needs."""
        names = (*KERNEL_SETTINGS, *self.CHANGED_BY_KUBELET)
        if not self._saved.exists():
            before = {name: Path("/proc/sys", name).read_text().strip() for name in names}
            folders.write(self._saved, json.dumps(before))
        if not Path("/proc/sys/net/bridge").exists() or "overlay" not in Path("/proc/filesystems").read_text():
            run(["modprobe", "-a", *self.MODULES])
        for name, value in KERNEL_SETTINGS.items():
            Path("/proc/sys", name).write_text(value)

    def restore(self) -> None:
        """Put back what was saved."""
        if self._saved.exists():
            for name, value in json.loads(self._saved.read_text()).items():
                Path("/proc/sys", name).write_text(value + os.linesep)
            self._saved.unlink()
