"""Runs the application under uvicorn, with the interpreter set up for short answers beside long loads."""

import gc
import sys

import torch
import uvicorn

from .app import create_app
from .draining import DrainingServer, LastAnswers
from .limited_http import LimitedHttpProtocol
from .parts import ServingParts

SWITCH_SECONDS = 0.0005
"""How long a loading thread may hold the interpreter while a request waits (Python's default: 5 ms)."""
FINISH_SECONDS = 10
"""How long a server that has closed its door may take for what has come."""
KEEP_ALIVE_SECONDS = 75
"""An idle connection is kept longer than by balancers (nginx, ALB: 60 s): the caller is to close it."""
_YOUNG_OBJECTS = 50_000


def server(
    parts: ServingParts, host: str, port: int, *, log_level: str = "warning", drain_seconds: float = 0.0
) -> uvicorn.Server:
    """A uvicorn server over `parts`; `.run()` blocks until the server is told to end.

    After that it answers on for `drain_seconds`, not ready any more (see `DrainingServer`).
    """
    config = uvicorn.Config(
        LastAnswers(create_app(parts), parts.draining),
        host=host,
        port=port,
        loop="uvloop",
        http=LimitedHttpProtocol,
        access_log=False,
        server_header=False,
        log_level=log_level,
        timeout_graceful_shutdown=FINISH_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    return DrainingServer(config, parts.draining, drain_seconds, parts.clock.seconds)


def tune_interpreter() -> None:
    """Process-wide settings for a serving process; a composition root calls it once, before `server`."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # One query is too small to share between cores, and the cores are wanted by other threads.
    torch.set_num_threads(1)
    # What is loaded so far stays; without this, full collections would walk through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)
