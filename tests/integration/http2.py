"""As much of HTTP/2 as it takes to begin many messages and end none."""

import select
import socket
import struct

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
INITIAL_WINDOW_SIZE = 4
FRAME_BYTES = 16384


def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload


def header(name, value):
    """A literal, without Huffman coding or index."""
    return b'\x00' + bytes([len(name)]) + name + bytes([len(value)]) + value


class UnendedCalls:
    """One connection with many calls of `method`, each with a message that says it has `size` bytes and stops short."""

    def __init__(self, path, method, calls, size):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.out = bytearray(PREFACE + frame(SETTINGS, 0, 0))
        self.received = bytearray()
        self.window, self.initial = 65535, 65535
        self.windows, self.left = {}, {}  # by the number of the stream; those that were ended are not there
        block = b''.join(header(name, value) for name, value in (
            (b':method', b'POST'), (b':scheme', b'http'), (b':path', method), (b':authority', b'localhost'),
            (b'te', b'trailers'), (b'content-type', b'application/grpc')))
        self.begin = b'\x00' + struct.pack('>I', size)
        for stream in range(1, 2 * calls, 2):
            self.out += frame(HEADERS, 4, stream, block) + frame(DATA, 0, stream, self.begin)
            self.windows[stream] = self.initial - len(self.begin)
            self.left[stream] = size - 100
            self.window -= len(self.begin)
        self.sent = 0

    def send(self):
        """Sends what it may; False if nothing moved for half a second."""
        if len(self.out) < 1 << 20:
            for stream, window in list(self.windows.items()):
                count = min(FRAME_BYTES, window, self.window, self.left[stream])
                if count > 0:
                    self.out += frame(DATA, 0, stream, b'x' * count)
                    self.windows[stream] -= count
                    self.left[stream] -= count
                    self.window -= count
                    self.sent += count
        readable, writable, _ = select.select([self.socket], [self.socket] if self.out else [], [], 0.5)
        if writable:
            del self.out[:self.socket.send(self.out)]
        if readable:
            self.received += self.socket.recv(1 << 20)
            self._take()
        return bool(readable or writable)

    def _take(self):
        while len(self.received) >= 9:
            size = int.from_bytes(self.received[:3], 'big')
            if len(self.received) < 9 + size:
                return
            kind, flags = self.received[3], self.received[4]
            stream = int.from_bytes(self.received[5:9], 'big')
            payload = bytes(self.received[9:9 + size])
            del self.received[:9 + size]
            if kind == SETTINGS and not flags:
                for offset in range(0, size, 6):
                    name, value = struct.unpack_from('>HI', payload, offset)
                    if name == INITIAL_WINDOW_SIZE:
                        self.windows = {each: left + value - self.initial for each, left in self.windows.items()}
                        self.initial = value
                self.out += frame(SETTINGS, 1, 0)
            elif kind == PING and not flags:
                self.out += frame(PING, 1, 0, payload)
            elif kind == WINDOW_UPDATE and stream == 0:
                self.window += int.from_bytes(payload, 'big')
            elif kind == WINDOW_UPDATE and stream in self.windows:
                self.windows[stream] += int.from_bytes(payload, 'big')
            elif kind == RST_STREAM or (kind == HEADERS and flags & 1):
                self.windows.pop(stream, None)

    def close(self):
        self.socket.close()
