"""What the controllers get to work with, put together by the runtime: the home cluster, and the ways into others.

A value without behaviour. Everything in it is open and warm on a standby too; only the leader may
write, which `api` enforces.
"""

from dataclasses import dataclass
from typing import Protocol

from recell.api import Resource
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api
from recell.providers.kube.by_cluster import CellWorkloads
from recell.providers.kube.clusters import Clusters
from recell.providers.kube.events import Recorder
from recell.providers.kube.leadership import Leadership
from recell.providers.kube.store import KubeStore
from recell.providers.probing import Prober


class Enqueue(Protocol):
    def __call__(self, kind: type[Resource], key: Key, after: float = 0.0) -> None:
        """Have the object's controller look at it in so many seconds; cheap, from the event loop, at any time."""
        ...


class Reports(Protocol):
    """Figures about runs, for the metrics endpoint."""

    def run_ended(self, strategy: str, result: str) -> None:
        """A run reached one of its ends."""
        ...

    def acted(self, seconds: float) -> None:
        """The first effect of a run took place so many seconds after the failure was known."""
        ...


@dataclass(frozen=True)
class Platform:
    clock: Clock
    api: Api
    """Fenced: reads always, writes only while this process leads."""
    store: KubeStore
    clusters: Clusters
    """Where cells have their workloads."""
    workloads: CellWorkloads
    prober: Prober
    recorder: Recorder
    leadership: Leadership
    reports: Reports
    identity: str
    """Of this process: the pod's name."""
    namespace: str
    """Where the operator runs."""
    fleet_namespaces: tuple[str, ...]
    """Where Routers may be; ("",) is everywhere."""
    router_image: str
    """For Routers that name none."""
