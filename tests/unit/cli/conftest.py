"""The command line on a fake API server, at a fixed moment, on a pipe or on a terminal of 80 columns."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from recell.cli.main import cli
from recell.cli.screen import Screen
from recell.cli.session import Environment
from tests.unit.cli.fake_api import FakeApi
from tests.unit.cli.objects import NOW, Object


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class Shell:
    """`shell("status", "-A")` runs a command; time passes only while it sleeps."""

    api: FakeApi
    now: datetime = NOW
    answers: list[str] | None = None
    """What the person answers; None: nobody is there."""
    on_sleep: list[Callable[[FakeApi], None]] = field(default_factory=list)
    """What happens in the cluster, one entry for each sleep."""
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        answers = self.answers

        async def connect(kubeconfig: str | None, context: str | None) -> Any:
            return self.api

        async def sleep(seconds: float) -> None:
            self.now += timedelta(seconds=seconds)
            if self.on_sleep:
                self.on_sleep.pop(0)(self.api)

        environment = Environment(
            connect=connect,
            now=lambda: self.now,
            sleep=sleep,
            screen=lambda: Screen(
                out, err, self.environ, ask=(lambda: answers.pop(0)) if answers is not None else None
            ),
            environ={"KUBERNETES_SERVICE_HOST": "x", **self.environ},
            person=lambda: "Alice Ruiz",
        )
        done = CliRunner().invoke(cli, ["-n", "shop", *arguments], obj=environment)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, out.getvalue(), err.getvalue() + done.output)


@pytest.fixture
def shell() -> Callable[..., Shell]:
    def make(objects: list[Object], **options: Any) -> Shell:
        metrics = options.pop("metrics", None)
        return Shell(FakeApi(objects, metrics), **options)

    return make
