"""The form of every answer: JSON, and the header that names the cell.

Promises: each answer of the process, errors included, carries `X-Cell`; an error's body is
`{"error": word, "message": text}`, and the message says what to do where the caller can do something.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from shop.database import DatabaseUnavailable, WritesStopped

CELL_HEADER = "X-Cell"
HOME_HEADER = "X-Customer-Home"
MOVES_HEADER = "X-Customer-Moves"

# A move of few customers takes seconds; whoever comes again too early is told so again.
RETRY_SECONDS = 1

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


def error(status: int, word: str, message: str) -> web.Response:
    """An answer that says what went wrong."""
    return web.json_response({"error": word, "message": message}, status=status)


@web.middleware
async def errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what handlers raise into answers; an unexpected fault is logged with its traceback."""
    try:
        return await handler(request)
    except web.HTTPException as refused:
        return error(refused.status, refused.reason, refused.text or refused.reason)
    except WritesStopped as stopped:
        answer = error(503, "WritesStopped", f"{stopped}; repeat the request, with the same Idempotency-Key")
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
        return answer
    except DatabaseUnavailable as fault:
        return error(503, "DatabaseUnavailable", str(fault))
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return error(500, "Unexpected", "unexpected fault; the log of the pod has it")


def name_the_cell(app: web.Application, cell: str) -> None:
    """Put the cell's name on each answer of `app`."""

    async def add_header(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers[CELL_HEADER] = cell

    app.on_response_prepare.append(add_header)
