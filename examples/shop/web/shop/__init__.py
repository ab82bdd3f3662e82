"""The example shop: one cell's web app, with the cell's own PostgreSQL behind it.

Promises: an order whose id was answered is committed; every answer names the cell that gave it (header `X-Cell`);
`/integrity` compares the data with invariants that the cell's database keeps. It can be made to fail in several
ways from a second port (`/chaos`), so that recoveries can be watched and tested.

Must not: know anything of Recell, of routers or of other cells. It is what a user's own service would be.
"""
