"""Backups of a cluster's state, and a cluster out of one. See DESIGN.md."""
