"""How commands end where something is the matter with whoever reads them, or with the host: with a plain sentence."""

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from provider.cli.console import daemon
from provider.cli.promote import Interrupted, interruptible
from provider.cli.rehearsing import Rehearsal
from provider.settings import ApiSettings, BrokerSettings, Files, ProviderSettings, to_toml
from shared.errors import Unavailable
from tests.support.answering import AUTHORITY, AUTHORITY_PEM, answering

SAYS = """
import typer
from provider.cli.console import entry, plain
from provider.cli.promote import tell
app = typer.Typer()
@app.command()
def say():
    tell(lambda: plain("p1 \u2192 p2"))
    tell(lambda: plain("to the end"))
    raise typer.Exit(7)
entry(app)()
"""


def said_into(file: Any, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", SAYS],
        stdout=file,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=60,
    )


def test_what_a_terminal_has_no_character_for_is_no_failure() -> None:
    """A rehearsal ended at its first arrow, with `what was given on the command line is not UTF-8`."""
    said = said_into(subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (said.returncode, said.stdout, said.stderr) == (7, "p1 \\u2192 p2\nto the end\n", "")


def test_nor_is_a_file_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        said = said_into(full)
    assert (said.returncode, said.stderr) == (7, "")


def raised(number: signal.Signals) -> str | None:
    """What comes of a signal."""
    try:
        os.kill(os.getpid(), number)
    except Interrupted as interrupted:
        return str(interrupted)
    return None


def test_the_first_signal_interrupts_and_no_other_until_all_is_told() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        assert raised(signal.SIGHUP) == "SIGHUP"
        assert raised(signal.SIGINT) is None
    assert signal.getsignal(signal.SIGINT) is before


def test_who_was_told_to_ignore_a_lost_terminal_goes_on() -> None:
    """`nohup failover …` ended all the same when its terminal went."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            assert raised(signal.SIGHUP) is None
            assert raised(signal.SIGTERM) == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Impatient:
    """A node that answers nothing; while the rehearsal tidies up there, somebody presses Ctrl-C."""

    def get(self, path: str, **_: str) -> dict[str, Any]:
        if path == "/cluster":
            raise Unavailable("it does not answer")
        os.kill(os.getpid(), signal.SIGINT)
        return {"items": []}


def test_a_rehearsal_that_tidies_up_is_not_interrupted() -> None:
    """A traceback was all that was said, and not who is primary."""
    rehearsal = Rehearsal("p2", Impatient(), lambda _, __: None, print, 1.0)  # type: ignore[arg-type, return-value]
    with interruptible():
        outcome = rehearsal.perform()
    assert outcome.trouble == "it does not answer"


def test_a_certificate_that_this_host_s_clock_takes_for_expired_is_not_a_daemon_that_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path / "provider.toml")
    files.node_token.write_text("bw.node.p2." + "0" * 64)
    files.ca.write_text(AUTHORITY_PEM)
    own = AUTHORITY.issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(files.certificate)
    own.private_key_pem.write_to_path(files.key)
    over = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with answering(lambda _: (200, "{}"), not_after=over) as url:
        settings = ProviderSettings(
            name="p2",
            url=url,
            data_dir=tmp_path,
            store_url="sqlite:///state.db",
            broker=BrokerSettings(endpoints=("amqps://127.0.0.1:1",), username="node.p2"),
            api=ApiSettings(listen=url.removeprefix("https://")),
        )
        files.config.write_text(to_toml(settings))
        with pytest.raises(typer.Exit), daemon(files.config, otherwise="; or elsewhere") as (_, client):
            client.get("/cluster")
    err = capsys.readouterr().err
    assert f"that this host's clock has, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}" in err
    assert "timedatectl" in err
    assert err.endswith("; or elsewhere\n")
    assert "provider run" not in err
