"""Sockets, TLS and HTTP: what carries any ASGI application to its clients."""
