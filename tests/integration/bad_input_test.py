"""What goes wrong at the edges: each ends in one line that says what to do, and the daemon goes on serving others."""

import json
import os
import shutil
import socket
import unittest

import grpc

import harness
from runloop.test.v1 import test_operations_pb2 as operations_pb2
from runloop.v1 import side_channel_pb2

Code = grpc.StatusCode
PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
EMPTY_SETTINGS = b'\x00\x00\x00\x04\x00\x00\x00\x00\x00'


class NoDaemonTest(harness.TestCase):

    def assert_says_what_to_do(self, result):
        self.assertEqual(result.code, 69, result.stderr)
        self.assertEqual(result.stdout, '')
        self.assert_one_line(result.stderr, '^runloopctl: ', self.socket, 'runloopd')

    def test_without_a_daemon_every_command_says_what_to_do(self):
        for arguments in (['status'], ['operations'], ['operations', '--describe', harness.ECHO],
                          ['call', harness.ECHO, '{}'], ['run', '--', '/bin/true']):
            with self.subTest(arguments):
                self.assert_says_what_to_do(self.ctl(*arguments))

    def test_a_socket_that_nobody_listens_on_any_more_is_no_daemon(self):
        daemon = self.start_daemon()
        daemon.popen.kill()
        daemon.wait()
        self.assertTrue(os.path.exists(self.socket))
        self.assert_says_what_to_do(self.ctl('status'))

    def test_an_address_that_is_none_is_a_usage_error(self):
        for address in ('tcp:localhost:1', 'unix:', 'unix:' + 'x' * 200):
            with self.subTest(address):
                result = self.ctl('status', address=address)
                self.assertEqual(result.code, 2, result.stderr)
                self.assert_one_line(result.stderr, '^runloopctl: ')
                result = harness.run([harness.RUNLOOPD, f'--listen={address}'])
                self.assertEqual(result.code, 2)
                self.assert_one_line(result.stderr, '^runloopd: ')

    def test_what_listens_but_is_no_daemon_is_told_so_within_the_timeout(self):
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(self.socket)
        listening.listen()
        result = self.ctl('--timeout=300ms', 'status')
        self.assertNotEqual(result.code, 0)
        self.assert_one_line(result.stderr, '^runloopctl: ', self.socket)


    def test_a_timeout_that_is_none_is_a_usage_error(self):
        for timeout in ('', 'soon', '0', '-1s', '-inf'):
            with self.subTest(timeout):
                result = self.ctl(f'--timeout={timeout}', 'status')
                self.assertEqual(result.code, 2, result.stderr)
                self.assert_one_line(result.stderr, '^runloopctl: .*--timeout')


    def test_an_option_without_its_value_is_a_usage_error(self):
        for arguments in (['--address=', 'status'], ['status', '--timeout=']):
            with self.subTest(arguments):
                result = harness.run([harness.RUNLOOPCTL, *arguments])
                self.assertEqual(result.code, 2, result.stderr)
                self.assert_one_line(result.stderr, '^runloopctl: --(address|timeout): no value')

    def test_a_command_that_there_is_not_is_named(self):
        result = self.ctl('--timeout', '5s', 'statsu')
        self.assertEqual(result.code, 2, result.stderr)
        self.assert_one_line(result.stderr, "^runloopctl: there is no command 'statsu'; did you mean 'status'")

    def test_a_drain_of_more_than_a_day_is_a_usage_error(self):
        result = self.ctl('drain', '--timeout', '48h')
        self.assertEqual(result.code, 2, result.stderr)
        self.assert_one_line(result.stderr, '^runloopctl: --timeout: a drain takes a day at most')

    def test_with_json_an_error_is_an_object(self):
        result = self.ctl('--json', 'status')
        self.assertEqual(result.code, 69, result.stderr)
        error = json.loads(result.stderr)
        self.assertEqual((error['code'], error['reason']), ('UNAVAILABLE', 'NOT_CONNECTED'))
        self.assertIn(self.socket, error['message'])
        result = self.ctl('--json', 'statsu')
        self.assertEqual(result.code, 2, result.stderr)
        self.assertEqual(json.loads(result.stderr)['code'], 'INVALID_ARGUMENT')

    def test_help_may_be_asked_for_by_a_word(self):
        result = self.ctl('help')
        self.assertEqual(result.code, 0, result.stderr)
        self.assertIn('exit codes', result.stdout)


class TimeoutTest(harness.TestCase):

    def test_a_timeout_may_be_endless(self):
        self.start_daemon()
        for timeout in ('inf', '10000000h'):
            for arguments in (['status'], ['call', harness.ECHO, '{}'], ['run', '--', '/bin/true']):
                with self.subTest(timeout=timeout, arguments=arguments):
                    result = self.ctl(f'--timeout={timeout}', *arguments)
                    self.assertEqual(result.code, 0, result.stderr)


class LostCallTest(harness.TestCase):

    def test_a_call_whose_daemon_dies_may_have_run(self):
        daemon = self.start_daemon()
        daemon.steer()
        call = self.start([harness.RUNLOOPCTL, '--address', daemon.address, '--json', 'call', harness.HOLD, '{}'])
        daemon.await_status(lambda status: status.thread.current_operation == harness.HOLD, 'it runs')
        daemon.popen.kill()
        self.assertEqual(call.wait(), 1, call.stderr)
        error = json.loads(call.stderr)
        self.assertEqual((error['code'], error['reason']), ('UNKNOWN', 'SESSION_LOST'))


class SocketTest(harness.TestCase):

    def run_daemon(self, *arguments, socket_path=None):
        return harness.run(harness.daemon_command(socket_path or self.socket, plugins=(), args=arguments))

    def test_a_second_daemon_on_one_socket_is_refused_and_the_first_goes_on(self):
        daemon = self.start_daemon()
        result = self.run_daemon()
        self.assertEqual(result.code, 1, result.stderr)
        self.assert_one_line(result.stderr, '^runloopd: ', self.socket, '--listen')
        self.assertEqual(self.connect(daemon.address).echo('the first'), 'the first')

    def test_of_daemons_started_at_the_same_moment_one_serves_and_the_others_say_why(self):
        for stale in (False, True):
            with self.subTest(stale=stale):
                if stale:
                    self.leave_stale_socket()
                daemons = [self.start(harness.daemon_command(self.socket)) for _ in range(4)]
                harness.wait_until(lambda: sum(daemon.popen.poll() is not None for daemon in daemons) == 3,
                                   'all but one have ended')
                serving = next(daemon for daemon in daemons if daemon.popen.poll() is None)
                serving.await_line('listening')
                for daemon in daemons:
                    if daemon is not serving:
                        self.assertEqual(daemon.wait(), 1, daemon.stderr)
                        self.assert_one_line(daemon.stderr, '^runloopd: ', self.socket)
                self.assertEqual(self.connect(f'unix:{self.socket}').echo('the one'), 'the one')
                serving.popen.terminate()
                self.assertEqual(serving.wait(), 0, serving.stderr)

    def leave_stale_socket(self):
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(self.socket)
        stale.listen()
        stale.close()

    def test_a_socket_that_nobody_listens_on_is_replaced(self):
        self.leave_stale_socket()
        self.assertEqual(self.start_daemon().watch.echo('replaced'), 'replaced')

    def test_the_socket_of_a_killed_daemon_is_replaced(self):
        first = self.start_daemon()
        first.popen.kill()
        first.wait()
        self.assertEqual(self.start_daemon().watch.echo('replaced'), 'replaced')

    def test_a_file_that_is_no_socket_is_left_alone(self):
        with open(self.socket, 'w', encoding='utf-8') as file:
            file.write('precious')
        result = self.run_daemon()
        self.assertEqual(result.code, 1, result.stderr)
        self.assert_one_line(result.stderr, '^runloopd: ', self.socket, '--listen')
        with open(self.socket, encoding='utf-8') as file:
            self.assertEqual(file.read(), 'precious')

    def test_a_directory_that_others_can_write_is_refused(self):
        os.chmod(self.directory, 0o777)
        result = self.run_daemon()
        self.assertEqual(result.code, 1, result.stderr)
        self.assert_one_line(result.stderr, '^runloopd: ', self.directory, '0777', '--listen')

    def test_a_directory_that_cannot_be_written_is_refused(self):
        # /proc cannot be written by root either.
        for path, directory in (('/proc/s', '/proc'), (f'{self.directory}/file/s', f'{self.directory}/file')):
            with self.subTest(path):
                with open(os.path.join(self.directory, 'file'), 'w', encoding='utf-8'):
                    pass
                result = self.run_daemon(socket_path=path)
                self.assertEqual(result.code, 1, result.stderr)
                self.assert_one_line(result.stderr, '^runloopd: ', directory)

    def test_wrong_flags_are_a_usage_error(self):
        for flag in ('--lop=glib', '--loop=qt', '--max_message_bytes=0', '--max_message_bytes=many',
                     '--drain_timeout=soon', '--drain_timeout=-1s', 'positional'):
            with self.subTest(flag):
                result = self.run_daemon(flag)
                self.assertEqual(result.code, 2, result.stderr)
                self.assert_one_line(result.stderr, '^runloopd: ', '--help')

    def test_a_bound_that_the_largest_message_does_not_fit_into_is_a_usage_error(self):
        for bound in ('session', 'user', 'total'):
            with self.subTest(bound):
                result = self.run_daemon('--max_message_bytes=2MiB', f'--{bound}_bound=10,1MiB')
                self.assertEqual(result.code, 2, result.stderr)
                self.assert_one_line(result.stderr, f'^runloopd: --{bound}_bound: .*--max_message_bytes', '--help')
        self.start_daemon(args=['--max_message_bytes=1MiB'] + [
            f'--{bound}_bound=10,1MiB' for bound in ('session', 'user', 'total')])

    def test_help_and_version_are_answers(self):
        for program, flag in ((harness.RUNLOOPD, '--help'), (harness.RUNLOOPD, '--version'),
                              (harness.RUNLOOPCTL, '--help'), (harness.RUNLOOPCTL, '--version')):
            result = harness.run([program, flag])
            self.assertEqual(result.code, 0)
            self.assertTrue(result.stdout)
            self.assertEqual(result.stderr, '')

    def test_the_help_of_a_command_shows_its_flags_as_they_are_written(self):
        for command, flag in (('drain', '--no-wait'), ('run', '--no-sandbox')):
            result = harness.run([harness.RUNLOOPCTL, command, '--help'])
            self.assertEqual(result.code, 0)
            self.assertRegex(result.stdout, rf'{flag}\s')
            self.assertNotIn('{', result.stdout)


class PluginTest(harness.TestCase):

    def assert_refused(self, plugins, *parts):
        """The last of the plugins is refused in one line that names it, and nothing is left at the socket."""
        result = harness.run(harness.daemon_command(self.socket, plugins=plugins))
        self.assertEqual(result.code, 2, result.stderr)
        self.assert_one_line(result.stderr, '^runloopd: plugin ', plugins[-1], *parts)
        self.assertFalse(os.path.exists(self.socket))

    def test_one_that_is_missing_is_refused(self):
        self.assert_refused([f'{self.directory}/missing.so'], '(?i)no such file')

    def test_one_that_is_no_library_is_refused(self):
        path = os.path.join(self.directory, 'text.so')
        with open(path, 'w', encoding='utf-8') as file:
            file.write('not a library\n' * 100)
        self.assert_refused([path])
        self.assert_refused([self.directory])

    def test_one_that_is_cut_short_is_refused(self):
        path = os.path.join(self.directory, 'short.so')
        shutil.copy(harness.plugin('test'), path)
        os.truncate(path, 5000)
        self.assert_refused([path])

    def test_one_without_the_symbol_is_refused(self):
        self.assert_refused([harness.plugin('symbolless')], 'runloop_plugin')

    def test_one_of_another_version_is_refused(self):
        self.assert_refused([harness.plugin('other_version')], 'version')

    def test_one_whose_proto_file_collides_with_a_loaded_one_is_refused(self):
        self.assert_refused([harness.plugin('test'), harness.plugin('colliding')],
                            'runloop/test/v1/test_operations.proto')

    def test_the_colliding_one_is_fine_alone(self):
        self.start_daemon(plugins=[harness.plugin('colliding')])

    def test_one_that_crashes_when_it_is_loaded_is_refused(self):
        self.assert_refused([harness.plugin('crashing')], '(?i)signal|crash|abort')

    def test_one_that_cannot_register_its_operations_is_refused_with_its_words(self):
        self.assert_refused([harness.plugin('failing')], 'the camera is missing')

    def test_one_that_is_given_twice_is_refused(self):
        self.assert_refused([harness.plugin('test'), harness.plugin('test')])
        copy = os.path.join(self.directory, 'copy.so')
        shutil.copy(harness.plugin('test'), copy)
        self.assert_refused([harness.plugin('test'), copy])


class RequestTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(args=['--max_message_bytes=1MiB'])
        self.stubs = self.connect(self.daemon.address)

    def assert_others_are_served(self):
        self.assertEqual(self.connect(self.daemon.address).echo('others'), 'others')

    def test_the_tool_tells_an_operation_that_does_not_exist(self):
        for name in ('runloop.test.v1.TestOperations/NoSuchMethod', 'acme.v1.Nothing/AtAll', 'nonsense', ''):
            for arguments in (['call', name, '{}'], ['operations', '--describe', name or ' ']):
                with self.subTest(arguments):
                    result = self.ctl(*arguments)
                    self.assertIn(result.code, (1, 2), result.stderr)
                    self.assert_one_line(result.stderr, '^runloopctl: ')
                    self.assertIn(name, result.stderr)

    def test_the_tool_tells_a_request_of_the_wrong_type(self):
        for request in ('{"txet": "x"}', '{"text": 1', '{"text": {}}', '[]', 'text', ''):
            with self.subTest(request):
                result = self.ctl('call', harness.ECHO, request)
                self.assertIn(result.code, (1, 2), result.stderr)
                self.assert_one_line(result.stderr, '^runloopctl: ')

    def test_the_tool_passes_on_what_an_operation_says(self):
        result = self.ctl('call', 'runloop.test.v1.TestOperations/Fail', '{"code": 5, "message": "no such\\ntape"}')
        self.assertEqual(result.code, 1, result.stderr)
        self.assert_one_line(result.stderr, '^runloopctl: ', 'NOT_FOUND')

    def test_the_tool_gives_up_at_its_timeout(self):
        self.daemon.hold()
        result = self.ctl('--timeout=200ms', 'call', harness.ECHO, '{}')
        self.assertEqual(result.code, 1, result.stderr)
        self.assert_one_line(result.stderr, '^runloopctl: ', 'DEADLINE_EXCEEDED', '--timeout')
        self.assertEqual(self.ctl('status').code, 0)
        self.daemon.let_go()

    def test_a_request_over_the_limit_is_refused(self):
        request = operations_pb2.EchoRequest(payload=bytes(2 << 20))
        self.assert_fails(lambda: self.stubs.operations.Echo(request, timeout=harness.DEADLINE),
                          Code.RESOURCE_EXHAUSTED)
        self.assertEqual(self.stubs.echo('the same connection'), 'the same connection')
        self.assert_others_are_served()

    def test_a_request_below_the_limit_is_served(self):
        reply = self.stubs.operations.Echo(
            operations_pb2.EchoRequest(payload=bytes((1 << 20) - 100)), timeout=harness.DEADLINE)
        self.assertEqual(reply.payload_size, (1 << 20) - 100)

    def test_a_reply_over_the_limit_is_refused_after_the_operation_ran(self):
        text = 'x' * ((1 << 20) - 4)  # the request fits, with its field's head, and the reply has one field more
        self.assert_fails(lambda: self.stubs.echo(text), Code.RESOURCE_EXHAUSTED, 'MESSAGE_TOO_LARGE')
        self.assert_others_are_served()


class JunkTest(harness.TestCase):
    """Clients that do not speak the protocol."""

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()
        self.junk(b'GET / HTTP/1.1\r\n\r\n')  # what the daemon makes once
        self.junk(PREFACE + EMPTY_SETTINGS + b'\xff' * 100)
        self.connect(self.daemon.address).echo('first')
        self.daemon.await_status(lambda status: status.connections <= 2, 'the connections have ended')
        self.addCleanup(self.assert_others_are_served)

    def assert_others_are_served(self):
        with harness.connect(self.daemon.address) as channel:
            self.assertEqual(harness.Stubs(channel).echo('others'), 'others')
        self.assertIsNone(self.daemon.popen.poll())

    def raw(self, data=b''):
        connection = socket.socket(socket.AF_UNIX)
        self.addCleanup(connection.close)
        connection.settimeout(harness.DEADLINE)
        connection.connect(self.socket)
        if data:
            connection.sendall(data)
        return connection

    def junk(self, data):
        """Sends it and reads until the daemon closes the connection."""
        with self.raw() as connection:
            try:
                connection.sendall(data)
                while connection.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass

    def test_junk_bytes_end_the_connection(self):
        before = self.daemon.usage()
        rejected = self.daemon.status().rejected_connections
        for data in (b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', b'\x00' * 1000, b'\x16\x03\x01' * 1000, b'{}\n'):
            self.junk(data)
        self.daemon.await_usage(before)
        self.assertEqual(self.daemon.status().rejected_connections, rejected + 4)

    def test_junk_after_a_good_beginning_ends_the_connection(self):
        before = self.daemon.usage()
        for data in (b'PANIC\r\n\r\n' * 10, PREFACE + b'\xff' * 1000, PREFACE + EMPTY_SETTINGS + b'\xff' * 1000,
                     # A frame that says it has 16 MiB; a header block that is none.
                     PREFACE + EMPTY_SETTINGS + b'\xff\xff\xff\x00\x00\x00\x00\x00\x01',
                     PREFACE + EMPTY_SETTINGS + b'\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff'):
            with self.subTest(data[:40]):
                self.junk(data)
        self.daemon.await_usage(before)

    def test_junk_on_the_side_channel_ends_it(self):
        before = self.daemon.usage()
        for data in (b'RUNLOOP2' + b'x' * 10, b'RUNLOOP1\xff\xff\xff\xff', b'REST' * 10):
            with self.subTest(data[:16]):
                self.junk(data)
        self.daemon.await_usage(before)

    def test_a_side_channel_request_that_makes_no_sense_is_refused_and_keeps_no_descriptor(self):
        before = self.daemon.usage()
        channel = self.raw(b'RUNLOOP1')
        listening, pair = socket.socket(socket.AF_UNIX), socket.socketpair()
        listening.bind(os.path.join(self.directory, 'role'))
        listening.listen()
        tcp = socket.create_server(('127.0.0.1', 0))
        with open(os.devnull, encoding='ascii') as null, listening, tcp, pair[0], pair[1]:
            role = lambda name: side_channel_pb2.SideChannelRequest(
                add_role_socket=side_channel_pb2.AddRoleSocket(role=name)).SerializeToString()
            for request, descriptors in (
                    (b'\xff\xff\xff', []), (b'', []), (role('fine'), []), (role('fine'), [null]), (role('fine'), [tcp]),
                    (role('fine'), [pair[0]]), (role('fine'), [listening, listening]), (role(''), [listening]),
                    (role('Not fine'), [listening]), (role('x' * 65), [listening]), (b'', [listening])):
                with self.subTest(request=request, descriptors=descriptors):
                    status = harness.ask(channel, request, [other.fileno() for other in descriptors])
                    self.assertNotEqual(status.code, 0)
                    self.assertTrue(status.message)
            # The channel still works, and what it does is undone when it ends.
            self.assertEqual(harness.ask(channel, role('fine'), [listening.fileno()]).code, 0)
            with harness.connect(f'unix:{self.directory}/role') as worker:
                self.assertEqual(harness.Stubs(worker).echo('by role'), 'by role')
        channel.close()
        self.daemon.await_usage(before)

    def test_a_worker_with_a_role_cannot_make_role_sockets(self):
        channel = self.raw(b'RUNLOOP1')
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.join(self.directory, 'role'))
            listening.listen()
            request = side_channel_pb2.SideChannelRequest(
                add_role_socket=side_channel_pb2.AddRoleSocket(role='fine')).SerializeToString()
            self.assertEqual(harness.ask(channel, request, [listening.fileno()]).code, 0)
            with socket.socket(socket.AF_UNIX) as worker:
                worker.settimeout(harness.DEADLINE)
                worker.connect(os.path.join(self.directory, 'role'))
                worker.sendall(b'RUNLOOP1')
                status = harness.ask(worker, request, [listening.fileno()])
        self.assertEqual(status.code, Code.PERMISSION_DENIED.value[0])
        self.assertEqual(harness.info_of(status).reason, 'NOT_ALLOWED')

    def test_half_a_preface_holds_up_nobody(self):
        before = self.daemon.usage()
        connections = [self.raw(PREFACE[:length]) for length in (1, 3, 12, 23)]
        connections += [self.raw(b'R'), self.raw(b'RUNLOOP1'), self.raw(b'RUNLOOP1\x10\x00\x00\x00half')]
        self.assert_others_are_served()
        for connection in connections:
            connection.close()
        self.daemon.await_usage(before)

    def test_many_that_say_nothing_hold_up_nobody_and_cost_a_bounded_number_of_files(self):
        before = self.daemon.usage()
        connections = [self.raw() for _ in range(600)]
        self.assert_others_are_served()
        # Those above the bound were closed, the oldest first.
        harness.wait_until(lambda: self.daemon.usage().files <= before.files + 300, 'the files are bounded')
        self.assertEqual(connections[0].recv(1), b'')
        for connection in connections:
            connection.close()
        self.daemon.await_usage(before)

    def test_one_that_says_nothing_is_closed_after_a_while(self):
        before = self.daemon.usage()
        connection = self.raw()
        self.assertEqual(connection.recv(1), b'')
        self.daemon.await_usage(before)

    def test_many_that_connect_and_go_leave_nothing(self):
        before = self.daemon.usage()
        for number in range(500):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.socket)
            if number % 2:
                connection.sendall(PREFACE[:number % len(PREFACE)])
            connection.close()
        self.assert_others_are_served()
        self.daemon.await_usage(before)

    def test_a_client_that_never_reads_holds_up_nobody(self):
        before = self.daemon.usage()
        # Pings without end, whose answers nobody takes.
        ping = b'\x00\x00\x08\x06\x00\x00\x00\x00\x00' + b'x' * 8
        connection = self.raw(PREFACE + EMPTY_SETTINGS)
        connection.setblocking(False)
        try:
            for _ in range(100_000):
                connection.send(ping)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        self.assert_others_are_served()
        connection.close()
        self.daemon.await_usage(before)


if __name__ == '__main__':
    unittest.main()
