"""Who may be removed at the moment: the primary asks what it hears, besides what the state says. And what the removed
node says to the commands on its host."""

from pathlib import Path

from provider.core.commands.base import Plan, delete
from provider.core.state import State
from shared.errors import TOKEN_NOT_GOOD
from shared.tokens import Token, new_token, parse_token
from tests.support.apis import ApiNode, Members


def test_a_standby_that_the_log_needs_is_not_removed_while_another_is_silent(tmp_path: Path) -> None:
    with ApiNode(tmp_path) as p1:
        p1.commit(Members((1, 2, 3)))
        refused = p1.ask("DELETE", "/nodes/p3")
        assert (refused.status, refused.code) == (409, "refused")
        assert "nothing is heard of p2" in refused.json["detail"]
        assert {node["name"] for node in p1.ask("GET", "/cluster").json["nodes"]} == {"p1", "p2", "p3"}


def test_of_two_the_other_one_may_go_whether_it_is_heard_or_not(tmp_path: Path) -> None:
    with ApiNode(tmp_path) as p1:
        p1.commit(Members((1, 2)))
        assert p1.ask("DELETE", "/nodes/p2").status == 204
        assert [node["name"] for node in p1.ask("GET", "/cluster").json["nodes"]] == ["p1"]


class Gone:
    """What this node reads when it was removed by the others."""

    def plan(self, state: State, now: int) -> Plan:
        return Plan(204, None, (delete("node", "p1"),))


def test_a_node_that_has_read_of_its_removal_says_so_to_the_commands_on_its_host(tmp_path: Path) -> None:
    """`provider status` and `failover` come with the node's own token, which nobody knows any more."""
    with ApiNode(tmp_path) as p1:
        own = p1.files.node_token.read_text().strip()
        another = Token("node", "p2", parse_token(own).secret).text()
        p1.commit(Gone())
        told = p1.ask("GET", "/cluster", token=own)
        assert (told.status, told.code) == (401, "unauthenticated")
        assert told.json["detail"].startswith("p1 was removed from the cluster")
        for stranger in (another, new_token("admin").text()):
            assert p1.ask("GET", "/cluster", token=stranger).json["detail"] == TOKEN_NOT_GOOD
