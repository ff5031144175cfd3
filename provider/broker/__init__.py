"""The users that agents and nodes have on the broker: worked out from the state, made so through its management API."""
