"""The commands: `provider`, `failover`, `bellwether`. Each talks to a daemon over its API, but for those that make one."""
