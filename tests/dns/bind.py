"""Two BIND name servers of one zone: a primary that takes dynamic updates, and a secondary that follows it."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.asyncquery
import dns.name
import dns.rcode
import dns.update
import pytest

from tests.fakes.ports import free_port

ZONE = "example.test"
UP_WITHIN = 60.0

_COMMON = """
options {{
    directory "{folder}"; pid-file none; session-keyfile "{folder}/session.key"; dump-file "{folder}/dump";
    listen-on port {port} {{ 127.0.0.1; {address}; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; minimal-responses yes; notify explicit; notify-delay 0;
}};
controls {{ }};
"""
_PRIMARY = """
zone "{zone}" {{
    type primary; file "{folder}/zone"; allow-update {{ 127.0.0.1; }}; allow-transfer {{ 127.0.0.1; }};
    also-notify {{ 127.0.0.1 port {other}; }};
}};
"""
_SECONDARY = """
zone "{zone}" {{
    type secondary; file "{folder}/zone"; primaries {{ 127.0.0.1 port {other}; }}; allow-notify {{ 127.0.0.1; }};
}};
"""
_ZONE = """$TTL 60
@ IN SOA ns1 hostmaster 1 5 1 3600 1
@ IN NS ns1
@ IN NS ns2
ns1 IN A 127.0.0.1
ns2 IN A 127.0.0.1
"""


@dataclass
class Bind:
    """One process."""

    port: int
    process: subprocess.Popen[bytes]

    async def put(self, name: str, record_type: str, *targets: str, ttl: int) -> None:
        """A dynamic update (RFC 2136), as ExternalDNS' provider of that name makes it; for the primary."""
        update = dns.update.UpdateMessage(ZONE)
        relative = dns.name.from_text(name).relativize(dns.name.from_text(ZONE))
        update.delete(relative, record_type)
        for target in targets:
            update.add(relative, ttl, record_type, target)
        answer = await dns.asyncquery.tcp(update, "127.0.0.1", port=self.port, timeout=60)
        assert answer.rcode() == dns.rcode.NOERROR, answer

    def freeze(self) -> None:
        """It is there, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def servers(folder: Path, address: str = "none") -> Iterator[tuple[Bind, Bind]]:
    """Primary and secondary, serving the zone; at this address of the machine too."""
    program = shutil.which("named", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.fail("BIND is not installed: `hack/packages` brings it")
    ports = (free_port(), free_port())
    made: list[Bind] = []
    try:
        for role, port, other in ((_PRIMARY, *ports), (_SECONDARY, *reversed(ports))):
            place = folder / str(port)
            place.mkdir()
            if role is _PRIMARY:
                (place / "zone").write_text(_ZONE)
            settings = (_COMMON + role).format(folder=place, port=port, other=other, zone=ZONE, address=address)
            (place / "named.conf").write_text(settings)
            command = [program, "-g", "-n", "1", "-c", str(place / "named.conf")]
            with (place / "log").open("wb") as log:
                made.append(Bind(port, subprocess.Popen(command, stderr=log)))
            # The primary first: a secondary that finds none tries again after a minute only.
            _wait(made[-1], place / "log")
        yield made[0], made[1]
    finally:
        for bind in made:
            bind.thaw()
            bind.process.terminate()
            bind.process.wait(timeout=60)


def _wait(bind: Bind, log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", bind.port), timeout=1):
            return
        time.sleep(0.1)
    pytest.fail(f"named does not listen: {log.read_text()[-2000:]}")
