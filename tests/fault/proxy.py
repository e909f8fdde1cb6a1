"""A unix socket that passes bytes and descriptors on to another one, until it is told to hold them or to cut the
connection."""

import array
import collections
import contextlib
import os
import select
import socket
import threading

from ring import Ring

UP, DOWN = 'up', 'down'  # from the worker to the daemon, and back
WORKER, DAEMON = 'worker', 'daemon'  # the ends

# More than this is left in the kernel, so that a sender notices that nobody reads.
LIMIT = 1 << 18
CHUNK = 1 << 16
# More than one side channel message brings.
MOST_DESCRIPTORS = 16
SIDE_CHANNEL = b'RUNLOOP1'


class Pipe:
    """One direction of a connection."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink  # the ends' names
        self.held = False
        self.held_end = False  # keeps the source's end from the sink even when nothing else is held
        self.buffer = bytearray()
        # They ride with the next bytes that are passed on: a side channel has one message on its way at a time.
        self.descriptors = []
        self.ended = False  # the source has said all it will
        self.end_passed = False

    def drop(self):
        self.buffer.clear()
        while self.descriptors:
            os.close(self.descriptors.pop())


class Connection:
    """One of the worker's, and the one to the daemon that it is passed on by."""

    def __init__(self, worker, daemon):
        self.ends = {WORKER: worker, DAEMON: daemon}
        self.pipes = {UP: Pipe(WORKER, DAEMON), DOWN: Pipe(DAEMON, WORKER)}
        self.begins = b''  # what the worker says first
        for end in self.ends.values():
            end.setblocking(False)

    @property
    def is_stream(self):
        """False as long as it is not known."""
        return bool(self.begins) and not SIDE_CHANNEL.startswith(self.begins)

    def close_end(self, end):
        if self.ends[end] is not None:
            self.ends[end].close()
            self.ends[end] = None

    def close(self):
        for end in self.ends:
            self.close_end(end)
        for pipe in self.pipes.values():
            pipe.drop()

    def wanted(self):
        """What each end is to be polled for."""
        wanted = collections.Counter()
        for pipe in self.pipes.values():
            if not pipe.ended and len(pipe.buffer) < LIMIT:
                wanted[pipe.source] |= select.POLLIN
            if pipe.buffer and not pipe.held:
                wanted[pipe.sink] |= select.POLLOUT
        return {end: events for end, events in wanted.items() if self.ends[end] is not None}

    def move(self, end, events):
        for pipe in self.pipes.values():
            if pipe.source == end and not pipe.ended and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read(pipe)
            if pipe.sink == end and pipe.buffer and not pipe.held and events & (select.POLLOUT | select.POLLERR):
                self._write(pipe)

    def _read(self, pipe):
        with contextlib.suppress(BlockingIOError):
            try:
                read, descriptors, _, _ = socket.recv_fds(self.ends[pipe.source], CHUNK, MOST_DESCRIPTORS)
            except ConnectionError:
                read, descriptors = b'', []
            pipe.buffer += read
            pipe.descriptors += descriptors
            pipe.ended = not read
            if pipe.source == WORKER and len(self.begins) < len(SIDE_CHANNEL):
                self.begins += read[:len(SIDE_CHANNEL) - len(self.begins)]

    def _write(self, pipe):
        # socket.send_fds sends an empty list of descriptors, too.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', pipe.descriptors))] if pipe.descriptors else []
        try:
            sent = self.ends[pipe.sink].sendmsg([pipe.buffer], rights)
        except BlockingIOError:
            return
        except ConnectionError:
            pipe.drop()
            return
        del pipe.buffer[:sent]
        while pipe.descriptors:
            os.close(pipe.descriptors.pop())

    def pass_ends(self):
        for pipe in self.pipes.values():
            if pipe.ended and not pipe.end_passed and not pipe.held and not pipe.held_end and not pipe.buffer:
                pipe.end_passed = True
                if self.ends[pipe.sink] is not None:
                    with contextlib.suppress(OSError):
                        self.ends[pipe.sink].shutdown(socket.SHUT_WR)


class Proxy:
    """Listens at `path`, connects each worker that comes to the daemon at `target`. One worker at a time: the holds
    and cuts are about the session stream that came last and the side channels that came after it. The daemon sees this
    process as its peer."""

    def __init__(self, path, target):
        self._target = target
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._connections = []
        self._ring = None  # of the worker's session
        self._wake, self._waker = os.pipe()
        self._commands = collections.deque()
        self._stopped = False
        self._cut = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # What the test says; each has taken effect when it returns.

    def hold(self, *directions):
        """Keeps what is sent from now on."""
        self._set(directions, 'held', True)

    def release(self, *directions):
        """Passes on what was kept, and what comes."""
        self._set(directions, 'held', False)

    def held(self, direction):
        """What is kept."""
        return self._call(lambda: b''.join(bytes(pipe.buffer) for pipe in self._pipes((direction,))))

    def unread(self, direction):
        """What lies in the ring of the worker's session."""
        return self._call(lambda: self._ring.unread(direction == UP))

    def ring_bytes(self):
        """Of one direction."""
        return self._call(lambda: self._ring.bytes)

    def drop(self):
        """Forgets what is kept."""
        self._call(lambda: [pipe.drop() for pipe in self._pipes((UP, DOWN))])

    def cut(self, end):
        """Closes the connections to one end. The other end is not told, and nobody else is let in, until tell()."""
        def close():
            self._cut = True
            for pipe in self._pipes((UP, DOWN)):
                if pipe.source == end:
                    pipe.held_end = pipe.ended = True
                else:
                    pipe.drop()
            for connection in self._connections:
                connection.close_end(end)
        self._call(close)

    def tell(self):
        """Closes the connections to both ends."""
        def close():
            self._cut = False
            self._close_all()
        self._call(close)

    def close(self):
        self._call(lambda: setattr(self, '_stopped', True))
        self._thread.join()
        self._close_all()
        if self._ring is not None:
            self._ring.close()
        self._listening.close()
        os.close(self._wake)
        os.close(self._waker)

    # The thread.

    def _pipes(self, directions):
        return [connection.pipes[direction] for connection in self._connections for direction in directions]

    def _set(self, directions, name, value):
        self._call(lambda: [setattr(pipe, name, value) for pipe in self._pipes(directions)])

    def _call(self, function):
        """Runs it on the proxy's thread."""
        result = []
        done = threading.Event()

        def call():
            try:
                result.append(function())
            finally:
                done.set()
        self._commands.append(call)
        os.write(self._waker, b'!')
        done.wait()
        return result[0]

    def _close_all(self):
        while self._connections:
            self._connections.pop().close()

    def _run(self):
        while not self._stopped:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            if not self._cut:  # a worker whose connection was cut comes back at once
                poll.register(self._listening, select.POLLIN)
            numbers = {}
            for connection in self._connections:
                for end, events in connection.wanted().items():
                    numbers[connection.ends[end].fileno()] = connection, end
                    poll.register(connection.ends[end], events)
            ready = {number: events for number, events in poll.poll()}
            if self._wake in ready:
                os.read(self._wake, 4096)
                while self._commands:
                    self._commands.popleft()()
            if self._listening.fileno() in ready and not self._stopped:
                self._accept()
                continue
            for number, events in ready.items():
                connection, end = numbers.get(number, (None, None))
                # A command, or a new stream, may have closed it just now.
                if connection in self._connections and connection.ends[end] is not None:
                    self._move(connection, end, events)
            for connection in self._connections:
                connection.pass_ends()

    def _accept(self):
        worker, _ = self._listening.accept()
        daemon = socket.socket(socket.AF_UNIX)
        try:
            daemon.connect(self._target)
        except OSError:
            worker.close()
            daemon.close()
            return
        self._connections.append(Connection(worker, daemon))

    def _move(self, connection, end, events):
        was_stream = connection.is_stream
        connection.move(end, events)
        if connection.is_stream and not was_stream:
            for other in [other for other in self._connections if other is not connection]:
                self._connections.remove(other)
                other.close()
        descriptors = connection.pipes[DOWN].descriptors
        if len(descriptors) == 2:  # a ring's memory, and what wakes the daemon
            if self._ring is not None:
                self._ring.close()
            self._ring = Ring(descriptors[0])
