"""The registry's answers, as an ASGI application that needs no socket."""
