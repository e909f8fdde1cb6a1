"""A unix socket that passes bytes on to another one, until it is told to hold them or to cut the connection."""

import collections
import contextlib
import os
import select
import socket
import threading

UP, DOWN = 'up', 'down'  # from the worker to the daemon, and back
WORKER, DAEMON = 'worker', 'daemon'  # the ends

# More than this is left in the kernel, so that a sender notices that nobody reads.
LIMIT = 1 << 18
CHUNK = 1 << 16


class Pipe:
    """One direction of the connection."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink  # the ends' names
        self.held = False
        self.held_end = False  # keeps the source's end from the sink even when nothing else is held
        self.buffer = bytearray()
        self.ended = False  # the source has said all it will
        self.end_passed = False


class Proxy:
    """Listens at `path`, connects each worker that comes to the daemon at `target`. One worker at a time: the holds
    and cuts are about the connection that came last. The daemon sees this process as its peer."""

    def __init__(self, path, target):
        self._target = target
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._ends = {WORKER: None, DAEMON: None}
        self._pipes = {UP: Pipe(WORKER, DAEMON), DOWN: Pipe(DAEMON, WORKER)}
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
        return self._call(lambda: bytes(self._pipes[direction].buffer))

    def drop(self):
        """Forgets what is kept."""
        self._call(lambda: [pipe.buffer.clear() for pipe in self._pipes.values()])

    def cut(self, end):
        """Closes the connection to one end. The other end is not told, and nobody else is let in, until tell()."""
        def close():
            self._cut = True
            for pipe in self._pipes.values():
                if pipe.source == end:
                    pipe.held_end = pipe.ended = True
                else:
                    pipe.buffer.clear()
            self._close_end(end)
        self._call(close)

    def tell(self):
        """Closes the connection to both ends."""
        def close():
            self._cut = False
            for end in self._ends:
                self._close_end(end)
        self._call(close)

    def close(self):
        self._call(lambda: setattr(self, '_stopped', True))
        self._thread.join()
        for end in self._ends:
            self._close_end(end)
        self._listening.close()
        os.close(self._wake)
        os.close(self._waker)

    # The thread.

    def _set(self, directions, name, value):
        self._call(lambda: [setattr(self._pipes[direction], name, value) for direction in directions])

    def _call(self, function):
        """Runs it on the proxy's thread."""
        result = []
        done = threading.Event()
        self._commands.append(lambda: (result.append(function()), done.set()))
        os.write(self._waker, b'!')
        done.wait()
        return result[0]

    def _run(self):
        while not self._stopped:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            if not self._cut:  # a worker whose connection was cut comes back at once
                poll.register(self._listening, select.POLLIN)
            wanted = collections.Counter()
            for pipe in self._pipes.values():
                if not pipe.ended and len(pipe.buffer) < LIMIT:
                    wanted[pipe.source] |= select.POLLIN
                if pipe.buffer and not pipe.held:
                    wanted[pipe.sink] |= select.POLLOUT
            numbers = {}
            for end, events in wanted.items():
                if self._ends[end] is not None:
                    numbers[self._ends[end].fileno()] = end
                    poll.register(self._ends[end], events)
            ready = {number: events for number, events in poll.poll()}
            if self._wake in ready:
                os.read(self._wake, 4096)
                while self._commands:
                    self._commands.popleft()()
            if self._listening.fileno() in ready and not self._stopped:
                self._accept()
                continue
            for number, events in ready.items():
                end = numbers.get(number)
                # A command may have closed it just now.
                if end is not None and self._ends[end] is not None and self._ends[end].fileno() == number:
                    self._move(end, events)
            for pipe in self._pipes.values():
                self._pass_end(pipe)

    def _accept(self):
        worker, _ = self._listening.accept()
        for end in self._ends:
            self._close_end(end)
        for pipe in self._pipes.values():
            pipe.__init__(pipe.source, pipe.sink)
        daemon = socket.socket(socket.AF_UNIX)
        try:
            daemon.connect(self._target)
        except OSError:
            worker.close()
            daemon.close()
            return
        self._ends = {WORKER: worker, DAEMON: daemon}
        for connected in self._ends.values():
            connected.setblocking(False)

    def _move(self, end, events):
        for pipe in self._pipes.values():
            if pipe.source == end and not pipe.ended and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                with contextlib.suppress(BlockingIOError):
                    try:
                        read = self._ends[end].recv(CHUNK)
                    except ConnectionError:
                        read = b''
                    pipe.buffer += read
                    pipe.ended = not read
            if pipe.sink == end and pipe.buffer and not pipe.held and events & (select.POLLOUT | select.POLLERR):
                try:
                    del pipe.buffer[:self._ends[end].send(pipe.buffer)]
                except BlockingIOError:
                    pass
                except ConnectionError:
                    pipe.buffer.clear()

    def _pass_end(self, pipe):
        if pipe.ended and not pipe.end_passed and not pipe.held and not pipe.held_end and not pipe.buffer:
            pipe.end_passed = True
            if self._ends[pipe.sink] is not None:
                with contextlib.suppress(OSError):
                    self._ends[pipe.sink].shutdown(socket.SHUT_WR)

    def _close_end(self, end):
        if self._ends[end] is not None:
            self._ends[end].close()
            self._ends[end] = None
