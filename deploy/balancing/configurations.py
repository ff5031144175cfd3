"""The configurations of HAProxy and of keepalived, as text."""

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_interface
from pathlib import Path

from balancing.options import HAProxy, Node, Options, Wrong

HERE = Path(__file__).resolve().parent
HAPROXY_TEMPLATE = HERE.parent / "haproxy" / "haproxy.cfg.in"
KEEPALIVED_TEMPLATE = HERE.parent / "keepalived" / "keepalived.conf.in"

# ── HAProxy ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_PROBLEM = '{"type":"about:blank","title":"%s","status":%d,"detail":"%s","code":"%s","retryable":true}'
_NO_NODE = "the proxy reaches no node that is ready; nothing was done"
_UNKNOWN = (
    "the node that was asked did not answer; what was asked may have been done: ask again with the same Idempotency-Key"
)
_ERRORS = (
    (502, "outcome_unknown", _UNKNOWN),
    (503, "unavailable", _NO_NODE),
    (504, "outcome_unknown", _UNKNOWN),
)
_TCP_DEFAULTS = [
    "option tcplog",
    "timeout server 90s",
    "# What is still open to a node that is down is closed: its clients need not wait for their own deadlines.",
    "default-server observe layer4 error-limit 1 on-error fastinter on-marked-down shutdown-sessions",
]
_HTTP_DEFAULTS = [
    "option httplog",
    "timeout http-request 10s",
    "timeout http-keep-alive 75s",
    "# Nodes answer within 15 s, save who says that it can wait, and say something as often on a stream of events.",
    "timeout server 20s",
    "# What was not sent is sent again, to another node. What was sent and not answered may have been done: again only",
    "# what changes nothing, and what has a key by which the nodes know it again (in the backends).",
    "retry-on conn-failure empty-response junk-response response-timeout",
    "# Only a request that is here whole can be sent again: one that fits into a buffer (16 KiB) is not begun before.",
    "option http-buffer-request",
    "default-server observe layer4 error-limit 2 on-error mark-down",
]
_HTTP_BACKEND = [
    "http-request disable-l7-retry if !{ method GET HEAD } !{ req.hdr(Idempotency-Key) -m found }",
    "http-request set-timeout server 65s if { req.hdr(Bellwether-Wait) -m found }",
]
_HTTP_FRONTEND = [
    "# Believed by nodes whose api.trusted_proxies has this host's address (docs/LIMITS.md).",
    "http-request set-header X-Forwarded-For %[src]",
]
_LEADER_FRONTEND = """# The primary alone; while there is none, any ready node: it waits for one.
frontend bellwether-leader
    bind {bind}
{frontend}
    default_backend leader
"""
_LEADER_BACKEND = """backend leader
    option httpchk GET /api/leader-check
    http-check expect ! status 404 error-status L7OKC
    http-check expect status 200
    option allbackups
{backend}
{servers}
{others}
"""


def haproxy(options: Options, now: str = "") -> str:
    """HAProxy's configuration; `now` is the one that it has. Raises `Wrong`."""
    wanted = options.haproxy or HAProxy()
    ends = wanted.certificate is not None
    bind = f" ssl crt {wanted.certificate} alpn http/1.1" if ends else ""
    speaks = "ssl alpn http/1.1" if ends else "check-ssl"
    tls = f"{speaks} verify required ca-file {wanted.ca} verifyhost"
    places = {node.name: _place(node, now) for node in options.nodes}
    servers = _lines(f"server {node.name} {places[node.name]} check {tls} {node.name}" for node in options.nodes)
    frontend, backend = (_lines(_HTTP_FRONTEND), _lines(_HTTP_BACKEND)) if ends else ("", "")
    filled = {
        "MODE": "http" if ends else "tcp",
        "GLOBAL": _lines(_global(wanted)),
        "DEFAULTS": _lines([*_HTTP_DEFAULTS, *_errors()] if ends else _TCP_DEFAULTS),
        "LISTEN": wanted.listen + bind,
        "FRONTEND": frontend,
        "BACKEND": backend,
        "SERVERS": servers,
        "STATS": wanted.stats,
        "LEADER_FRONTEND": "",
        "LEADER_BACKEND": "",
    }
    if wanted.leader is not None:
        others = _lines(
            f"server {node.name}-ready {places[node.name]} backup track ready/{node.name}"
            + (f" {tls} {node.name}" if ends else "")
            for node in options.nodes
        )
        parts = {"bind": wanted.leader + bind, "frontend": frontend, "backend": backend}
        parts |= {"servers": servers, "others": others}
        filled["LEADER_FRONTEND"] = _whole(_LEADER_FRONTEND.format(**parts))
        filled["LEADER_BACKEND"] = _whole(_LEADER_BACKEND.format(**parts))
    return _fill(HAPROXY_TEMPLATE, filled)


def _place(node: Node, now: str) -> str:
    """Where HAProxy finds a node: its address in numbers, the one that it uses (`now`) as long as that is among them,
    or no name server answers. HAProxy itself would look a name up once, when it starts; its own resolvers know nothing
    of /etc/hosts, and take a node away that DNS does not have."""
    line = re.search(rf"^ *server {re.escape(node.name)} (\S+):{node.port} ", now, re.MULTILINE)
    used = line[1].strip("[]") if line is not None else ""
    numbers = node.numbers() or [used or node.host]
    return Node(node.name, used if used in numbers else numbers[0], node.port).place


def _global(wanted: HAProxy) -> list[str]:
    lines = []
    if wanted.user:
        lines += [f"user {wanted.user}", f"group {wanted.user}", "chroot /var/lib/haproxy"]
    if wanted.socket:
        lines.append(f"stats socket {wanted.socket} mode 660 level admin")
    return lines


def _errors() -> list[str]:
    """What the proxy itself has to say, in the form of all other answers."""
    lines = ["# What HAProxy has to say itself, in the form in which nodes say it."]
    for status, code, detail in _ERRORS:
        text = _PROBLEM % (code.replace("_", " "), status, detail, code)
        lines.append(
            f"http-error status {status} content-type application/problem+json string '{text}' hdr Retry-After 1"
        )
    return lines


# ── keepalived ───────────────────────────────────────────────────────────────────────────────────────────────────────


def keepalived(options: Options) -> str:
    """keepalived's configuration for this host. Raises `Wrong`."""
    wanted = options.keepalived
    if wanted is None:
        raise Wrong("there is no [keepalived] with address and interface")
    own = next((node for node in options.nodes if node.name == options.own), None)
    if own is None:
        raise Wrong(f"own: {options.own!r} is none of {', '.join(node.name for node in options.nodes)}")
    try:
        address = ip_interface(wanted.address)
    except ValueError:
        raise Wrong(f"address: {wanted.address!r} is not address/prefix") from None
    if not 1 <= wanted.router <= 255:
        raise Wrong(f"router: {wanted.router} is not from 1 to 255")
    others = [node.address(address.version) for node in options.nodes if node is not own]
    peers, source = [], None
    if others:
        source = own.own_address(address.version, others[0])
        peers = [f"unicast_src_ip {source}", "unicast_peer {", *(f"    {one}" for one in others), "}"]
    return _fill(
        KEEPALIVED_TEMPLATE,
        {
            "NAME": own.name,
            "USER": wanted.user,
            "CA": options.ca,
            "RESOLVED": _resolved(own, source),
            "URL": own.url,
            "INTERFACE": wanted.interface,
            "ROUTER": str(wanted.router),
            "PEERS": _lines(peers),
            "ADDRESS": str(address),
        },
    )


def _resolved(own: Node, source: str | None) -> str:
    """For curl: the node's name in numbers, `source` first. A look must not need a name server: who cannot be asked has
    no address."""
    numbers = sorted({number for number in own.numbers() if "%" not in number} - {source})
    if own.host in (source, *numbers) or not (source or numbers):
        return ""
    told = [f"[{number}]" if ":" in number else number for number in ([source] if source else []) + numbers]
    return f"--resolve {own.host}:{own.port}:{','.join(told)} "


def _whole(text: str) -> str:
    """Without the lines that became empty; one is left at its end."""
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _fill(template: Path, filled: Mapping[str, str]) -> str:
    """The template with what stands between @ signs replaced; a line that becomes empty goes."""
    out: list[str] = []
    for line in template.read_text(encoding="utf-8").splitlines():
        made = line
        for name, text in filled.items():
            made = made.replace(f"@{name}@", text)
        if made.strip() or not line.strip():
            out.append(made)
    return "\n".join(out) + "\n"
