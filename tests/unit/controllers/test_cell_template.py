"""The CellTemplate controller: a template that cannot work says so, once."""

from typing import Any

from recell.api import CellTemplate
from recell.controllers.cell_template import CellTemplateController
from tests.unit.controllers.server import Server

KEY = ("fleet", "shop-cell")
BACKEND = {"type": "Service", "service": {"name": "$(CELL)", "port": 80}}


def conditions(server: Server) -> dict[str, tuple[str, str, str, int | None]]:
    template = server.template(KEY)
    assert template is not None
    return {c.type: (c.status, c.reason, c.message, c.observed_generation) for c in template.status.conditions}


async def test_what_is_wrong_is_shown_until_it_is_mended() -> None:
    server = Server()
    store: Any = server
    controller = CellTemplateController(store.clock, store, store)
    server.add(CellTemplate, "shop-cell", {"cell": {"backend": BACKEND, "wieght": 1}})
    why = "CellTemplate shop-cell: spec.cell.wieght: there is no such field"
    await controller.reconcile(KEY)
    assert conditions(server) == {
        "Accepted": ("False", "UnfitTemplate", why, 1),
        "Stalled": ("True", "UnfitTemplate", why, 1),
    }
    server.change(CellTemplate, "shop-cell", {"spec": {"cell": {"wieght": None}}})
    await controller.reconcile(KEY)
    assert conditions(server) == {"Accepted": ("True", "Accepted", "", 2), "Stalled": ("False", "Accepted", "", 2)}


async def test_it_writes_only_what_changed_and_needs_no_template() -> None:
    server = Server()
    store: Any = server
    controller = CellTemplateController(store.clock, store, store)
    assert await controller.reconcile(KEY) is None
    server.add(CellTemplate, "shop-cell", {"cell": {"backend": BACKEND}})
    await controller.reconcile(KEY)
    assert server.writes == ["apply celltemplates/status/shop-cell"]
    await controller.reconcile(KEY)
    assert len(server.writes) == 1
