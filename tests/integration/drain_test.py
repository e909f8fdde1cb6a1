"""How runloopd starts and ends: signals, drain, exit codes, sockets that it is given, and what it listens on."""

import os
import signal
import socket
import unittest

import grpc

import harness
from runloop.test.v1 import test_operations_pb2 as operations_pb2

Code = grpc.StatusCode


class DrainTest(harness.TestCase):

    def test_an_idle_daemon_ends_with_0_and_removes_its_socket(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number):
                daemon = self.start_daemon()
                daemon.watch.echo('before')
                succeeded = daemon.status().ledger.succeeded
                daemon.signal(number)
                self.assertEqual(daemon.wait(), 0, daemon.stderr)
                self.assertEqual(daemon.last_ledger()['succeeded'], succeeded)
                self.assertFalse(os.path.exists(self.socket))

    def test_queued_work_runs_before_the_end_and_new_work_is_refused(self):
        daemon = self.start_daemon()
        daemon.hold()
        calls = [daemon.watch.operations.Record.future(
            operations_pb2.RecordRequest(producer=1, index=index), timeout=harness.DEADLINE) for index in range(10)]
        status = daemon.await_status(lambda status: status.ledger.queued == 10, 'all are queued')
        daemon.signal(signal.SIGTERM)
        daemon.await_status(lambda status: status.draining, 'the drain has begun')
        self.assert_fails(lambda: daemon.watch.echo('too late'), Code.UNAVAILABLE, 'DRAINING')
        daemon.let_go()
        self.assertEqual(sorted(call.result().position for call in calls), list(range(10)))
        self.assertEqual(daemon.wait(), 0, daemon.stderr)
        ledger = daemon.last_ledger()
        self.assertEqual(ledger['refused'], 1)
        admitted = status.ledger.admitted
        self.assertEqual((ledger['admitted'], ledger['succeeded']), (admitted, admitted))

    def test_a_held_thread_is_cut_off_at_the_deadline_with_3_and_named(self):
        daemon = self.start_daemon(args=['--drain_timeout=200ms'])
        daemon.hold()
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertIn(harness.HOLD, daemon.stderr)
        self.assertEqual(daemon.last_ledger()['running'], 1)

    def test_a_completion_that_never_comes_is_cut_off_at_the_deadline(self):
        daemon = self.start_daemon(args=['--drain_timeout=200ms'])
        deferred = daemon.watch.operations.Defer.future(operations_pb2.DeferRequest(), timeout=harness.DEADLINE)
        daemon.await_status(lambda status: status.ledger.deferred == 1, 'one invocation is deferred')
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertIn(deferred.code(), (Code.ABORTED, Code.UNAVAILABLE))

    def test_a_second_signal_ends_it_at_once(self):
        daemon = self.start_daemon(args=['--drain_timeout=1h'])
        daemon.hold()
        daemon.signal(signal.SIGTERM)
        daemon.await_status(lambda status: status.draining, 'the drain has begun')
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertIn('a signal during the drain', daemon.stderr)

    def test_the_socket_is_free_again_after_a_daemon_that_was_cut_off(self):
        daemon = self.start_daemon(args=['--drain_timeout=1ms'])
        daemon.hold()
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertEqual(self.start_daemon().watch.echo('again'), 'again')


class ActivationTest(harness.TestCase):
    """The protocol of systemd's socket activation: sockets from descriptor 3 on, LISTEN_FDS and LISTEN_PID."""

    def listen(self, name):
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(listening.close)
        listening.bind(os.path.join(self.directory, name))
        listening.listen()
        return listening

    def activation(self, sockets, names=''):
        """A command prefix that passes the sockets."""
        count = len(sockets)
        # By way of high numbers, since a source may have the number of a later target.
        moves = ' '.join(f'{20 + place}<&{listening.fileno()}' for place, listening in enumerate(sockets))
        places = ' '.join(f'{3 + place}<&{20 + place} {20 + place}<&-' for place in range(count))
        # Numbers above 9 need bash.
        script = f'exec {moves}; exec {places}; export LISTEN_FDS={count} LISTEN_PID=$$ {names}; exec "$@"'
        return ['bash', '-c', script, 'activate']

    def test_it_serves_the_sockets_that_it_is_given_and_leaves_their_files(self):
        first, second = self.listen('first'), self.listen('second')
        # A client may be there before the daemon is.
        early = self.connect(f'unix:{self.directory}/first')
        waiting = early.operations.Echo.future(
            operations_pb2.EchoRequest(text='early'), timeout=harness.DEADLINE, wait_for_ready=True)
        daemon = self.start_daemon(
            socket=os.path.join(self.directory, 'first'), listen=False,
            prefix=self.activation([first, second], 'LISTEN_FDNAMES=a:b'),
            pass_fds=[first.fileno(), second.fileno()])
        self.assertEqual(waiting.result().text, 'early')
        self.assertEqual(self.connect(f'unix:{self.directory}/second').echo('second'), 'second')
        self.assertEqual(list(daemon.status().addresses),
                         [f'unix:{self.directory}/first', f'unix:{self.directory}/second'])
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0, daemon.stderr)
        self.assertTrue(os.path.exists(os.path.join(self.directory, 'first')))
        # The next daemon gets the same sockets.
        again = self.start_daemon(
            socket=os.path.join(self.directory, 'first'), listen=False, prefix=self.activation([first]),
            pass_fds=[first.fileno()])
        self.assertEqual(again.watch.echo('again'), 'again')

    def test_sockets_that_are_meant_for_another_process_are_not_taken(self):
        listening = self.listen('first')
        daemon = self.start_daemon(
            prefix=['env', f'LISTEN_PID={os.getpid()}', 'LISTEN_FDS=1'], pass_fds=[listening.fileno()])
        self.assertEqual(list(daemon.status().addresses), [daemon.address])

    def test_a_descriptor_that_is_no_listening_unix_socket_is_refused(self):
        pair = socket.socketpair()
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.bind(('127.0.0.1', 0))
        tcp.listen()
        for wrong in (pair[0], tcp):
            process = self.start(
                harness.daemon_command(None, plugins=(), prefix=self.activation([wrong])), pass_fds=[wrong.fileno()])
            self.assertEqual(process.wait(), 1, process.stderr)
            self.assert_one_line(process.stderr, '^runloopd: ', 'descriptor 3|fd 3')
        for other in (*pair, tcp):
            other.close()

    def test_variables_that_make_no_sense_are_refused(self):
        for count in ('x', '-1', '7'):
            script = f'export LISTEN_PID=$$ LISTEN_FDS={count}; exec "$@"'
            process = self.start(harness.daemon_command(
                self.socket, plugins=(), prefix=['bash', '-c', script, 'activate']))
            self.assertEqual(process.wait(), 2, process.stderr)
            self.assert_one_line(process.stderr, '^runloopd: .*LISTEN_FDS')


class LocalTest(harness.TestCase):
    """Nothing of the daemon can be reached from elsewhere."""

    def test_it_has_no_network_socket(self):
        daemon = self.start_daemon()
        daemon.watch.echo('so that all of it runs')
        inodes = set()
        for number in os.listdir(f'/proc/{daemon.pid}/fd'):
            try:
                target = os.readlink(f'/proc/{daemon.pid}/fd/{number}')
            except FileNotFoundError:
                continue
            if target.startswith('socket:['):
                inodes.add(target[len('socket:['):-1])
        self.assertTrue(inodes)
        unix = set()
        with open(f'/proc/{daemon.pid}/net/unix', encoding='ascii', errors='replace') as table:
            unix.update(line.split()[6] for line in list(table)[1:])
        self.assertLessEqual(inodes, unix)
        for table in ('tcp', 'tcp6', 'udp', 'udp6', 'raw', 'packet'):
            path = f'/proc/{daemon.pid}/net/{table}'
            if os.path.exists(path):
                with open(path, encoding='ascii') as lines:
                    self.assertFalse(inodes & {field for line in lines for field in line.split()}, table)

    def test_its_socket_and_directory_are_its_users_alone(self):
        path = os.path.join(self.directory, 'a', 'b', 's')
        self.start_daemon(socket=path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        for made in ('a', 'a/b'):
            self.assertEqual(os.stat(os.path.join(self.directory, made)).st_mode & 0o777, 0o700)


if __name__ == '__main__':
    unittest.main()
