"""A provider without TLS, to see what TLS costs: `python -m tests.benchmarks.plain PROVIDER.TOML amqp://HOST:PORT`.

Neither the settings nor any command of the product leads here: the same daemon runs on an event loop that leaves TLS
out of every connection of the API, and speaks to a broker that has a port without it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from provider import starting
from provider.settings import Files, load_settings
from shared import logs


class PlainLoop(uvloop.Loop):
    async def connect_accepted_socket(self, factory: Callable[[], Any], sock: Any, **_tls: Any) -> Any:
        return await super().connect_accepted_socket(factory, sock)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, **_tls: Any) -> Any:
        return await super().create_connection(factory, host, port)


def main() -> None:
    config, endpoint = Path(sys.argv[1]), sys.argv[2]
    settings = load_settings(config)
    logs.configure(settings.log_level, node=settings.name)
    uvloop.new_event_loop = PlainLoop
    # As a copy, which is not checked: the settings themselves know amqps alone.
    plain = settings.model_copy(update={"broker": settings.broker.model_copy(update={"endpoints": (endpoint,)})})
    starting.run(plain, Files(config))


if __name__ == "__main__":
    main()
