"""The process: HTTP server, engine loops and signals as siblings in one task group, with one `stop`.

SIGTERM or SIGINT: stop accepting, let streams end, finish the batch in hand, exit 0 within two seconds even with open
streams. A defect in any part ends the others too and the exit code is 1, so that the process manager starts a new one;
everything that was accepted is in the database and goes on there.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
import uvicorn

from app.bootstrap import Services, build
from app.errors import ConfigError
from app.settings import Settings
from app.web.app import create_app
from app.web.connection import Connection

log = structlog.get_logger("app")

GRACE_S = 1.0
"""How long open requests may take to finish once the process is stopping."""

SWITCH_S = 0.0005
"""How long a thread (SQLite's writer, the log sink) may hold the interpreter while the event loop wants it."""
COLLECT_AFTER = (10_000, 20, 20)
"""New objects after which the interpreter looks for garbage that counting references does not find, and how often for older
ones: a batch makes thousands that are gone with it, and looking at them after every 700 costs a tenth of the processor."""

Sibling = Callable[[Services], Awaitable[None]]


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: signals belong to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, *siblings: Sibling) -> int:
    """Run until a signal or a defect; returns the exit code. `siblings` run beside the engine (the demo's traffic)."""
    services = await build(settings)
    if not await services.schema_is_current():
        await services.close()
        raise ConfigError("the database schema is not up to date; run: kora migrate")
    supervisor = services.supervisor
    server = _Server(
        uvicorn.Config(
            create_app(services),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            http=Connection,
            timeout_graceful_shutdown=GRACE_S,  # type: ignore[arg-type]  # seconds; a fraction works
            timeout_keep_alive=65,
            server_header=False,
            backlog=2048,
        )
    )
    keep_pauses_short()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop.set)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_serve_http(server, services))
            for engine_loop in services.loops:
                group.create_task(supervisor.run(engine_loop), name=engine_loop.name)
            group.create_task(services.hub.run(supervisor.stop), name="stream")
            extra = [group.create_task(_stoppable(sibling(services), supervisor.stop)) for sibling in siblings]
            await supervisor.stop.wait()
            log.info("stopping", defect=repr(supervisor.defect) if supervisor.defect else None)
            services.intake.close()
            services.hub.drain()
            server.should_exit = True
            for task in extra:
                task.cancel()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await services.close()
    return 1 if supervisor.defect else 0


def keep_pauses_short() -> None:
    """No request waits for a walk over what was loaded, or for a thread that does not let go (decision 0020)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_S)


async def _serve_http(server: _Server, services: Services) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn leaves this way when the port is taken
        services.supervisor.defect = ConfigError(f"the HTTP server could not start on {server.config.host}:{server.config.port}")
        log.exception("http_server_failed", exit_code=str(error))
    finally:
        services.supervisor.stop.set()


async def _stoppable(work: Awaitable[None], stop: asyncio.Event) -> None:
    """Run `work` until it ends or the process stops."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        task.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)


def run(settings: Settings, *siblings: Sibling) -> int:
    """`serve` on a fresh event loop."""
    factory: Any = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve(settings, *siblings))


def main() -> int:
    """Entry of `python -m app`."""
    try:
        return run(Settings.from_env(os.environ))
    except ConfigError as error:
        print(f"kora: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
