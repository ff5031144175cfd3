"""The record of who did what: what was refused is noted, what was done is found in the history."""
