"""Whatever is asked in whatever order: never more than four nodes, the primary always one of them, who was removed
never again, a token lets in one node at most, and every member, nobody else, has a part in every data key."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from provider.core import documents as docs
from provider.core.commands import Command, JoinNode, LabelNode, PutToken, RemoveNode, put
from provider.core.entries import Claim, Commit, Entry
from provider.core.state import Accepted, State, step
from shared.errors import Refusal

NOW = 1_700_000_000_000
NAMES = st.sampled_from([f"p{number}" for number in range(1, 8)])
TOKENS = st.sampled_from([f"t{number}" for number in range(6)])
PERSONS = st.integers(0, 2)
"""Who stands behind a request: each has made keys of its own."""


def spec_of(name: str, person: int, number: int) -> docs.NodeSpec:
    made = f"{name} of {person}"
    given = docs.CertificateSpec(sha256=f"{made} {number}", key_sha256=made, authority="ca", expires_at=NOW)
    return docs.NodeSpec(
        url=f"https://{name}.{person}:1",
        endpoints=("amqps://b:1",),
        version="1.0",
        token_sha256=made,
        public_key=made,
        certificates=(given,),
    )


class Members(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        changes = (
            put("node", "p1", spec_of("p1", 0, 0)),
            put("key", "k1", docs.KeySpec(wrapped={"p1": "k1"})),
        )
        self.state = State.genesis(generation="g", primary="p1", now=NOW, changes=changes)
        self.now, self.number = NOW, 0
        self.removed: set[str] = set()
        self.let_in: dict[str, tuple[str, str]] = {}
        """Whom each token has let in: name and keys."""

    def ask(self, command: Command) -> bool:
        try:
            plan = command.plan(self.state, self.now)
        except Refusal:
            return False
        self.number += 1
        commit = Commit(principal="ann", action="", status=plan.status, target=plan.target, changes=plan.changes)
        seq, epoch = self.state.revision + 1, self.state.epoch
        node = self.state.primary
        entry = Entry(id=str(seq), generation="g", epoch=epoch, seq=seq, node=node, at=self.now, commits=(commit,))
        outcome = step(self.state, entry)
        assert isinstance(outcome, Accepted)
        self.state = outcome.state
        return True

    @rule(token=TOKENS, lives_ms=st.sampled_from([5, 1000]))
    def make_token(self, token: str, lives_ms: int) -> None:
        if token not in self.let_in:
            self.ask(PutToken(token, docs.TokenSpec(role="node", sha256="x", expires_at=self.now + lives_ms)))

    @rule(name=NAMES, token=TOKENS, person=PERSONS)
    def join(self, name: str, token: str, person: int) -> None:
        before = self.state
        wrapped = {key.id: f"{key.id} for {name}" for key in before.of("key")}
        spec = spec_of(name, person, self.number)
        if not self.ask(JoinNode(name, token, spec, wrapped)):
            return
        assert name not in self.removed, "who was removed is back"
        assert self.let_in.setdefault(token, (name, spec.public_key)) == (name, spec.public_key), "one token, two nodes"
        if before.get("node", name) is not None:
            assert len(self.state.of("node")) == len(before.of("node"))

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        others = {one.id: "new" for one in self.state.of("node") if one.id != name}
        if self.ask(RemoveNode(name, f"k{len(self.state.of('key')) + 1}", docs.KeySpec(wrapped=others))):
            self.removed.add(name)

    @rule(name=NAMES)
    def promote(self, name: str) -> None:
        outcome = step(self.state, Claim(id="c", generation="g", ends=self.state.epoch, node=name, at=self.now))
        if isinstance(outcome, Accepted):
            self.state = outcome.state

    @rule(name=NAMES, zone=st.sampled_from(["a", "b"]))
    def label(self, name: str, zone: str) -> None:
        self.ask(LabelNode(name, {"zone": zone}))

    @rule(passes_ms=st.integers(1, 10))
    def time_passes(self, passes_ms: int) -> None:
        self.now += passes_ms

    @invariant()
    def the_rules_hold(self) -> None:
        members = {node.id for node in self.state.of("node")}
        assert 1 <= len(members) <= 4
        assert self.state.primary in members
        assert not members & self.removed
        assert all(set(key.spec["wrapped"]) == members for key in self.state.of("key"))
        urls = [node.spec["url"] for node in self.state.of("node")]
        assert len(set(urls)) == len(urls)


TestMembers = Members.TestCase
TestMembers.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
