"""Runs the application under uvicorn, with the interpreter set up for short answers beside long loads."""

import gc
import sys

import torch
import uvicorn

from .app import create_app
from .parts import ServingParts

SWITCH_SECONDS = 0.0005
"""How long a loading thread may hold the interpreter while a request waits (Python's default: 5 ms)."""
_YOUNG_OBJECTS = 50_000


def server(parts: ServingParts, host: str, port: int, *, log_level: str = "warning") -> uvicorn.Server:
    """A uvicorn server over `parts`; `.run()` blocks until the server is told to end."""
    config = uvicorn.Config(
        create_app(parts),
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        log_level=log_level,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def tune_interpreter() -> None:
    """Process-wide settings for a serving process; a composition root calls it once, before `server`."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # One query is too small to share between cores, and the cores are wanted by other threads.
    torch.set_num_threads(1)
    # What is loaded so far stays; without this, full collections would walk through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)
