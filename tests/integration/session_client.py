"""A client of runloop's session protocol, version 1 (`runloop.v1.Dispatcher/Session`).

    with Session('unix:/run/runloop/runloopd.sock', 'my-worker') as session:
        invocation = session.dispatch('acme.v1.Writer/Open', OpenRequest(), OpenReply)
        print(invocation.result(5))

One thread writes: what gathers while it writes goes out as one message, up to BATCH_BYTES. One thread reads and never
waits for a write. `dispatch` never waits either: it refuses what the session's own bounds would refuse. All calls are
safe from any thread. Handles are plain integers in replies; `release` gives them back. A Session that has ended stays
ended: make a new one, with new ids and without the old handles.
"""
import bisect
import collections
import os
import threading
from concurrent.futures import Future

import grpc
from google.protobuf import duration_pb2
from runloop.v1 import dispatcher_pb2_grpc, handles_pb2, session_pb2, status_pb2

BATCH_BYTES = 1 << 20
_TYPE = 'type.googleapis.com/google.rpc.'


class RunloopError(Exception):
    """An invocation, or a session, that did not succeed: decide by `code` (grpc.StatusCode) and `reason`.

    `reason` is '' where the error is the operation's own, or gRPC's. `metadata` is the ErrorInfo's, `retry_after` the
    seconds to wait at least, or None.
    """

    def __init__(self, code, reason, message, metadata=None, retry_after=None):
        super().__init__(f'{code.name}{f" ({reason})" if reason else ""}: {message}')
        self.code, self.reason, self.message = code, reason, message
        self.metadata, self.retry_after = metadata or {}, retry_after


def error_of(status):
    """The RunloopError that a `runloop.v1.Status` (or its bytes) tells of."""
    if isinstance(status, bytes):
        status = status_pb2.Status.FromString(status)
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    reason, metadata, retry_after = '', {}, None
    for detail in status.details:
        if detail.type_url == _TYPE + 'ErrorInfo':
            info = status_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == 'runloop':
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.type_url == _TYPE + 'RetryInfo':
            delay = status_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    return RunloopError(code, reason, status.message, metadata, retry_after)


def error_of_rpc(error):
    """The RunloopError that a grpc.RpcError tells of, from its trailing metadata where it has one."""
    for key, value in error.trailing_metadata() or ():
        if key == 'grpc-status-details-bin':
            return error_of(value)
    return RunloopError(error.code(), '', error.details())


class Invocation(Future):
    """What was dispatched. `result()` is the reply, or None where no reply was wanted; or raises RunloopError.

    `cancel()` and `give_up()` ask the daemon; the outcome that follows says whether they came in time.
    """

    def __init__(self, session, number, reply_type):
        super().__init__()
        self.number, self.reply_wanted = number, reply_type is not None
        self._session, self._reply_type, self._sent = session, reply_type, False
        self.set_running_or_notify_cancel()  # from here on only the daemon can cancel it

    def cancel(self):
        """Asks that it not start. Returns False, as a Future does that cannot say yet."""
        self._session._cancel(self.number, give_up=False)
        return False

    def give_up(self):
        """Nobody will look at its reply: prompt answer, and no handles that it makes are left over."""
        self._session._cancel(self.number, give_up=True)

    def _settle(self, outcome):
        if outcome is None:  # success was told without a reply
            if self.reply_wanted:
                self.set_exception(RunloopError(grpc.StatusCode.INTERNAL, '', 'the daemon left out the reply'))
            else:
                self.set_result(None)
        elif outcome.WhichOneof('result') == 'reply':
            try:
                self.set_result(self._reply_type.FromString(outcome.reply) if self.reply_wanted else None)
            except Exception as error:  # a reply of another type
                self.set_exception(error)
        else:
            self.set_exception(error_of(outcome.status))


class Session:
    """One session. Raises RunloopError where there is no daemon, or it refuses; see the module for the rest."""

    def __init__(self, address=None, client_name='python', versions=(1, 1)):
        address = address or default_address()
        if not address.startswith('unix:'):
            address = 'unix:' + address
        self._lock = threading.Condition()
        self._unfinished = {}  # by number, which rises: dicts keep the order
        self._unfinished_bytes = 0
        self._sizes = {}
        self._waiting = collections.deque()  # (message size, Dispatch or Cancel), to be written
        self._last, self._ended, self._half_closed = 0, None, False
        self.draining = False
        # For tests: messages written; invocations settled by `succeeded`; outcomes of what was not unfinished.
        self.requests = self.acknowledged = self.settled_twice = 0
        self._channel = grpc.insecure_channel(address, options=[
            ('grpc.max_receive_message_length', -1), ('grpc.use_local_subchannel_pool', 1)])
        hello = session_pb2.Hello(versions=session_pb2.VersionRange(min=versions[0], max=versions[1]),
                                  client_name=client_name, transports=[session_pb2.TRANSPORT_STREAM])
        self._stream = dispatcher_pb2_grpc.DispatcherStub(self._channel).Session(self._write(hello))
        try:
            first = next(self._stream)
        except (grpc.RpcError, StopIteration) as error:
            self._end('not opened')
            self._channel.close()
            if isinstance(error, StopIteration):
                raise RunloopError(grpc.StatusCode.UNKNOWN, '', 'the stream ended before a welcome') from None
            raise error_of_rpc(error) from None
        self.welcome = first.welcome
        self.limits = first.welcome.limits
        self._operations = {operation.name: operation.id for operation in first.welcome.operations}
        self._reader = threading.Thread(target=self._read, name='runloop-session', daemon=True)
        self._reader.start()

    @property
    def id(self):
        """For the metadata `runloop-session` of plain calls that join."""
        return self.welcome.session_id

    def dispatch(self, operation, request, reply_type=None, timeout=None, coalesce_key=''):
        """Dispatches, without waiting; what is dispatched runs in that order. A `reply_type` asks for the reply.

        `operation` is `package.Service/Method`, `timeout` seconds until it must have started. Raises RunloopError
        where nothing was sent: the session ended or drains, or a bound of its own is reached.
        """
        item = session_pb2.Dispatch(request=request.SerializeToString(), reply_wanted=reply_type is not None,
                                    coalesce_key=coalesce_key)
        if timeout is not None:
            if timeout <= 0:  # on the wire that would mean: no timeout
                raise ValueError('the timeout must be positive')
            item.timeout.CopyFrom(duration_pb2.Duration(seconds=int(timeout), nanos=int(timeout % 1 * 1e9)))
        if operation in self._operations:
            item.operation_id = self._operations[operation]
        else:
            item.operation_name = operation
        with self._lock:
            if self.draining and not self._ended:
                raise RunloopError(grpc.StatusCode.UNAVAILABLE, 'DRAINING', 'not sent: the daemon is draining')
            if self._ended or self._half_closed:
                raise RunloopError(grpc.StatusCode.UNAVAILABLE, 'NOT_CONNECTED', f'not sent: {self._ended or "closed"}')
            size, limits = len(item.request), self.limits
            if (0 < limits.max_unfinished <= len(self._unfinished) or
                    0 < limits.max_unfinished_bytes < self._unfinished_bytes + size):
                raise RunloopError(grpc.StatusCode.RESOURCE_EXHAUSTED, 'QUEUE_FULL', 'not sent: the session is full',
                                   {'bound': 'session'}, 0.01)
            item.invocation_id = self._last + 1
            if 0 < limits.max_message_bytes < item.ByteSize() + 64:
                raise RunloopError(grpc.StatusCode.RESOURCE_EXHAUSTED, 'MESSAGE_TOO_LARGE', 'not sent: too large')
            self._last += 1
            invocation = self._unfinished[self._last] = Invocation(self, self._last, reply_type)
            self._sizes[self._last] = size
            self._unfinished_bytes += size
            self._waiting.append(item)
            self._lock.notify_all()
            return invocation

    def release(self, handle):
        """Closes what the handle names; answers when it is closed."""
        return self.dispatch('runloop.v1.Handles/Release', handles_pb2.ReleaseRequest(handle=handle))

    def drain_own(self, timeout=10):
        """Half-closes: what was dispatched still runs. False if the stream had not ended after `timeout` seconds."""
        with self._lock:
            self._half_closed = True
            self._lock.notify_all()
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def abort(self):
        """Ends the session at once: what has not started never runs, and what is unfinished ends as SESSION_LOST."""
        self._stream.cancel()
        self._reader.join(10)
        self._channel.close()

    def close(self, timeout=10):
        """Lets what was dispatched run, for at most `timeout` seconds, and ends the session."""
        self.drain_own(timeout)
        self.abort()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close() if kind is None else self.abort()

    def _cancel(self, number, give_up):
        with self._lock:
            if not self._ended and not self._half_closed:
                self._waiting.append(session_pb2.Cancel(invocation_id=number, give_up=give_up))
                self._lock.notify_all()

    def _write(self, hello):
        """The requests; gRPC's thread takes one whenever it has written the one before."""
        yield session_pb2.SessionRequest(hello=hello)
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._half_closed or self._ended)
                if self._ended or not self._waiting:
                    return
                # In a message all dispatches are taken before all cancels. So a dispatch after a cancel goes into the
                # next one; it need not, as ids are never used twice, but then what is sent is what was asked.
                message, room = session_pb2.SessionRequest(), max(1024, 2 * self.limits.max_unfinished)
                size = 0
                while self._waiting and room > 0:
                    item = self._waiting[0]
                    is_dispatch = isinstance(item, session_pb2.Dispatch)
                    size += item.ByteSize() + 8
                    if (message.dispatches or message.cancels) and size > min(
                            BATCH_BYTES, self.limits.max_message_bytes or BATCH_BYTES):
                        break
                    if is_dispatch and message.cancels:
                        break
                    (message.dispatches if is_dispatch else message.cancels).append(self._waiting.popleft())
                    if is_dispatch and item.invocation_id in self._unfinished:
                        self._unfinished[item.invocation_id]._sent = True
                    room -= 1
                self.requests += 1
            yield message

    def _read(self):
        lost = None
        try:
            for message in self._stream:
                self._take(message)
        except grpc.RpcError as error:
            lost = error_of_rpc(error)
        self._end(lost or 'the daemon ended the session')

    def _take(self, message):
        settled = []
        with self._lock:
            for outcome in message.outcomes:
                settled.append((self._pop(outcome.invocation_id), outcome))
            if message.HasField('succeeded'):
                for number in self._numbers_in(message.succeeded):
                    settled.append((self._pop(number), None))
                    self.acknowledged += 1
            self.draining = self.draining or message.HasField('draining')
        for invocation, outcome in settled:  # without the lock: callbacks may dispatch
            if invocation is not None:
                invocation._settle(outcome)

    def _numbers_in(self, succeeded):
        """The unfinished numbers in the set. Both sides ascend, so this takes the smaller of the two."""
        numbers = list(self._unfinished)
        found = numbers[:bisect.bisect_right(numbers, succeeded.watermark)]
        for span in succeeded.ranges:
            found += numbers[bisect.bisect_left(numbers, span.first):bisect.bisect_right(numbers, span.last)]
        return found

    def _pop(self, number):
        invocation = self._unfinished.pop(number, None)
        if invocation is None:
            self.settled_twice += 1
        self._unfinished_bytes -= self._sizes.pop(number, 0)
        return invocation

    def _end(self, why):
        with self._lock:
            self._ended, lost, self._unfinished = why, self._unfinished, {}
            self._waiting.clear()
            self._lock.notify_all()
        for invocation in lost.values():
            if invocation._sent:
                error = RunloopError(grpc.StatusCode.UNKNOWN, 'SESSION_LOST', f'it may have run: {why}')
            else:
                error = RunloopError(grpc.StatusCode.UNAVAILABLE, 'NOT_CONNECTED', f'not sent: {why}')
            invocation.set_exception(error)


def default_address():
    """Where the daemon listens: RUNLOOP_ADDRESS, or the user's or the system's own socket."""
    home = '/run' if os.geteuid() == 0 else os.environ.get('XDG_RUNTIME_DIR', '')
    return os.environ.get('RUNLOOP_ADDRESS') or f'{home}/runloop/runloopd.sock'
