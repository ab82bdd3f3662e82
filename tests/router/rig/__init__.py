"""What the router's tests run on: an API of Placements, router pods, cells and load, all on loopback."""

from tests.router.rig.cells import Cells, HttpCell
from tests.router.rig.load import Answer, Load, ask
from tests.router.rig.opened import Opened
from tests.router.rig.placements import PlacementApi, placement, spread
from tests.router.rig.pod import RouterPod, eventually

__all__ = [
    "Answer",
    "Cells",
    "HttpCell",
    "Load",
    "Opened",
    "PlacementApi",
    "RouterPod",
    "ask",
    "eventually",
    "placement",
    "spread",
]
