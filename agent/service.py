"""Starts the daemon in this process: settings, password, signals, memory."""

import gc
import os
import signal
from functools import partial
from pathlib import Path

from agent import brokerfile
from agent.credentials import read as read_credentials
from agent.daemon import Daemon
from agent.settings import AgentFiles, AgentSettings, load_settings
from shared import logs
from shared.files import check_private, locked
from shared.rabbitmq import RabbitLink

HEARTBEAT_S = 10
"""A broker that is silent for this long is left. Shorter would mistake a busy one for a dead one."""
CONNECT_TIMEOUT_S = 5.0


def serve(config: Path) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises `Invalid` where it cannot start as configured, `Refused` where it
    runs already."""
    files = AgentFiles(config)
    settings = load_settings(config)
    check_private(files.directory, [files.broker_password, files.credential, files.api_token, *_passwords(settings)])
    broker = brokerfile.read(files)
    held = read_credentials(files)
    logs.configure(settings.log_level, agent=settings.id)
    if os.geteuid() == 0:
        logs.log().warning("this runs as root, which nothing here needs: give it a user of its own, docs/INSTALL.md")

    make_link = partial(RabbitLink, name=settings.id, heartbeat_s=HEARTBEAT_S, connect_timeout_s=CONNECT_TIMEOUT_S)
    daemon = Daemon(settings, files, broker, held, make_link)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: daemon.stop())
    gc.collect()
    gc.freeze()  # what the imports left behind lives as long as the process: no need to look at it again
    with locked(files.lock, f"the agent {settings.id} runs already; see agent status --config {config}"):
        daemon.run()


def _passwords(settings: AgentSettings) -> list[Path]:
    return [one.password_file for one in settings.instances if one.password_file is not None]
