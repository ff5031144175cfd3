"""Runs on a provider's host: looks whether the host has the address, and if so, whether the node there accepts a write.

    python3 sampler.py ADDRESS URL CA TOKEN_FILE

Prints a line for each time: when it began, when it ended (Unix seconds), and the write's status; null where the address
was not here at the beginning or not at the end. Sockets can be bound to addresses that the host has, and to no others.
"""

import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

PAUSE_S = 0.05
WRITE_S = 5.0


def here(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


class Writer:
    """Writes over one connection, as long as it lasts."""

    def __init__(self, url: str, ca: str, token: str) -> None:
        where = urlsplit(url)
        self._http = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=WRITE_S, context=ssl.create_default_context(cafile=ca)
        )
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._count = 0

    def write(self) -> int:
        """The answer's status; 0 where there was none."""
        self._count += 1
        body = json.dumps({"value": self._count})
        try:
            self._http.request("PUT", f"/api/v1/settings/user.sampled.{self._http.host}", body, self._headers)
            answer = self._http.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            return 0
        return answer.status


def main(address: str, url: str, ca: str, token_file: str) -> None:
    writer = Writer(url, ca, Path(token_file).read_text(encoding="ascii").strip())
    while True:
        began, status = time.time(), None
        if here(address):
            said = writer.write()
            status = said if here(address) else None
        print(json.dumps([round(began, 4), round(time.time(), 4), status]), flush=True)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
