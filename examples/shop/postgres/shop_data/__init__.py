"""The data program of the shop's databases: backups, restores, migrations of customers, checks of integrity.

One entry, `shop-data`, does one operation on order of environment variables (see `request`) and leaves its result in
the container's termination message, as Recell's data Jobs do; `shop-data keep-backups` stays beside a database and
takes a base backup whenever one is due. It uses PostgreSQL's own programs, and Python's standard library alone.

Must not: know anything of routing. Who serves a customer is decided elsewhere.
"""
