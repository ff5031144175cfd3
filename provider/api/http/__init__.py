"""The HTTPS server: connections, what may come in by them, and where from."""
