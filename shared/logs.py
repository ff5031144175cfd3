"""Logging: one line an event, structured fields, no secrets. The only module that configures loguru, and through which
what libraries log comes out (warnings and worse). Of what others made up, nothing can end a line; a traceback is a
field, `exception`, whose line breaks are written as \\n.

2026-11-21T03:00:00.123Z INFO  promoted epoch=4 revision=812 node=p2
"""

import json
import logging
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Logger, Record

_TOKEN = re.compile(r"\bbw\.[a-z]+\.[^\s\"',;]+")

VALUE_MAX, EXCEPTION_MAX = 2_000, 20_000
"""Characters of a message or a field, of a traceback. What is longer is cut off."""

__all__ = ["configure", "log"]


def log(**fields: Any) -> "Logger":
    """A logger whose next line carries `fields`: `log(epoch=4).info("promoted")`."""
    return logger.bind(**fields)


def _line(record: "Record") -> str:
    fields = [f"{key}={_value(value)}" for key, value in record["extra"].items()]
    thrown = record["exception"]
    if thrown is not None and thrown.value is not None:
        told = "".join(traceback.format_exception(thrown.value))
        fields.append(f"exception={_value(told, most=EXCEPTION_MAX)}")
    # loguru formats the returned template once more: braces in our text must survive that, hence extra.
    record["extra"]["_text"] = " ".join([_visible(_short(record["message"], VALUE_MAX)), *fields])
    return "{time:YYYY-MM-DDTHH:mm:ss.SSS!UTC}Z {level: <7} {extra[_text]}\n"


def _value(value: Any, most: int = VALUE_MAX) -> str:
    text = _short(str(value), most)
    if text and text.isprintable() and not any(c in text for c in ' "='):
        return text
    return _visible(json.dumps(text, ensure_ascii=False))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _visible(text: str) -> str:
    """Nothing in it ends a line, moves a cursor or turns the direction of writing: all that is no sign and no space is
    written as JSON does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


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
