"""Logging: one line an event, structured fields, no secrets. The only module that configures loguru, and through which
what libraries log comes out (warnings and worse).

2026-11-21T03:00:00.123Z INFO  promoted epoch=4 revision=812 node=p2
"""

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Logger, Record

_TOKEN = re.compile(r"\bbw\.[a-z]+\.[^\s\"',;]+")

__all__ = ["configure", "log"]


def log(**fields: Any) -> "Logger":
    """A logger whose next line carries `fields`: `log(epoch=4).info("promoted")`."""
    return logger.bind(**fields)


def _line(record: "Record") -> str:
    fields = " ".join(f"{key}={_value(value)}" for key, value in record["extra"].items())
    # loguru formats the returned template once more: braces in our text must survive that, hence extra_text.
    record["extra"]["_text"] = fields
    return "{time:YYYY-MM-DDTHH:mm:ss.SSS!UTC}Z {level: <7} {message} {extra[_text]}\n{exception}"


def _value(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "\n=') else text


class _Forward(logging.Handler):
    """Takes what libraries say through Python's own logging to the same place, without what looks like a token."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") else "INFO"
        text = _TOKEN.sub("bw.…", record.getMessage())
        logger.bind(library=record.name).opt(exception=record.exc_info).log(level, text)


def configure(level: str = "INFO", **fields: Any) -> None:
    """Send everything at `level` and above to stderr; `fields` (the node's or agent's name) go on every line."""
    logger.remove()
    logger.configure(extra=fields)
    # diagnose=False: a traceback must never print the value of a variable, it may be a password.
    logger.add(sys.stderr, level=level, format=_line, diagnose=False, backtrace=False, colorize=False)
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # each failed attempt in four lines; a link says it in one
