"""What the commands have in common: options, errors in one line, output for people and for programs."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from provider.client import Client, Problem, Unreachable, local
from provider.settings import DEFAULT_CONFIG, Files, ProviderSettings, load_settings
from shared.errors import BellwetherError, Invalid
from shared.files import read_text
from shared.output import show_what_can_be_shown

Config = Annotated[Path, typer.Option("--config", help="The provider's configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
__all__ = [
    "DEFAULT_CONFIG",
    "AsJson",
    "Config",
    "daemon",
    "entry",
    "fail",
    "plain",
    "print_json",
    "read_secret",
    "table",
    "unanswered",
]


def application(help_: str) -> typer.Typer:
    """A command in our style: plain help, no completion, no tracebacks with values in them."""
    return typer.Typer(
        help=help_,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def entry(app: typer.Typer) -> Callable[[], None]:
    """A console script's `main`: every `BellwetherError` becomes one line on stderr and exit code 1."""

    def main() -> None:
        show_what_can_be_shown()
        try:
            app()
        except BellwetherError as error:
            print(f"error: {error.detail}", file=sys.stderr)  # noqa: T201
            sys.exit(1)
        except OSError as error:
            root = "; run it as root" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""
            print(f"error: {error}{root}", file=sys.stderr)  # noqa: T201
            sys.exit(1)
        except UnicodeError:  # files are read elsewhere; what is left is what the shell handed over
            print("error: what was given on the command line is not UTF-8", file=sys.stderr)  # noqa: T201
            sys.exit(1)

    return main


@contextmanager
def daemon(config: Path, *, otherwise: str = "") -> Iterator[tuple[ProviderSettings, Client]]:
    """The daemon on this host. Says plainly where it does not answer, and what else could be done."""
    settings = load_settings(config)
    client = local(settings, Files(config))
    try:
        yield settings, client
    except Unreachable as error:
        fail(unanswered(error) + otherwise)
    except Problem as error:
        fail(error.detail)
    finally:
        client.close()


def unanswered(error: Unreachable) -> str:
    """What is said where the daemon on this host does not answer, or not so that it can be trusted."""
    if _out_of_time(error):
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return (
            f"the certificate of the provider on this host is not valid at the time that this host's clock has, "
            f"{now} ({error.detail}). Is the clock wrong, set it right (`timedatectl`, chrony). Is it right, the "
            "certificate is renewed by itself as soon as this node reaches the primary"
        )
    return (
        f"the provider on this host does not answer ({error.detail}): is `provider run` running? See "
        "`systemctl status bellwether-provider`"
    )


def _out_of_time(error: Unreachable) -> bool:
    """Whether what answered has a certificate that is not valid yet, or not any more. OpenSSL's words."""
    return any(said in error.detail for said in ("certificate is not yet valid", "certificate has expired"))


def fail(message: str) -> None:
    """One line on stderr, exit code 1."""
    plain(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)


def plain(text: str = "", *, file: Any = None) -> None:
    """A line, shown at once also where stdout is a pipe."""
    print(text, file=file or sys.stdout, flush=True)


def print_json(value: object) -> None:
    plain(json.dumps(value, indent=2, ensure_ascii=False))


def table(rows: list[list[str]], *, indent: str = "  ") -> None:
    """Columns as wide as they must be."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        plain((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())


def read_secret(path: Path | None, environment: str, prompt: str, *, confirm: bool = False) -> str:
    """A secret from a file, the environment or a prompt: never from the command line, which `ps` shows.

    Raises `Invalid` where there is none."""
    if path is not None:
        return read_text(path).strip()
    if environment in os.environ:
        return os.environ[environment].strip()
    if not sys.stdin.isatty():
        raise Invalid(f"{prompt}: there is no terminal to ask on; give its file, or set {environment}")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm)).strip()
