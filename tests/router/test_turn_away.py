"""What answers in place of a Gateway's cells, with a real HAProxy: all are told why not and when to come again."""

import asyncio
import subprocess

import pytest

from recell.providers.routing.gateway.turn_away import TurnedAway
from tests.router.rig import ask
from tests.router.rig.pod import ROUTER
from tests.router.rig.turn_away import TurnAwayPod

SENTENCES = {
    TurnedAway.SHED: b"shed: there is more to do than the service can bear, and other requests come first;"
    b" try again after Retry-After seconds\n",
    TurnedAway.CIRCUIT_OPEN: b"circuit-open\n",
}


@pytest.mark.parametrize("reason", TurnedAway)
async def test_every_request_is_told_why_not_and_when_to_come_again(reason: TurnedAway) -> None:
    async with TurnAwayPod() as pod:
        port = pod.ports[reason]
        waits = set()
        for answer in await asyncio.gather(*(ask(port) for _ in range(60))):
            assert (answer.status, answer.reason) == (503, reason)
            assert answer.body == SENTENCES[reason]
            assert answer.headers["x-router"] == pod.name
            waits.add(int(answer.headers["retry-after"]))
        assert min(waits) >= 5
        assert max(waits) <= 14
        assert len(waits) > 5, "spread, or they all come back at once"
        posted = await ask(port, ("Content-Length", b"0"), method="POST", path="/checkout?x=1", host=None)
        assert posted.status in (400, 503)


async def test_it_is_ready_by_itself() -> None:
    async with TurnAwayPod() as pod:
        for path, status in (("/ready", 200), ("/healthz", 200), ("/", 404)):
            assert (await ask(pod.admin_port, path=path)).status == status
        assert b"haproxy_" in (await ask(pod.admin_port, path="/metrics")).body


def test_its_sentence_is_the_built_in_routers() -> None:
    own, routers = ((ROUTER / name).read_text() for name in ("turn-away.cfg", "haproxy.cfg"))
    sentence = SENTENCES[TurnedAway.SHED].decode().replace("\n", "\\n")
    assert sentence in own
    assert sentence in routers


def test_haproxy_has_nothing_to_remark() -> None:
    command = ["haproxy", "-c", "-f", str(ROUTER / "turn-away.cfg")]
    told = subprocess.run(command, env={"PATH": "/usr/sbin:/usr/bin", "POD_NAME": "x"}, check=True, capture_output=True)
    assert b"WARNING" not in told.stdout + told.stderr
