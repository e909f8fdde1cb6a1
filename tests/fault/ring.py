"""Looks at the rings of a session from outside."""

import mmap
import os
import struct

# As ipc/ring.h lays them out.
HEADER = 4096
TAIL, HEAD = 0, 64
REQUESTS, RESPONSES = 0, 128


class Ring:
    """Both of them have the same size. The descriptor may be closed."""

    def __init__(self, descriptor):
        size = os.fstat(descriptor).st_size
        self.bytes = (size - HEADER) // 2
        self._memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)

    def unread(self, requests):
        """The bytes that were written and not read; exact if neither side is at work."""
        counters = REQUESTS if requests else RESPONSES
        head, tail = (struct.unpack_from('<Q', self._memory, counters + which)[0] for which in (HEAD, TAIL))
        begin = HEADER + (0 if requests else self.bytes)
        there = self._memory[begin:begin + self.bytes] * 2
        return there[head % self.bytes:head % self.bytes + tail - head]

    def close(self):
        self._memory.close()
