"""Sockets to listen on."""

import socket

import pytest

from appliance.serve.listeners import bind


def test_binding_says_what_is_wrong() -> None:
    (first,) = bind("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", first.getsockname()[1])
    first.close()
    with pytest.raises(OSError, match="assign"):
        bind("192.0.2.77", 0)
    with pytest.raises(OSError, match="no host name"):
        bind("a" * 64 + ".test", 0)


def test_every_address_means_both_families() -> None:
    (sock,) = bind("::", 0)
    with sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5):
        pass


def test_what_is_bound_does_not_block() -> None:
    (sock,) = bind("127.0.0.1", 0)
    with sock, pytest.raises(BlockingIOError):
        sock.accept()


def test_what_was_bound_a_moment_ago_can_be_bound_again() -> None:
    (sock,) = bind("127.0.0.1", 0)
    address = sock.getsockname()
    with sock, socket.create_connection(address, timeout=5) as client:
        sock.setblocking(True)
        sock.accept()[0].close()  # our side first, and the kernel remembers it for a while
        assert client.recv(1) == b""
    (again,) = bind(*address)
    again.close()
