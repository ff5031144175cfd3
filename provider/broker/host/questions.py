"""What brokers are asked, in Erlang, and how their answers are read. Pure.

rabbitmqctl takes a second to start, on a busy host many: so one question asks for all, and a broker waits by itself for
what takes a moment.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from provider.core.documents import IpAddress
from shared.errors import Invalid

A = TypeVar("A", bound=BaseModel)
NAMED_MAX = 4
"""Of the queues that a broker holds, so many are named: with them there may be tens of thousands."""


def _sorted(names: object) -> object:
    return tuple(sorted(str(name) for name in names)) if isinstance(names, list) else names


Names = Annotated[tuple[str, ...], BeforeValidator(_sorted)]


class About(BaseModel):
    """What any broker says of itself, also one that is stopped or still starts; then it knows of nothing else."""

    model_config = ConfigDict(frozen=True)

    clock_ms: int
    """Its host's, Unix time."""
    node: str
    running: bool
    version: str
    plugins: Names
    """That are active."""
    store_ended: bool = False
    """It runs without its metadata store, as after its disk was full."""
    tls: bool = True
    """It talks to other brokers with TLS."""
    khepri: bool = True
    """Its metadata is where a majority decides."""
    cluster: Names = ()
    """Every broker of its cluster, itself too."""
    seen: Names = ()
    """Those of them that it sees running."""
    vhosts: Names = ()
    queues: int = 0
    """How many it knows of, streams included."""
    some: tuple[tuple[str, str], ...] = ()
    """A few of them: virtual host and name."""
    streams: tuple[tuple[str, str, frozenset[str]], ...] = ()
    """All of them: virtual host, name, and the brokers that hold a copy."""
    asleep: tuple[tuple[str, str], ...] = ()
    """Those of which its own copy does not run."""

    @property
    def clock_s(self) -> float:
        return self.clock_ms / 1000

    @property
    def founded(self) -> bool:
        """Whether it is one of a cluster's: it is with others, or holds something. Else it may be a newcomer."""
        return self.running and (self.cluster != (self.node,) or self.queues > 0)


ASK = f"""
Up = rabbit:is_running(),
Khepri = Up andalso erlang:function_exported(rabbit_khepri, is_enabled, 0) andalso rabbit_khepri:is_enabled(),
Ended = Khepri andalso whereis(rabbitmq_metadata) =:= undefined,
Tls = case init:get_argument(proto_dist) of {{ok, Said}} -> lists:member(["inet_tls"], Said); error -> false end,
Itself = #{{clock_ms => os:system_time(millisecond), node => node(), running => Up, store_ended => Ended, tls => Tls,
    version => list_to_binary(rabbit_misc:version()), plugins => rabbit_plugins:active()}},
Rest = case Up andalso not Ended of
    false -> #{{}};
    true ->
        Queues = lists:sort([[Vhost, Name] || {{resource, Vhost, queue, Name}} <- rabbit_amqqueue:list_names()]),
        Streams = [{{amqqueue:get_name(Q), maps:get(nodes, amqqueue:get_type_state(Q)), Q}}
            || Q <- rabbit_amqqueue:list_by_type(rabbit_stream_queue)],
        Online = fun(Q) -> proplists:get_value(online, rabbit_stream_queue:info(Q, [online]), []) end,
        #{{cluster => rabbit_nodes:all(), seen => rabbit_nodes:all_running(), vhosts => rabbit_vhost:list_names(),
            khepri => Khepri, queues => length(Queues), some => lists:sublist(Queues, {NAMED_MAX}),
            streams => [[Vhost, Name, Nodes] || {{{{resource, Vhost, queue, Name}}, Nodes, _}} <- Streams],
            asleep => [[Vhost, Name] || {{{{resource, Vhost, queue, Name}}, Nodes, Q}} <- Streams,
                lists:member(node(), Nodes) andalso not lists:member(node(), Online(Q))]}}
end,
io:format("~ts~n", [rabbit_json:encode(maps:merge(Itself, Rest))]).
"""
"""Every broker is asked this; `about` reads the answer."""


def about(answer: str) -> About:
    """What `ASK` was answered. Raises `Invalid`."""
    return _read(About, answer)


FAREWELL = """
catch rabbit_stream_queue:delete_all_replicas(node()),
catch rabbit_stream_coordinator:forget_node(node()),
rabbit:stop().
"""
"""A broker takes itself out of all that decides on streams, and stops. `reset` alone would not tell those: of two, the
one that is left would wait for ever for the other's voice."""


class Entry(BaseModel):
    """Whether a host may join some brokers now."""

    known: Mapping[str, str | None]
    """At which address they know it; None: at none."""
    turn: bool
    """Whether it is its turn: nobody else's broker joins until the asker has gone."""
    cluster: Mapping[str, IpAddress]
    """Who is in the cluster by then, and at which address the broker that was asked knows its host: some may have
    joined that the asker has never heard of."""


def ask_entry(nodes: Sequence[str], host: str, address: str, wait_s: float) -> str:
    """Do those brokers, asked by one of them, know this host at `address`, and is it its turn? For each it waits, but
    no longer than `wait_s`. It answers, and keeps the turn until the asker closes stdin or is gone. `entry` reads the
    answer.

    RabbitMQ takes two at once in as well; but those that start in the same second may hang for 20 s, until it notices
    that Erlang's names (`global`) wait for each other.
    """
    family = "inet6" if ":" in address else "inet"
    return f"""
Nodes = [{", ".join(f"'{node}'" for node in nodes)}],
Text = fun({{ok, Address}}) -> list_to_binary(inet:ntoa(Address)); (_) -> null end,
Heard = fun(Node) -> Text(rpc:call(Node, inet, getaddr, ["{host}", {family}], 5000)) end,
Ask = fun() -> [{{Node, Heard(Node)}} || Node <- Nodes] end,
Aware = fun(Found) -> lists:all(fun({{_, Known}}) -> Known =:= <<"{address}">> end, Found) end,
Lock = fun() -> global:set_lock({{bellwether_join, self()}}, Nodes, 0) end,
Wait = fun Again(Try, Done, Left) ->
    Found = Try(),
    case Left =< 0 orelse Done(Found) of
        true -> Found;
        false -> timer:sleep(100), Again(Try, Done, Left - 100)
    end
end,
Host = fun(Node) -> lists:last(string:split(atom_to_list(Node), "@")) end,
Addresses = fun() ->
    Found = [{{Node, Text(inet:getaddr(Host(Node), {family}))}} || Node <- rabbit_nodes:all(), Node =/= node()],
    maps:from_list([One || {{_, Address}} = One <- Found, Address =/= null])
end,
Known = Wait(Ask, Aware, {wait_s * 1000:.0f}),
Turn = Aware(Known) andalso Wait(Lock, fun(Got) -> Got end, {wait_s * 1000:.0f}),
io:format("~ts~n", [rabbit_json:encode(#{{known => maps:from_list(Known), turn => Turn, cluster => Addresses()}})]),
Turn andalso io:get_line(""),
Turn andalso global:del_lock({{bellwether_join, self()}}, Nodes).
"""


def entry(answer: str) -> Entry:
    """What `ask_entry` was answered. Raises `Invalid`."""
    return _read(Entry, answer)


class Copy(BaseModel):
    """A broker's copy of a stream."""

    running: bool
    """Whether the broker is."""
    there: bool
    """Whether there is such a stream at all."""
    held: bool
    online: bool
    has_say: bool
    """Whether it is one of those who decide on the streams' leaders: RabbitMQ's coordinator takes new brokers in one by
    one, some time after they have joined the cluster."""
    added: str | None
    """What RabbitMQ said when it was told to make the copy; None: it was not."""

    @property
    def whole(self) -> bool:
        return self.held and self.online and self.has_say

    @property
    def lacks(self) -> str:
        """What it is not yet, in words."""
        if not self.held:
            return f"RabbitMQ said {self.added}" if self.added else "it is not made yet"
        return "it is not in touch with the others" if not self.online else "it has no say yet in who leads the log"


def ask_copy(vhost: str, stream: str, wait_s: float, *, add: bool) -> str:
    """Whether the broker that is asked has a copy of that stream. With `add` it is told to make one where it has none,
    and it waits until that is whole, but no longer than `wait_s`. `copy` reads the answer."""
    return f"""
Name = {{resource, <<"{vhost}">>, queue, <<"{stream}">>}},
Own = {{rabbit_stream_coordinator, node()}},
Say = fun() -> case ra:members(Own, 5000) of {{ok, All, _}} -> lists:member(Own, All); _ -> false end end,
Among = fun(Key, Info) -> lists:member(node(), proplists:get_value(Key, Info, [])) end,
Look = fun(Added) ->
    case rabbit:is_running() andalso rabbit_amqqueue:lookup(Name) of
        {{ok, Queue}} ->
            Info = rabbit_stream_queue:info(Queue, [members, online]),
            #{{running => true, there => true, held => Among(members, Info), online => Among(online, Info),
                has_say => Say(), added => Added}};
        Nothing -> #{{running => Nothing =/= false, there => false, held => false, online => false, has_say => false,
            added => Added}}
    end
end,
Tell = fun() -> case rabbit_stream_queue:add_replica(<<"{vhost}">>, <<"{stream}">>, node()) of
    ok -> <<"ok">>;
    Other -> iolist_to_binary(io_lib:format("~0p", [Other]))
end end,
Wait = fun Again(Left, Seen) ->
    case Seen of
        #{{there := true, held := true, online := true, has_say := true}} -> Seen;
        #{{there := true, held := false, added := null}} when {"true" if add else "false"} -> Again(Left, Look(Tell()));
        #{{held := false, added := Said}} when Said =/= null, Said =/= <<"ok">> -> Seen;
        #{{there := true}} when Left > 0 ->
            timer:sleep(100), Again(Left - 100, Look(maps:get(added, Seen)));
        _ -> Seen
    end
end,
io:format("~ts~n", [rabbit_json:encode(Wait({wait_s * 1000:.0f}, Look(null)))]).
"""


def copy(answer: str) -> Copy:
    """What `ask_copy` was answered. Raises `Invalid`."""
    return _read(Copy, answer)


def _read(kind: type[A], answer: str) -> A:
    line = next((one for one in answer.splitlines() if one.startswith("{")), "")
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        raise Invalid("a broker answered something that was not understood") from None
