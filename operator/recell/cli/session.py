"""How a command runs: one connection, one exit code.

Promises: whatever goes wrong ends as one line on standard error and the documented exit code;
Ctrl-C says what goes on without us.
"""

import asyncio
import functools
import getpass
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from recell.cli import kubeconfig
from recell.cli.cluster import Cluster
from recell.cli.exits import CommandError, Exit
from recell.cli.screen import Screen
from recell.cli.target import Target, options
from recell.engine.errors import BadInput, RecellError
from recell.providers.kube.api import Api


@dataclass(frozen=True)
class Environment:
    """What the commands need of the world around them."""

    connect: Callable[[str | None, str | None], Awaitable[Api]] = Api.connect
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    screen: Callable[[], Screen] = Screen.standard
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    person: Callable[[], str] = getpass.getuser


@dataclass
class Session:
    """One command's run."""

    cluster: Cluster
    namespace: str
    screen: Screen
    environment: Environment
    named: str | None = None
    """The namespace, if it was said."""
    farewell: str = ""
    """What to say when a person presses Ctrl-C."""

    @property
    def now(self) -> datetime:
        return self.environment.now()

    def key(self, name: str) -> tuple[str, str]:
        """A name as people write it: NAME, or kind/NAME as kubectl prints it."""
        return (self.namespace, name.rpartition("/")[2])


def command(function: Callable[..., Awaitable[Exit]]) -> Callable[..., None]:
    """For a command: connects, runs it, ends with its code."""

    @functools.wraps(function)
    def outer(kubeconfig: str | None, context: str | None, namespace: str | None, **rest: Any) -> None:
        here = click.get_current_context()
        environment: Environment = here.obj or Environment()
        target = Target(kubeconfig, context, namespace).over(Target(**here.find_root().params))
        here.exit(_run(environment, target, function, rest))

    return options(outer)


def _run(
    environment: Environment, target: Target, function: Callable[..., Awaitable[Exit]], arguments: Mapping[str, Any]
) -> int:
    screen = environment.screen()
    sessions: list[Session] = []
    try:
        return asyncio.run(_connected(environment, target, screen, function, arguments, sessions))
    except CommandError as error:
        screen.note(f"error: {_one_line(str(error))}")
        return error.code
    except BadInput as error:
        screen.note(f"error: {_one_line(str(error))}")
        return Exit.USAGE
    except RecellError as error:
        screen.note(f"error: {_one_line(str(error))}")
        return Exit.CLUSTER
    except KeyboardInterrupt:
        screen.note("\n" + (sessions[0].farewell if sessions and sessions[0].farewell else "interrupted"))
        return Exit.INTERRUPTED


async def _connected(
    environment: Environment,
    target: Target,
    screen: Screen,
    function: Callable[..., Awaitable[Exit]],
    arguments: Mapping[str, Any],
    sessions: list[Session],
) -> Exit:
    if nothing := kubeconfig.absent(target.kubeconfig, environment.environ):
        raise CommandError(f"no kubeconfig at {nothing}: name one with --kubeconfig or $KUBECONFIG", Exit.CLUSTER)
    try:
        api = await environment.connect(kubeconfig.files(target.kubeconfig, environment.environ), target.context)
    except BadInput as error:
        raise CommandError(f"{error}; choose with --kubeconfig and --context", Exit.CLUSTER) from error
    try:
        namespace = target.namespace or kubeconfig.namespace(target.kubeconfig, target.context, environment.environ)
        session = Session(Cluster(api, environment.now), namespace, screen, environment, named=target.namespace)
        sessions.append(session)
        return await function(session, **arguments)
    finally:
        await api.close()


def _one_line(text: str) -> str:
    return " ".join(text.split())
