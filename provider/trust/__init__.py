"""Whom this node trusts, how others know it, and the keys that seal secrets."""
