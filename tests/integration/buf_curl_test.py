"""A client that nobody here wrote and that knows no schema: buf curl, by reflection alone."""

import json
import os
import unittest

import harness

BUF = os.path.join(harness.CLIENTS, 'node_modules', '.bin', 'buf')
SERVICE = 'runloop.test.v1.TestOperations'

# What buf curl ends with when the call fails: the status code, shifted.
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED = 3 << 3, 4 << 3, 5 << 3, 12 << 3


class BufCurlTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()

    def curl(self, path='', *arguments, protocol='grpc-v1'):
        return harness.run(
            [BUF, '--log-format=text', 'curl', '--protocol', 'grpc', '--http2-prior-knowledge',
             *(['--reflect-protocol', protocol] if protocol else []), '--unix-socket', self.socket, *arguments,
             f'http://localhost/{path}'],
            env={'HOME': self.directory})

    def call(self, path, *arguments, **options):
        result = self.curl(path, *arguments, **options)
        self.assertEqual(result.code, 0, result.stderr)
        return json.loads(result.stdout or '{}')

    def test_it_lists_the_services(self):
        for protocol in ('grpc-v1', 'grpc-v1alpha'):
            with self.subTest(protocol):
                result = self.curl('', '--list-services', protocol=protocol)
                self.assertEqual(result.code, 0, result.stderr)
                self.assertLessEqual({SERVICE, 'runloop.v1.Dispatcher', 'runloop.v1.Diagnostics',
                                      'grpc.health.v1.Health'}, set(result.stdout.split()))

    def test_it_lists_the_methods(self):
        result = self.curl('', '--list-methods')
        self.assertEqual(result.code, 0, result.stderr)
        self.assertLessEqual({f'{SERVICE}/Echo', f'{SERVICE}/Hold', 'runloop.v1.Dispatcher/Session',
                              'runloop.v1.Diagnostics/GetStatus'}, set(result.stdout.split()))

    def test_it_describes_a_method_by_asking_reflection_itself(self):
        reply = self.call('grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
                          '--data', json.dumps({'fileContainingSymbol': f'{SERVICE}.Echo'}))
        self.assertTrue(reply['fileDescriptorResponse']['fileDescriptorProto'])

    def test_it_calls_an_operation(self):
        for protocol in ('grpc-v1', 'grpc-v1alpha'):
            with self.subTest(protocol):
                reply = self.call(f'{SERVICE}/Echo', '--data', '{"text": "by reflection"}', protocol=protocol)
                self.assertEqual(reply, {'text': 'by reflection', 'onRuntimeThread': True})

    def test_it_reads_the_status_while_the_thread_is_held(self):
        self.daemon.hold()
        status = self.call('runloop.v1.Diagnostics/GetStatus')
        self.assertEqual(status['thread']['currentOperation'], harness.HOLD)
        self.daemon.let_go()

    def test_a_wrong_field_is_refused_before_anything_is_sent(self):
        admitted = self.daemon.status().ledger.admitted
        result = self.curl(f'{SERVICE}/Echo', '--data', '{"txet": "x"}')
        self.assertNotEqual(result.code, 0)
        self.assert_one_line(result.stderr, 'txet')
        self.assertEqual(self.daemon.status().ledger.admitted, admitted)

    def test_an_unknown_operation_is_told_apart(self):
        result = self.curl(f'{SERVICE}/NoSuchMethod')
        self.assertNotEqual(result.code, 0)
        self.assert_one_line(result.stderr, 'NoSuchMethod')
        # With a schema that claims the method, the daemon itself refuses.
        self.write_schema()
        result = self.curl(f'{SERVICE}/NoSuchMethod', '--schema', self.directory, protocol=None)
        self.assertEqual(result.code, UNIMPLEMENTED, result.stderr)
        self.assertRegex(result.stderr, 'unimplemented')
        self.assertRegex(result.stderr, 'NoSuchMethod')

    def write_schema(self):
        with open(os.path.join(self.directory, 'claimed.proto'), 'w', encoding='utf-8') as file:
            file.write('syntax = "proto3"; package runloop.test.v1;\n'
                       'message Nothing {} service TestOperations { rpc NoSuchMethod(Nothing) returns (Nothing); }\n')

    def test_an_operations_error_has_its_code(self):
        result = self.curl(f'{SERVICE}/Fail', '--data', '{"code": 5, "message": "no such tape"}')
        self.assertEqual(result.code, NOT_FOUND, result.stderr)
        self.assertRegex(result.stderr, 'no such tape')

    def test_a_deadline_that_passes_ends_the_call_and_it_never_runs(self):
        self.daemon.hold()
        result = self.curl(f'{SERVICE}/Record', '--timeout', '2s', '--data', '{"producer": 1}')
        self.assertEqual(result.code, DEADLINE_EXCEEDED, result.stderr)
        self.assertRegex(result.stderr, 'deadline')
        self.daemon.await_status(
            lambda status: status.ledger.expired + status.ledger.cancelled == 1, 'the daemon knows of it')
        self.daemon.let_go()
        self.assertEqual(self.daemon.watch.record()[0], [])


if __name__ == '__main__':
    unittest.main()
