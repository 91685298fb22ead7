"""HTTP/2 as bytes and states, without I/O: h2, with its gaps closed (RFC 9113).

h2 does the framing, HPACK, the states of streams and the counting of windows. What it leaves to
its user, or answers differently than a server of many should, is put right here.

*One stream's fault is one stream's end.* h2 ends the connection for whatever is malformed. Here a
malformed request costs its own stream (8.1.1); the connection ends when frames, HPACK or windows
are broken, after which nothing can be understood any more.

*Two windows.* The connection's is given back as soon as data has arrived, so that no stream can
starve another; a stream's when its content has been consumed, so that each holds no more than its
window. That window is small until somebody asks for the content, and wide from then on.

*Streams that are over* may still be sent to, as their end crosses what is under way. That is
dropped without a word, but for its part in the connection's window.

*Farewells.* For h2 a GOAWAY is the last that is said, either way. In truth only new streams are
out of question; those that are open go on (6.8).

*Floods.* Frames that serve no request are cheap to send and not so cheap to answer: pings,
settings, empty data, windows opened byte by byte, requests taken back at once. A client may send
some, more with time, and more for every request and every kilobyte that moves; then the
connection ends with ENHANCE_YOUR_CALM. Priorities are ignored (5.3.2), heads are bounded before
they are decoded, and so is every frame before it is buffered.
"""

import struct

import trio
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RequestReceived, StreamReset
from h2.exceptions import (
    DenialOfServiceError,
    InvalidBodyLengthError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
)
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy, StreamInputs, StreamState
from hpack.exceptions import HPACKError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from appliance.serve.heads import HEAD_MAX

STREAMS_MAX = 100
"""Streams that a client may have open at once."""

STREAM_WINDOW = 1 << 20
"""Bytes that a stream may hold unread, once somebody reads it at all; 64 KiB before."""

_CONNECTION_WINDOW = 8 << 20
_FRAME_MAX = 256 << 10  # every frame costs as much as several KiB; who can make larger ones should
_BLOCK_MAX = 2 * HEAD_MAX  # what lies between is decoded, and answered with 431
_HEADER_TABLE_MAX = 4096  # h2's encoder searches its table entry by entry

_RESETS = (100, 10.0)  # at once, and per second
_CHATTER = (1000, 50.0)
_REQUEST_EARNS = 10

_DATA_HEADER = struct.Struct(">BHBBL")
_HEAD_FRAMES = (b"\1", b"\x09")

Buffer = bytes | memoryview
_Outcome = tuple[list[Frame], list[Event]]


class Wire(H2Connection):
    """The server's side of a connection; see the top of this file.

    Whatever cannot be survived is a ProtocolError from `receive_data`, with the GOAWAY queued.
    """

    MAX_CLOSED_STREAMS = 1024  # remembered, to tell what is late from what is wrong

    def __init__(self) -> None:
        super().__init__(H2Configuration(client_side=False, header_encoding=None))
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.MAX_FRAME_SIZE: _FRAME_MAX,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_MAX,
            },
        )
        self.max_inbound_frame_size = _FRAME_MAX
        self.decoder.max_header_list_size = _BLOCK_MAX
        self._frames = _Frames()
        self.incoming_buffer = self._frames
        self._resets = _Allowance("streams are reset too often", *_RESETS)
        self._chatter = _Allowance("too much is said about nothing", *_CHATTER)
        self.frames_received = 0
        """Whole frames so far, a head counting as one."""

    @property
    def head_begun(self) -> bool:
        """Whether part of a head has arrived, and not yet the rest."""
        return self._frames.head_begun

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent, the content of streams not counted."""
        return len(self._data_to_send)

    def initiate_connection(self) -> None:
        """Queue our settings, and a wide window for the connection."""
        super().initiate_connection()
        window = _CONNECTION_WINDOW - self.inbound_flow_control_window
        self.increment_flow_control_window(window)
        # For h2 one stream too many ends the connection. A client that has not yet seen our
        # settings may be some over, and is to be refused those alone: that is for the user.
        self.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2 * STREAMS_MAX
        self.local_settings.acknowledge()

    def widen(self, stream_id: int) -> None:
        """Open a stream's window: its content is wanted."""
        if not self._sent_whole(stream_id):
            narrow = self.local_settings.initial_window_size
            self.increment_flow_control_window(STREAM_WINDOW - narrow, stream_id)

    def give_back(self, stream_id: int, size: int) -> None:
        """Open a stream's window again by what has been consumed."""
        if size and not self._sent_whole(stream_id):
            self._prepare_for_sending(self.streams[stream_id].acknowledge_received_data(size))

    def _sent_whole(self, stream_id: int) -> bool:
        stream = self.streams.get(stream_id)
        return stream is None or stream.state_machine.state not in {
            StreamState.OPEN,
            StreamState.HALF_CLOSED_LOCAL,
        }

    def go_away(self, code: ErrorCodes) -> None:
        """Queue a GOAWAY: streams that are open go on, newer ones are not served."""
        frame = GoAwayFrame(0, last_stream_id=self.highest_inbound_stream_id, error_code=code)
        self._prepare_for_sending([frame])

    def data_frames(self, stream_id: int, content: memoryview, *, end: bool) -> list[Buffer]:
        """Put content into DATA frames, no more than the windows allow.

        `send_data` of h2 copies every byte five times on its way; here the caller gets the pieces
        and copies them once, into whatever it writes.
        """
        stream = self.streams[stream_id]
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        if end:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        size = len(content)
        self.outbound_flow_control_window -= size
        stream.outbound_flow_control_window -= size
        self._chatter.earn(size >> 10)
        pieces: list[Buffer] = []
        sent = 0
        while True:
            part = content[sent : sent + self.max_outbound_frame_size]
            sent += len(part)
            last = end and sent == size
            length = len(part)
            pieces += _DATA_HEADER.pack(length >> 16, length & 0xFFFF, 0, last, stream_id), part
            if sent == size:
                return pieces

    def _receive_frame(self, frame: Frame) -> list[Event]:
        self.frames_received += 1
        if isinstance(frame, DataFrame):
            # By h2's own way each would first be written out in hexadecimal, for a log nobody keeps.
            frames, events = self._receive_data_frame(frame)
            self._prepare_for_sending(frames)
        else:
            events = super()._receive_frame(frame)
        self._weigh(frame, events)
        return events

    def _weigh(self, frame: Frame, events: list[Event]) -> None:
        """Count a frame as work or as chatter; raises DenialOfServiceError."""
        if any(isinstance(event, StreamReset) for event in events):
            self._resets.spend()
        if isinstance(frame, DataFrame) and (frame.data or "END_STREAM" in frame.flags):
            self._chatter.earn(len(frame.data) >> 10)
        elif any(isinstance(event, RequestReceived) for event in events):
            self._chatter.earn(_REQUEST_EARNS)
        else:
            self._chatter.spend()

    def _receive_headers_frame(self, frame: HeadersFrame) -> _Outcome:
        frame.flags.discard("PRIORITY")
        announced = self._announced(frame.stream_id)
        try:
            outcome = super()._receive_headers_frame(frame)
            # h2 compares lengths when the end comes with data, and forgets them over trailers.
            if announced is None:
                announced = self._announced(frame.stream_id)
            if "END_STREAM" in frame.flags and announced is not None:
                self._check_length(frame.stream_id, announced)
        except (StreamClosedError, StreamIDTooLowError):
            raise
        except ProtocolError as error:
            # What could not be decoded has left the decoder's table in an unknown state.
            if frame.stream_id not in self.streams or isinstance(error.__cause__, HPACKError):
                raise
            return self._fail(frame.stream_id)
        return outcome

    def _announced(self, stream_id: int) -> int | None:
        stream = self.streams.get(stream_id)
        return None if stream is None else stream._expected_content_length  # noqa: SLF001

    def _check_length(self, stream_id: int, announced: int) -> None:
        arrived = self.streams[stream_id]._actual_content_length  # noqa: SLF001
        if arrived != announced:
            raise InvalidBodyLengthError(announced, arrived)

    def _receive_data_frame(self, frame: DataFrame) -> _Outcome:
        try:
            frames, events = super()._receive_data_frame(frame)
        except InvalidBodyLengthError:
            frames, events = self._fail(frame.stream_id)
        windows = self._inbound_flow_control_window_manager
        if increment := windows.process_bytes(frame.flow_controlled_length):
            frames = [*frames, WindowUpdateFrame(0, window_increment=increment)]
        return frames, events

    def _handle_data_on_closed_stream(
        self, events: list[Event], exc: StreamClosedError, frame: DataFrame
    ) -> _Outcome:
        consequences = exc._events  # noqa: SLF001  not empty if this is what closed the stream
        if not consequences:
            return [], events
        return [RstStreamFrame(frame.stream_id, error_code=exc.error_code)], [
            *events,
            *consequences,
        ]

    def _receive_settings_frame(self, frame: SettingsFrame) -> _Outcome:
        size = frame.settings.get(SettingsFrame.HEADER_TABLE_SIZE, 0)
        if size > _HEADER_TABLE_MAX:
            frame.settings[SettingsFrame.HEADER_TABLE_SIZE] = _HEADER_TABLE_MAX
        return super()._receive_settings_frame(frame)

    def _receive_priority_frame(self, frame: HeadersFrame | PriorityFrame) -> _Outcome:
        del frame
        return [], []

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> _Outcome:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]

    def _fail(self, stream_id: int) -> _Outcome:
        """End a stream whose request is malformed, whatever h2 made of it."""
        code = ErrorCodes.PROTOCOL_ERROR
        machine = self.streams[stream_id].state_machine
        machine.state = StreamState.CLOSED
        machine.stream_closed_by = StreamClosedBy.SEND_RST_STREAM
        reset = StreamReset(stream_id=stream_id, error_code=code, remote_reset=False)
        return [RstStreamFrame(stream_id, error_code=code)], [reset]


class _Frames(FrameBuffer):
    """Bytes on their way to become frames."""

    def __init__(self) -> None:
        super().__init__(server=True)
        self.max_frame_size = _FRAME_MAX

    @property
    def head_begun(self) -> bool:
        """Whether a block of HEADERS and CONTINUATION, or a frame of it, is incomplete."""
        return bool(self._headers_buffer) or bytes(self._data[3:4]) in _HEAD_FRAMES

    def __next__(self) -> Frame:
        # h2 looks at a frame's length once it has all of it.
        self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        whole = super()._update_header_buffer(f)
        block = [whole] if isinstance(whole, HeadersFrame) else self._headers_buffer
        if sum(len(part.data) for part in block) > _BLOCK_MAX:
            raise DenialOfServiceError(f"a head takes more than {_BLOCK_MAX} bytes")
        return whole


class _Allowance:
    """What a client may do `at_once` although it serves no request; it recovers with time."""

    __slots__ = ("_at_once", "_counted_at", "_fault", "_left", "_per_second")

    def __init__(self, fault: str, at_once: float, per_second: float) -> None:
        self._fault = fault
        self._at_once = self._left = at_once
        self._per_second = per_second
        self._counted_at = trio.current_time()

    def earn(self, amount: float) -> None:
        self._left = min(self._left + amount, self._at_once)

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            now = trio.current_time()
            self.earn((now - self._counted_at) * self._per_second)
            self._counted_at = now
        if self._left < 0:
            raise DenialOfServiceError(self._fault)
