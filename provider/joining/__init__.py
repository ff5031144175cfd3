"""`provider join`: a host becomes a standby, in steps that may be interrupted anywhere. See DESIGN.md beside it."""
