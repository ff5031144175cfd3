"""The commands: `provider`, `failover`, `bellwether`. All but those that make a daemon talk to one over its API."""
