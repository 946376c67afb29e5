"""Server-sent events, read from bytes as they arrive, cut anywhere.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. Only ``data`` is of
interest; comments (keep-alives such as ``: OPENROUTER PROCESSING``), ``event``, ``id`` and ``retry`` are read over.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"
_END_OF_EVENT = b"\n\n"
_FIELD = b"data: "


class EventTooLarge(Exception):
    """An event is larger than allowed."""


class SseParser:
    """Feed it reads; it gives the data of each event that is complete.

    ``most_bytes``: the largest event.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, read: bytes) -> list[bytes]:
        """The data of the events that ``read`` completes, in order.

        Raises:
            EventTooLarge: an event is larger than allowed.
        """
        events: list[bytes] = []
        if self._is_inside:
            # To the end of the event that was begun; in what follows, events are whole as a rule.
            end = read.find(_END_OF_EVENT) + len(_END_OF_EVENT)
            if end < len(_END_OF_EVENT):
                return self._feed_lines(read)
            events = self._feed_lines(read[:end])
            read = read[end:]
        end = read.rfind(_END_OF_EVENT) + len(_END_OF_EVENT)
        plain = None if self._is_inside or end < len(_END_OF_EVENT) else _plain_events(read[:end])
        if plain is None:
            return events + self._feed_lines(read)
        self._at_start = False
        return events + plain + self._feed_lines(read[end:]) if end < len(read) else events + plain

    @property
    def _is_inside(self) -> bool:
        return bool(self._line_bytes or self._data or self._after_cr)

    def _feed_lines(self, read: bytes) -> list[bytes]:
        """As ``feed``, a line at a time."""
        if self._after_cr and read:
            self._after_cr = False
            if read.startswith(b"\n"):
                read = read[1:]
        if b"\r" in read:
            self._after_cr = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *lines = read.split(b"\n")
        self._line.append(first)
        self._line_bytes += len(first)
        events: list[bytes] = []
        for line in lines:
            whole = self._end_line()
            self._take_line(whole, events)
            self._line.append(line)
            self._line_bytes = len(line)
        if self._line_bytes + self._data_bytes > self._most_bytes:
            raise EventTooLarge
        return events

    def finish(self) -> list[bytes]:
        """What the end leaves: the data of an event whose closing blank line never came, perhaps cut short."""
        events: list[bytes] = []
        self._take_line(self._end_line(), events)
        self._take_line(b"", events)
        return events

    def _end_line(self) -> bytes:
        line = self._line[0] if len(self._line) == 1 else b"".join(self._line)
        self._line.clear()
        self._line_bytes = 0
        if self._at_start:
            self._at_start = False
            return line.removeprefix(_BOM)
        return line

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
                self._data_bytes = 0
        elif line.startswith(b"data:"):
            start = 6 if line.startswith(b"data: ") else 5
            self._data.append(line[start:])
            self._data_bytes += len(line)
        elif line == b"data":
            self._data.append(b"")


def _plain_events(read: bytes) -> list[bytes] | None:
    """The data of whole events, where each is one line of data and nothing else, as almost all sources send them."""
    if not read.startswith(_FIELD) or b"\r" in read:
        return None
    events = read[len(_FIELD) : -len(_END_OF_EVENT)].split(_END_OF_EVENT + _FIELD)
    # Every line ends, and every event: any other line would show in this sum.
    return events if read.count(b"\n") == 2 * len(events) else None
