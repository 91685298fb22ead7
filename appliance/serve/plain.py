"""A connection without TLS, as a trio stream."""

import errno
import os
import socket

from appliance.serve.sockets import SocketStream, Want


class PlainStream(SocketStream):
    """A stream without TLS, for listeners behind a proxy or on the loopback."""

    def _read(self, max_bytes: int) -> bytes | Want:
        try:
            return self.socket.recv(max_bytes)
        except BlockingIOError:
            return Want.READ
        except OSError as error:
            raise self._broken(f"receiving failed: {error}") from error

    def try_read_into(self, buffer: memoryview) -> int | Want:
        """Receive once; see SocketStream."""
        try:
            return self.socket.recv_into(buffer)
        except BlockingIOError:
            return Want.READ
        except OSError as error:
            raise self._broken(f"receiving failed: {error}") from error

    def try_write(self, data: memoryview) -> int | Want:
        """Send once; see SocketStream."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return Want.WRITE
        except OSError as error:
            raise self._broken(f"sending failed: {error}") from error

    def try_send_file(self, descriptor: int, offset: int, count: int) -> int | Want:
        """Send part of a file; 0 where it has ended. Raises OSError if it cannot be read."""
        try:
            return os.sendfile(self.socket.fileno(), descriptor, offset, count)
        except BlockingIOError:
            return Want.WRITE
        except OSError as error:
            if error.errno == errno.EIO:
                raise
            raise self._broken(f"sending failed: {error}") from error

    def _end(self) -> Want | None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._broken(f"ending failed: {error}") from error
        return None
