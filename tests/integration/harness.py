"""Starts the processes that the tests are about, and waits for what they do: on conditions, with deadlines."""

import collections
import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc

from health.v1 import health_pb2_grpc
from runloop.test.v1 import test_control_pb2, test_control_pb2_grpc
from runloop.test.v1 import test_operations_pb2, test_operations_pb2_grpc
from runloop.v1 import diagnostics_pb2, diagnostics_pb2_grpc
from runloop.v1 import dispatcher_pb2_grpc
from runloop.v1 import side_channel_pb2, status_pb2

BUILD = os.environ['RUNLOOP_BUILD_DIR']
SOURCE = os.environ['RUNLOOP_SOURCE_DIR']
CLIENTS = os.environ['RUNLOOP_CLIENTS_DIR']

RUNLOOPD = os.path.join(BUILD, 'bin', 'runloopd')
RUNLOOPCTL = os.path.join(BUILD, 'bin', 'runloopctl')

# For anything that takes no time on an idle machine: generous, so that a busy one passes too.
DEADLINE = 60

HOLD = 'runloop.test.v1.TestOperations/Hold'
RECORD = 'runloop.test.v1.TestOperations/Record'
ECHO = 'runloop.test.v1.TestOperations/Echo'


def plugin(kind):
    return os.path.join(BUILD, 'lib', 'plugins', f'runloop_{kind}_plugin.so')


def program(name):
    return os.path.join(BUILD, 'bin', name)


def wait_until(condition, what, deadline=DEADLINE):
    """Returns condition()'s first true value; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f'after {deadline} s still not: {what}')
        pause.wait(0.01)


class Process:
    """A child process that ends with this one. Its stdout and stderr are gathered by line."""

    def __init__(self, command, env=None, pass_fds=(), stdin=subprocess.DEVNULL, cwd=None):
        environment = {name: value for name, value in os.environ.items() if not name.startswith('RUNLOOP_')}
        environment.update(env or {})
        self.command = command
        self.popen = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL', '--'] + command, env=environment, pass_fds=pass_fds, stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace', cwd=cwd)
        self.changed = threading.Condition()
        self.lines = {'stdout': [], 'stderr': []}
        self.open = {'stdout', 'stderr'}
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.lines]
        for reader in self.readers:
            reader.start()

    def _read(self, name):
        with getattr(self.popen, name) as pipe:
            for line in pipe:
                with self.changed:
                    self.lines[name].append(line.rstrip('\n'))
                    self.changed.notify_all()
        with self.changed:
            self.open.discard(name)
            self.changed.notify_all()

    @property
    def pid(self):
        return self.popen.pid

    @property
    def stdout(self):
        with self.changed:
            return '\n'.join(self.lines['stdout'])

    @property
    def stderr(self):
        with self.changed:
            return '\n'.join(self.lines['stderr'])

    def await_line(self, pattern, stream='stderr', deadline=DEADLINE):
        """Waits for a line that `pattern` is found in and returns the match."""
        found = []

        def there():
            for line in self.lines[stream]:
                match = re.search(pattern, line)
                if match:
                    found.append(match)
                    return True
            return stream not in self.open

        with self.changed:
            self.changed.wait_for(there, deadline)
        if not found:
            raise AssertionError(f'{self.command} did not say {pattern!r} on {stream}; it said:\n'
                                 f'{self.stdout}\n{self.stderr}')
        return found[0]

    def write(self, text):
        self.popen.stdin.write(text)
        self.popen.stdin.flush()

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, deadline=DEADLINE):
        """Waits for its end and for the end of what it said; returns the exit code."""
        try:
            code = self.popen.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'{self.command} still runs after {deadline} s; it said:\n'
                                 f'{self.stdout}\n{self.stderr}') from None
        for reader in self.readers:
            reader.join(deadline)
        return code

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for reader in self.readers:
            reader.join(5)
        if self.popen.stdin:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()


Result = collections.namedtuple('Result', 'code stdout stderr')


def run(command, env=None, deadline=DEADLINE, cwd=None):
    """Runs a command to its end."""
    process = Process(command, env=env, cwd=cwd)
    try:
        code = process.wait(deadline)
        return Result(code, process.stdout, process.stderr)
    finally:
        process.close()


class Stubs:
    """Generated stubs over one channel."""

    def __init__(self, channel):
        self.channel = channel
        self.operations = test_operations_pb2_grpc.TestOperationsStub(channel)
        self.control = test_control_pb2_grpc.TestControlStub(channel)
        self.dispatcher = dispatcher_pb2_grpc.DispatcherStub(channel)
        self.diagnostics = diagnostics_pb2_grpc.DiagnosticsStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def echo(self, text, **options):
        options.setdefault('timeout', DEADLINE)
        return self.operations.Echo(test_operations_pb2.EchoRequest(text=text), **options).text

    def record(self, deadline=DEADLINE):
        """What Record recorded: a list of (producer, index); and the sessions that have ended."""
        reply = self.control.GetRecord(test_control_pb2.GetRecordRequest(), timeout=deadline)
        return list(zip(reply.producers, reply.indices)), list(reply.ended_sessions)


def connect(address, **options):
    """A channel with a connection of its own."""
    options.setdefault('grpc.max_receive_message_length', 256 << 20)
    return grpc.insecure_channel(address, options=[('grpc.use_local_subchannel_pool', 1)] + list(options.items()))


# What a daemon holds. All of it returns to the old numbers when a client has gone. gRPC's pools are not counted: they
# grow with the load, to a bound that goes by the number of processors, and keep their threads.
GRPC_POOLS = ('default-executo', 'event_engine', 'grpc_global_tim', 'resolver-execut', 'timer_manager')
Usage = collections.namedtuple('Usage', 'files threads connections sessions')


class Daemon(Process):
    """A runloopd at `socket`, which accepts when this returns."""

    def __init__(self, socket, plugins=(plugin('test'),), args=(), env=None, listen=True, prefix=(), pass_fds=()):
        self.socket = socket
        self.fifo = None
        self._watch = None
        super().__init__(daemon_command(socket if listen else None, plugins, args, prefix), env=env, pass_fds=pass_fds)
        try:
            self.await_line('listening')
        except AssertionError:
            self.close()
            raise

    @property
    def address(self):
        return f'unix:{self.socket}'

    @property
    def watch(self):
        """Stubs over one connection that stays: asking by it changes no number."""
        if self._watch is None:
            self._watch = Stubs(connect(self.address))
        return self._watch

    def status(self):
        return self.watch.diagnostics.GetStatus(diagnostics_pb2.GetStatusRequest(), timeout=DEADLINE)

    def usage(self):
        status = self.status()
        threads = [name for name in self.thread_names() if name not in GRPC_POOLS]
        return Usage(len(os.listdir(f'/proc/{self.pid}/fd')), len(threads), status.connections, len(status.sessions))

    def thread_names(self):
        names = []
        for thread in os.listdir(f'/proc/{self.pid}/task'):
            with contextlib.suppress(OSError), open(f'/proc/{self.pid}/task/{thread}/comm', encoding='utf-8') as name:
                names.append(name.read().strip())
        return names

    def await_usage(self, before):
        """Waits until the daemon holds no more than `before`."""
        seen = []

        def back():
            seen[:] = [self.usage()]
            return all(now <= then for now, then in zip(seen[0], before))

        try:
            wait_until(back, 'the daemon holds what it held before')
        except AssertionError as error:
            raise AssertionError(f'{error}: {before} before, {seen[0]} now') from None

    def await_status(self, condition, what):
        """Waits for a status for which `condition` holds and returns it."""
        def look():
            status = self.status()
            return status if condition(status) else None
        return wait_until(look, what)

    def steer(self):
        """Makes the test plugin listen to commands: see test_control.proto. What sends them does so itself, too."""
        if self.fifo is None:
            path = self.socket + '.commands'
            os.mkfifo(path, 0o600)
            self.watch.control.Steer(test_control_pb2.SteerRequest(fifo=path), timeout=DEADLINE)
            # Waits until the plugin has opened its end.
            self.fifo = open(path, 'w', buffering=1)

    def _command(self, line):
        self.steer()
        self.fifo.write(line + '\n')

    def hold(self):
        """Holds the runtime thread until let_go; returns the call that holds it."""
        self.steer()
        call = self.watch.operations.Hold.future(test_operations_pb2.HoldRequest())
        self.await_status(lambda status: status.thread.current_operation == HOLD, 'the thread is held')
        return call

    def let_go(self):
        self._command('let-go')

    def finish_deferred(self, text):
        self._command(f'finish {text}')

    def last_ledger(self):
        """The ledger that it printed at its end."""
        line = self.await_line(r'ledger: (.*)').group(1)
        return {name: int(number) for name, number in re.findall(r'([a-z]+) (\d+)', line)}

    def close(self):
        if self._watch is not None:
            self._watch.channel.close()
        if self.fifo is not None:
            self.fifo.close()
        super().close()
        if len(self.stderr.splitlines()) > 1:
            print(f'--- runloopd {self.pid} said:\n{self.stderr}\n---', file=sys.stderr)


def daemon_command(socket, plugins=(plugin('test'),), args=(), prefix=()):
    return ([*prefix, RUNLOOPD] + ([f'--listen=unix:{socket}'] if socket else []) +
            [f'--plugin={path}' for path in plugins] + list(args))


class TestCase(unittest.TestCase):
    """A test with a directory of its own, whose processes end with it."""

    longMessage = True

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix='runloop-')
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.socket = os.path.join(self.directory, 's')

    def start_daemon(self, **options):
        options.setdefault('socket', self.socket)
        daemon = Daemon(**options)
        self.addCleanup(daemon.close)
        return daemon

    def start(self, command, **options):
        process = Process(command, **options)
        self.addCleanup(process.close)
        return process

    def connect(self, address, **options):
        channel = connect(address, **options)
        self.addCleanup(channel.close)
        return Stubs(channel)

    def ctl(self, *arguments, address=None, **options):
        """Runs runloopctl against the test's socket."""
        return run([RUNLOOPCTL, f'--address={address or "unix:" + self.socket}', *arguments], **options)

    def assert_fails(self, call, code, reason=None):
        """Calls it; checks the status code and the reason in its ErrorInfo; returns the error."""
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        error = caught.exception
        self.assertEqual(error.code(), code, error.details())
        if reason is not None:
            self.assertEqual(error_info(error).reason, reason, error.details())
        return error

    def assert_one_line(self, text, *parts):
        """The text is one line that holds all of `parts`."""
        self.assertEqual(len(text.strip().splitlines()), 1, f'not one line:\n{text}')
        for part in parts:
            self.assertRegex(text, part)


def ask(connection, request, descriptors=()):
    """Sends one frame by a side channel, with descriptors, and returns the status of the answer."""
    socket.send_fds(connection, [struct.pack('<I', len(request)) + request], list(descriptors))
    answer = b''
    while len(answer) < 4 or len(answer) < 4 + struct.unpack('<I', answer[:4])[0]:
        received = connection.recv(65536)
        if not received:
            raise AssertionError('the side channel has ended')
        answer += received
    return side_channel_pb2.SideChannelResponse.FromString(answer[4:]).status


def session_is_open(stubs, session):
    """True if a plain call of this process may join the session; only its own process may."""
    try:
        stubs.echo('', metadata=(('runloop-session', session),), timeout=0.2)
    except grpc.RpcError as error:
        return error.code() != grpc.StatusCode.INVALID_ARGUMENT
    return True


def error_info(error):
    """The ErrorInfo in an RPC's details, decoded as any client would that knows google.rpc."""
    for key, value in error.trailing_metadata() or ():
        if key == 'grpc-status-details-bin':
            return info_of(status_pb2.Status.FromString(value))
    raise AssertionError(f'no details: {error}')


def info_of(status):
    """The ErrorInfo in a runloop.v1.Status."""
    for detail in status.details:
        if detail.type_url == 'type.googleapis.com/google.rpc.ErrorInfo':
            info = status_pb2.ErrorInfo.FromString(detail.value)
            assert info.domain == 'runloop', info
            return info
    raise AssertionError(f'no ErrorInfo: {status}')
