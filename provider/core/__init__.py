"""The replicated state machine. Pure: no I/O, no clock, no random numbers, no threads. See DESIGN.md beside it."""
