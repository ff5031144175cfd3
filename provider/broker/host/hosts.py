"""Our lines in /etc/hosts: brokers call each other by host name, and names must not depend on another service. Pure."""

from collections.abc import Sequence

from provider.core.documents import BrokerNode
from shared.errors import Refused

BEGIN = "# BEGIN Bellwether: brokers of the cluster. Written by `provider broker`; changes here are lost."
END = "# END Bellwether"


def names_in(text: str) -> dict[str, set[str]]:
    """Addresses by host name, of a hosts file's text."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        for name in words[1:]:
            found.setdefault(name.lower(), set()).add(words[0])
    return found


def without_block(text: str) -> str:
    """The text without our lines. A block without its end goes to the next empty line: an editor may have cut it,
    and what is behind it belongs to others."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.strip() == BEGIN:
            inside = True
        elif inside and line.strip() == END:
            inside = False
        elif inside and line.strip():
            continue
        else:
            inside = False
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n" if kept else ""


def with_block(text: str, brokers: Sequence[BrokerNode], own: str) -> str:
    """The text with our lines for all `brokers`; none, where there is no other than `own`. Raises `Refused` where the
    rest of the file says otherwise about one of the others: that is for people to settle."""
    rest = without_block(text)
    others = [broker for broker in brokers if broker.node != own]
    if not others:
        return rest
    known = names_in(rest)
    for broker in others:
        elsewhere = known.get(broker.host, set()) - {broker.address}
        if elsewhere:
            raise Refused(
                f"/etc/hosts says that {broker.host} is {', '.join(sorted(elsewhere))}, the cluster knows it at "
                f"{broker.address}: take that line out"
            )
    lines = [f"{broker.address} {broker.host}" for broker in sorted(others, key=lambda one: one.node)]
    above = rest.rstrip("\n")
    return "\n".join([*([above] if above else []), BEGIN, *lines, END]) + "\n"
