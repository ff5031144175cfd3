"""A RabbitMQ that is no good as one of the cluster's is refused before anything is changed, with what to do; one that
holds what is not Bellwether's is neither taken over nor emptied."""

import json
import os
import pwd
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provider.broker.host.commands import CommandFailed
from provider.broker.host.commands import Place as RabbitPlace
from provider.broker.host.local import LocalBroker
from provider.cli.first import FirstHost
from provider.founding import Place
from provider.joining import host as joining
from provider.joining.host import Found, OwnRabbit
from provider.joining.patience import patiently
from provider.settings import ProviderSettings
from shared.errors import BellwetherError, Refused

URL = "https://10.0.0.2:8443"
SOUND = {
    "clock_ms": 0,
    "node": "rabbit@p2",
    "running": True,
    "version": "4.0.5",
    "plugins": [],
    "tls": True,
    "cluster": ["rabbit@p2"],
    "seen": ["rabbit@p2"],
    "vhosts": ["/", "bellwether"],
}
SHOP = {"vhosts": ["/", "bellwether", "shop"]}
Rabbit = Callable[..., LocalBroker]


@pytest.fixture
def rabbit(tmp_path: Path) -> Rabbit:
    """Makes a host's RabbitMQ that says of itself what is asked for; what else it is told to do stands in `done`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    ctl = programs / "rabbitmqctl"

    def make(script: str = "cat answer", **changes: Any) -> LocalBroker:
        ctl.write_text(f'#!/bin/sh\ncase "$*" in *eval*) {script} ;; *) echo "$*" >>done ;; esac\n')
        ctl.chmod(0o755)
        (tmp_path / "answer").write_text(json.dumps(SOUND | changes) + "\n")
        user = pwd.getpwuid(os.geteuid()).pw_name
        return LocalBroker(RabbitPlace(user=user, home=tmp_path, programs=programs, configuration=tmp_path / "etc"))

    return make


def look(broker: LocalBroker, url: str = URL) -> object:
    return OwnRabbit(broker, url, lambda _: None).look("https://127.0.0.1:1")


def test_a_sound_one_is_good(rabbit: Rabbit) -> None:
    assert look(rabbit()).address == "10.0.0.2"


@pytest.mark.parametrize(
    ("changes", "url", "said"),
    [
        ({"tls": False}, URL, "systemctl stop rabbitmq-server; broker-setup cluster; systemctl start rabbitmq-server"),
        (SHOP, URL, "holds virtual host 'shop'"),
        ({"node": "rabbit@P2"}, URL, "capitals or dots"),
        ({}, "https://[fd00::2]:8443", "over IPv4 only"),
    ],
    ids=["plain", "others'", "capitals", "IPv6"],
)
def test_one_that_is_no_good_is_refused_with_what_to_do(
    rabbit: Rabbit, tmp_path: Path, changes: dict[str, Any], url: str, said: str
) -> None:
    with pytest.raises(BellwetherError, match=said):
        look(rabbit(**changes), url)
    assert not (tmp_path / "done").exists()


def test_one_that_was_set_up_and_not_started_anew_is_named(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "BROKER_UP_S", 0.0)
    with pytest.raises(Refused, match="systemctl restart rabbitmq-server"):
        look(rabbit("echo 'TCP connection succeeded but Erlang distribution failed'; exit 69"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes a broker over")
def test_the_first_node_s_own_is_waited_for_while_it_starts(
    rabbit: Rabbit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "patiently", partial(patiently, pause_s=0.0))
    broker = rabbit("if [ -e asked ]; then cat answer; else touch asked; echo nodedown; exit 69; fi")
    broker.place.cookie.write_text("A" * 20)
    told: list[str] = []
    place = Place(tmp_path / "provider.toml", "p2", URL)
    found = joining.found_broker(place, wanted=True, note=told.append, broker=broker)
    assert found is not None
    assert (found[0].node, found[0].address, found[1]) == ("rabbit@p2", "10.0.0.2", "A" * 20)
    assert told == ["waiting: the RabbitMQ on this host does not run, or cannot be reached"]


class Systemd:
    """Implements `Service`: it cannot start anything."""

    def must_rest(self) -> None: ...

    def start(self) -> str:
        raise CommandFailed("`systemctl start bellwether-provider.service`: no", "")

    def wait_standby(self, settings: ProviderSettings) -> str:
        raise AssertionError


def test_an_init_that_fails_at_its_end_says_what_alone_is_left(tmp_path: Path) -> None:
    """Given again it would say that this host is a provider already."""
    host = FirstHost(Found(None, Systemd()), Place(tmp_path / "provider.toml", "p1", URL))
    with pytest.raises(Refused, match=r"p1 is made, but does not run yet: .*only: systemctl enable --now bellwether-p"):
        host.start()


def test_a_host_whose_administrator_s_password_went_with_another_node_is_told_how_it_is_made_anew(
    rabbit: Rabbit, tmp_path: Path
) -> None:
    own = OwnRabbit(rabbit(), URL, lambda _: None)
    host = FirstHost(Found(own, None, ("amqps://p1:5671",)), Place(tmp_path / "provider.toml", "p1", URL))
    with pytest.raises(Refused, match=r"broker-admin.password is not there.*broker-setup --set-password"):
        host.broker((), None, None, None)


@pytest.mark.parametrize(
    ("changes", "alone", "done"),
    [
        ({"khepri": False}, True, True),
        ({"khepri": False, "version": "3.10.8"}, True, False),
        ({"khepri": False}, False, False),
        ({"khepri": True}, True, False),
    ],
    ids=["alone", "too old", "with others", "done already"],
)
def test_one_that_is_alone_keeps_its_metadata_in_khepri_before_others_join_it(
    rabbit: Rabbit, tmp_path: Path, changes: dict[str, Any], alone: bool, done: bool
) -> None:
    """RabbitMQ 3.10 became 4.0 below a provider, and began with nothing: those that joined took Mnesia over."""
    broker = rabbit(**changes)
    broker.mend(alone=alone)
    file = tmp_path / "done"
    assert ("enable_feature_flag --opt-in khepri_db" in file.read_text() if file.exists() else False) is done
    assert broker.software == {"version": changes.get("version", "4.0.5"), "plugins": []}


def test_to_look_at_one_that_waits_for_others_changes_nothing(rabbit: Rabbit, tmp_path: Path) -> None:
    """It was started, for five minutes, and nothing was said meanwhile."""
    told = rabbit(running=False, cluster=[], seen=[]).look()
    assert (told.running, told.version) == (False, "4.0.5")
    assert not (tmp_path / "done").exists()


def test_one_that_holds_what_is_not_ours_is_not_emptied_when_its_node_was_removed(
    rabbit: Rabbit, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"holds virtual host 'shop', not Bellwether's.*provider broker leave"):
        rabbit(**SHOP).leave()
    assert not (tmp_path / "done").exists()


def test_nor_where_it_does_not_run(rabbit: Rabbit, tmp_path: Path) -> None:
    broker = rabbit("echo nodedown; exit 69")
    vhost = tmp_path / "mnesia" / broker.expected_node() / "msg_stores" / "vhosts" / "a"
    vhost.mkdir(parents=True)
    (vhost / ".vhost").write_text("shop")
    with pytest.raises(Refused, match="not Bellwether's"):
        broker.leave()
    assert vhost.exists()
