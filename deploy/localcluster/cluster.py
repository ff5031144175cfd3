"""A whole cluster: one broker, providers, MariaDB servers and their agents. Up, down, start one, look."""

import http.client
import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from localcluster.agent import Agent, compile_agent
from localcluster.api import Api
from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.layout import Layout
from localcluster.mariadb import MariaDB
from localcluster.ports import is_free, kept_ports
from localcluster.process import Process, ProcessFailed, tail, wait_until
from localcluster.provider import Provider
from localcluster.records import Records
from localcluster.steps import Steps, Tell, quiet
from localcluster.users import kept_users
from shared.files import write_atomically

BROKER_USER = "bellwether"
HEALTHY_S = 60.0


class Member(Protocol):
    """One process of the cluster."""

    process: Process | None

    @property
    def log(self) -> Path: ...

    def launch(self) -> Process: ...

    def wait_ready(self) -> None: ...


class Cluster:
    """The cluster under `root`. One thread; make it while `records.exclusive` is held if it shall change anything.

    Members are called `broker`, `p1`…, `mariadb-db1`…, `db1`… (an agent is named as its instance is).
    """

    broker_class: type[Broker] = Broker

    def __init__(self, root: Path, *, providers: int = 3, databases: int = 3, tell: Tell = quiet) -> None:
        self.layout = Layout(root.absolute())
        self.users = kept_users(self.layout.users_file)
        self.layout.create(passable=self.users.own)
        self._tell = tell
        self._records = Records(self.layout.processes_file)
        nodes = [f"p{number}" for number in range(1, providers + 1)]
        names = [f"db{number}" for number in range(1, databases + 1)]
        brokers = ["broker", "broker-management", "broker-distribution", "broker-epmd"]
        self.ports = kept_ports(self.layout.ports_file, [*brokers, *nodes, *(f"mariadb-{name}" for name in names)])
        self.providers = {name: self._make_provider(name, broker_reads=name == nodes[0]) for name in nodes}
        self.broker = self._make_broker()
        self.servers = {name: self._make_server(name, number) for number, name in enumerate(names, start=1)}
        self.agents = {name: self._make_agent(name) for name in names}
        servers = {f"mariadb-{name}": server for name, server in self.servers.items()}
        self.members: Mapping[str, Member] = {"broker": self.broker, **servers, **self.providers, **self.agents}

    # ── what it is made of ───────────────────────────────────────────────────────────────────────────────────────────

    def _make_broker(self) -> Broker:
        """It presents the first provider's certificate; they are on one host."""
        directory = self.layout.provider(self.first.name).directory
        return self.broker_class(
            self.layout.broker,
            BrokerPorts(
                amqps=self.ports["broker"],
                management=self.ports["broker-management"],
                distribution=self.ports["broker-distribution"],
                epmd=self.ports["broker-epmd"],
            ),
            certificate=directory / "node.pem",
            key=directory / "node.key",
            ca=self.layout.ca,
            users=[BrokerUser(BROKER_USER, self.layout.broker_password)],
            process=self._records.get("broker"),
            owner=self.users.broker,
        )

    def _make_provider(self, name: str, *, broker_reads: bool) -> Provider:
        return Provider(
            name,
            self.layout.provider(name),
            self.ports[name],
            process=self._records.get(name),
            user=self.users.provider,
            reader=self.users.broker if broker_reads else None,
        )

    def _make_server(self, name: str, number: int) -> MariaDB:
        member = f"mariadb-{name}"
        directory, process = self.layout.mariadb(name), self._records.get(member)
        return MariaDB(
            directory,
            self.ports[member],
            server_id=number,
            process=process,
            owner=self.users.database,
            client=self.users.agent,
        )

    def _make_agent(self, name: str) -> Agent:
        return Agent(
            name,
            self.layout.agent(name),
            self.servers[name],
            self.agent_is_well,
            process=self._records.get(name),
            user=self.users.agent,
        )

    @property
    def first(self) -> Provider:
        """The provider that the cluster begins with."""
        return next(iter(self.providers.values()))

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def alive(self, name: str) -> bool:
        process = self.members[name].process
        return process is not None and process.alive

    def dead(self) -> list[str]:
        """The members that do not run."""
        return [name for name in self.members if not self.alive(name)]

    @property
    def complete(self) -> bool:
        """Whether `up` came to its end, and there was no `down` since."""
        return self.layout.cluster_file.exists()

    def api(self, name: str, *, timeout_s: float = 10.0) -> Api:
        """Provider `name`, as administrator."""
        token = self.layout.admin_token.read_text().strip()
        return Api(self.providers[name].url, ca=self.layout.ca, token=token, timeout_s=timeout_s)

    def primary(self) -> str | None:
        """The provider that says it is the primary, now."""
        ready = (name for name in self.providers if self.alive(name))
        return next((name for name in ready if self.api(name, timeout_s=2.0).is_up("/health/primary")), None)

    def ask(self, path: str) -> Any:
        """The JSON of `path` from the first provider that answers it with 200; None where there is none."""
        for name in self.providers:
            if self.alive(name):
                try:
                    answer = self.api(name, timeout_s=2.0).get(path)
                except (OSError, http.client.HTTPException):
                    continue
                if answer.status == http.client.OK:
                    return answer.json
        return None

    def agent_is_well(self, name: str, since: datetime) -> bool:
        """Whether the providers heard agent `name` after `since`, know it to be online and advised, its server up."""
        agent, instance = self.ask(f"/agents/{name}"), self.ask(f"/instances/{name}")
        if agent is None or instance is None:
            return False
        status = agent["status"]
        if status["last_seen"] is None or datetime.fromisoformat(status["last_seen"]) < since:
            return False
        return bool(status["state"] == "online" and status["advised"] and instance["status"]["state"] == "up")

    def take_ca(self) -> None:
        """Have `ca.pem` hold what the providers trust now: the authority may have been replaced since. The newest of
        their files counts; that of a node which is down may be older. Raises `OSError`."""
        held = [provider.ca for provider in self.providers.values() if provider.ca.exists()]
        if held:
            text = max(held, key=lambda file: file.stat().st_mtime_ns).read_text()
            if not self.layout.ca.exists() or self.layout.ca.read_text() != text:
                write_atomically(self.layout.ca, text)

    # ── up ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def up(self) -> None:
        """Start what does not run, make what is not there yet, wait until all is healthy. Raises `ProcessFailed`.

        What was started before a failure goes on running and is recorded: `down` ends it, `up` goes on from there.
        """
        self.layout.cluster_file.unlink(missing_ok=True)
        with Steps(self._tell) as steps:
            for name in self.servers:
                steps.begin(f"MariaDB for {name}", partial(self._run, f"mariadb-{name}"))
            if not all(agent.enrolled for agent in self.agents.values()):
                steps.begin("agents' bytecode", compile_agent)
            steps.run("certificates and keys", self._init)
            steps.run("broker", partial(self._run, "broker"))
            steps.run(f"provider {self.first.name}", partial(self._run, self.first.name))
            self._make_tokens(steps)
            rest = [name for name in self.providers if name != self.first.name]
            steps.together({f"provider {name}": partial(self._run_standby, name) for name in rest})
            steps.join()
            steps.together({f"agent {name}": partial(self._run_agent, name) for name in self.agents})
            steps.run("a primary that commits", self._wait_primary)
        self.write_cluster_file()

    def _init(self) -> None:
        """Each part only where it is not there yet: an interrupted `up` is gone on with."""
        password = self.layout.broker_password
        if not password.exists():
            write_atomically(password, secrets.token_urlsafe(32) + "\n")
        if not self.first.member:
            self.first.init(
                endpoint=self.broker.endpoint,
                management=self.broker.management,
                user=BROKER_USER,
                password_file=password,
                admin_token_file=self.layout.admin_token,
            )
        self.take_ca()
        token = self.layout.admin_token.read_text().strip()
        write_atomically(self.layout.curl_header, f"Authorization: Bearer {token}\n")

    def _make_tokens(self, steps: Steps) -> None:
        """A one-time token for each that has not joined or enrolled yet."""
        joining = {name: "node" for name, provider in self.providers.items() if not provider.member}
        enrolling = {name: "agent" for name, agent in self.agents.items() if not agent.enrolled}
        wanted = joining | enrolling
        if wanted:
            steps.run("one-time tokens", partial(self._create_tokens, wanted))

    def _create_tokens(self, wanted: Mapping[str, str]) -> None:
        with ThreadPoolExecutor() as pool:
            create = self.first.create_token
            for _ in pool.map(lambda name: create(wanted[name], self.layout.tokens / name), wanted):
                pass

    def _run_standby(self, name: str) -> None:
        provider, token = self.providers[name], self.layout.tokens / name
        if not provider.member:
            provider.join(self.first, token)
            token.unlink()
        self._run(name)

    def _run_agent(self, name: str) -> None:
        agent, token = self.agents[name], self.layout.tokens / name
        if not agent.enrolled:
            agent.enroll([provider.url for provider in self.providers.values()], token)
            token.unlink()
        self._run(name)

    def _run(self, name: str) -> None:
        """Start one member unless it runs, record it at once, wait until it is ready."""
        member = self.members[name]
        if not self.alive(name):
            port = self.ports.get(name)
            if port is not None and not is_free(port):
                raise ProcessFailed(
                    f"{name}: another program listens on its port, {port}; end that one, or use `clean`"
                )
            self._records.put(name, member.launch())
        member.wait_ready()

    def _wait_primary(self) -> None:
        wait_until(self.primary, timeout_s=HEALTHY_S, what="no provider is a primary that commits")

    def write_cluster_file(self) -> None:
        """What runs where, for tests and scripts."""
        nodes = [
            {"name": name, "url": node.url, "config": str(node.files.config), "pid": _pid(node), "log": str(node.log)}
            for name, node in self.providers.items()
        ]
        text = {
            "nodes": nodes,
            "agents": [self._agent_entry(agent) for agent in self.agents.values()],
            "brokers": [{"endpoint": self.broker.endpoint, "pid": _pid(self.broker)}],
            "ca": str(self.layout.ca),
            "admin_token": str(self.layout.admin_token),
        }
        write_atomically(self.layout.cluster_file, json.dumps(text, indent=2) + "\n")

    def _agent_entry(self, agent: Agent) -> dict[str, object]:
        server = agent.server
        where = {"host": "127.0.0.1", "port": server.port, "socket": str(server.socket), "pid": _pid(server)}
        return {
            "id": agent.name,
            "config": str(agent.files.config),
            "pid": _pid(agent),
            "log": str(agent.log),
            "instance": {"engine": "mariadb", **where},
        }

    # ── down, start one ──────────────────────────────────────────────────────────────────────────────────────────────

    def down(self, *, discard: bool = False) -> None:
        """End what was started, those that depend on others first. Data stays. `discard`: it is not needed any more, so
        that the broker need not take its time over it."""
        groups = [[*self.agents], [*self.providers], [f"mariadb-{name}" for name in self.servers], ["broker"]]
        with Steps(self._tell) as steps:
            for group in groups:
                end = self.kill if discard and group == ["broker"] else self.stop
                steps.together({f"{name} ended": partial(end, name) for name in group if self.alive(name)})
        self.layout.cluster_file.unlink(missing_ok=True)

    def start(self, name: str) -> None:
        """Bring back one member that was killed. Raises `ProcessFailed`."""
        with Steps(self._tell) as steps:
            steps.run(name, partial(self._run, name))
        if self.complete:
            self.write_cluster_file()

    def stop(self, name: str) -> None:
        """End one member as `down` does. Any thread."""
        process = self.members[name].process
        if process is not None:
            process.stop()
            self._records.forget(name)

    def kill(self, name: str) -> None:
        """`kill -9` one member; what is recorded of it stays."""
        process = self.members[name].process
        if process is not None:
            process.kill()

    def kill_all(self) -> None:
        """`kill -9` every member: the quickest end, for tests that need the data no more."""
        for name in self.members:
            self.kill(name)

    def failure_report(self, *, told: str = "") -> str:
        """The last lines of the log of each member that has ended by itself, save those that `told` has already."""
        ended = [(name, self.members[name].log) for name in self.dead() if self.members[name].process is not None]
        logs = [(name, log, tail(log)) for name, log in ended]
        return "\n".join(
            f"── {name} ended by itself; the end of {log}:\n{text}" for name, log, text in logs if text not in told
        )


def _pid(member: Member) -> int:
    if member.process is None:
        raise ProcessFailed("it was never started")
    return member.process.pid
