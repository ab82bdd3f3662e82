"""Which addresses and names a cluster gets, from its slot alone.

Sixteen clusters fit into one range; pods, Services and the link to the machine are parts of the slot's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

RANGE = IPv4Network("10.231.0.0/16")
SLOTS = range(16)


@dataclass(frozen=True)
class Addresses:
    """The addresses of the cluster in `slot`."""

    slot: int

    @property
    def share(self) -> IPv4Network:
        """All of the slot's addresses."""
        return list(RANGE.subnets(new_prefix=20))[self.slot]

    @property
    def pods(self) -> IPv4Network:
        """Pod addresses."""
        return self._parts[0]

    @property
    def services(self) -> IPv4Network:
        """Service addresses (ClusterIPs)."""
        return self._parts[1]

    @property
    def machine(self) -> IPv4Address:
        """The machine's end of its link to the node: pods reach programs on the machine here."""
        return self._link[1]

    @property
    def node(self) -> IPv4Address:
        """The node's address: API server, kubelet and NodePorts."""
        return self._link[2]

    @property
    def kubernetes_service(self) -> IPv4Address:
        """The ClusterIP of Service default/kubernetes."""
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        """The ClusterIP of Service kube-system/kube-dns."""
        return self.services[10]

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.node}:6443"

    @property
    def link(self) -> str:
        """The machine's network interface to the node."""
        return f"recell{self.slot}"

    @property
    def _link(self) -> IPv4Network:
        return IPv4Network(f"{self._parts[2].network_address}/30")

    @property
    def _parts(self) -> list[IPv4Network]:
        return list(self.share.subnets(new_prefix=22))
