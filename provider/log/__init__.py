"""The one ordered sequence of entries that every node reads."""
