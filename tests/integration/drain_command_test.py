"""`runloopctl drain`: what it ends, what it waits for, and what it says."""

import json
import os
import signal
import subprocess
import unittest

import harness
from runloop.test.v1 import test_operations_pb2 as operations_pb2


class DrainCommandTest(harness.TestCase):

    def start_drain(self, *arguments):
        return self.start([harness.RUNLOOPCTL, f'--address=unix:{self.socket}', 'drain', *arguments])

    def test_an_idle_daemon_ends_at_once(self):
        daemon = self.start_daemon()
        result = self.ctl('drain')
        self.assertEqual((result.code, result.stdout, result.stderr), (0, 'the daemon has ended', ''))
        self.assertEqual(daemon.wait(), 0, daemon.stderr)
        self.assertRegex(daemon.stderr, r'process \d+ asked for it: draining for at most 10s')
        self.assertFalse(os.path.exists(self.socket))

    def test_it_shows_queued_work_and_waits_until_it_has_run(self):
        daemon = self.start_daemon()
        daemon.hold()
        calls = [daemon.watch.operations.Record.future(
            operations_pb2.RecordRequest(producer=1, index=index), timeout=harness.DEADLINE) for index in range(5)]
        daemon.await_status(lambda status: status.ledger.queued == 5, 'all are queued')
        drain = self.start_drain('--timeout=1h', '--progress')
        drain.await_line('draining: 5 queued, 1 running; at most (1h|59m)')
        self.assertTrue(daemon.status().draining)
        daemon.let_go()
        self.assertEqual(sorted(call.result().position for call in calls), list(range(5)))
        self.assertEqual((drain.wait(), drain.stdout), (0, 'the daemon has ended'), drain.stderr)
        self.assertEqual(daemon.wait(), 0, daemon.stderr)
        ledger = daemon.last_ledger()
        self.assertEqual((ledger['queued'], ledger['running'], ledger['abandoned']), (0, 0, 0))
        self.assertEqual(ledger['admitted'], ledger['succeeded'])

    def test_it_says_nothing_of_the_progress_where_nobody_looks(self):
        daemon = self.start_daemon()
        deferred = daemon.watch.operations.Defer.future(operations_pb2.DeferRequest(), timeout=harness.DEADLINE)
        daemon.steer()
        daemon.await_status(lambda status: status.ledger.deferred == 1, 'one invocation is deferred')
        drain = self.start_drain('--timeout=1h')
        daemon.await_status(lambda status: status.draining, 'the drain has begun')
        daemon.finish_deferred('done')
        self.assertEqual(deferred.result().text, 'done')
        self.assertEqual((drain.wait(), drain.stderr), (0, ''))

    def test_a_stuck_operation_is_named_while_it_holds_the_thread(self):
        daemon = self.start_daemon()
        daemon.hold()
        drain = self.start_drain('--timeout=1h')
        drain.await_line(f'the runtime thread is stuck in {harness.HOLD} of session \\S+')
        daemon.let_go()
        self.assertEqual(drain.wait(), 0, drain.stderr)
        self.assertEqual(daemon.wait(), 0, daemon.stderr)

    def test_a_stuck_operation_is_cut_off_at_the_deadline_and_named(self):
        daemon = self.start_daemon(args=['--drain_timeout=1h'])
        daemon.hold()
        result = self.ctl('drain', '--timeout=200ms')
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertEqual((result.code, result.stdout), (1, ''), result.stderr)
        self.assert_one_line(result.stderr.splitlines()[-1], 'at the deadline', '1 running',
                             f'in {harness.HOLD} of session connection-', 'DEADLINE_EXCEEDED')
        self.assertEqual(daemon.last_ledger()['running'], 1)

    def test_json_is_one_object(self):
        daemon = self.start_daemon()
        result = self.ctl('--json', 'drain')
        self.assertEqual(result.code, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout), {'ended': True, 'cutOff': False})
        self.assertEqual(daemon.wait(), 0, daemon.stderr)
        daemon = self.start_daemon()
        daemon.hold()
        result = self.ctl('drain', '--json', '--timeout=200ms')
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertEqual(result.code, 1, result.stderr)
        told = json.loads(result.stdout)
        self.assertLessEqual(
            {'ended': True, 'cutOff': True, 'queued': 0, 'running': 1, 'deferred': 0,
             'currentOperation': harness.HOLD}.items(), told.items())
        self.assertTrue(told['currentSession'])

    def test_the_first_drain_keeps_its_deadline_and_a_signal_cuts_it_off(self):
        daemon = self.start_daemon()
        daemon.hold()
        first = self.ctl('drain', '--no-wait', '--timeout=1h')
        self.assertEqual(first.code, 0, first.stderr)
        self.assertRegex(first.stdout, r'^draining, for at most (1h|59m)')
        self.assertTrue(daemon.status().draining)
        second = self.ctl('drain', '--no-wait', '--timeout=1s', '--json')
        self.assertEqual(second.code, 0, second.stderr)
        self.assertGreater(float(json.loads(second.stdout)['left'].rstrip('s')), 600)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 3, daemon.stderr)
        self.assertIn('a signal during the drain', daemon.stderr)

    def end_without_drain(self, how, code):
        daemon = self.start_daemon()
        daemon.hold()
        drain = self.start_drain('--json', '--timeout=1h')
        daemon.await_status(lambda status: status.draining, 'the drain has begun')
        daemon.signal(how)
        self.assertEqual(daemon.wait(), code, daemon.stderr)
        self.assertEqual(drain.wait(), 1, drain.stderr)
        self.assertTrue(json.loads(drain.stdout)['cutOff'])
        self.assertIn('without having drained', drain.stderr)

    def test_a_drain_that_a_signal_cut_off_is_told_as_such(self):
        self.end_without_drain(signal.SIGTERM, 3)

    def test_a_daemon_that_was_killed_in_its_drain_is_told_as_such(self):
        self.end_without_drain(signal.SIGKILL, -signal.SIGKILL)

    def test_what_cannot_be_printed_is_an_error(self):
        self.start_daemon()
        with open('/dev/full', 'w', encoding='utf-8') as full:
            result = subprocess.run([harness.RUNLOOPCTL, f'--address=unix:{self.socket}', '--json', 'status'], stdout=full,
                                    stderr=subprocess.PIPE, text=True, timeout=harness.DEADLINE, check=False)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn('cannot write', result.stderr)

    def test_a_role_may_not(self):
        daemon = self.start_daemon()
        for arguments in ((), ('--no-wait',)):
            with self.subTest(arguments):
                result = self.ctl('run', '--no-sandbox', '--', harness.RUNLOOPCTL, 'drain', *arguments)
                self.assertEqual(result.code, 1, result.stderr)
                self.assert_one_line(result.stderr, '^runloopctl: ', 'PERMISSION_DENIED, NOT_ALLOWED')
        self.assertFalse(daemon.status().draining)
        self.assertEqual(daemon.watch.echo('goes on'), 'goes on')

    def test_a_timeout_that_is_none_is_a_usage_error(self):
        daemon = self.start_daemon()
        for timeout in ('x', '-1s', '0'):
            with self.subTest(timeout):
                result = self.ctl('drain', f'--timeout={timeout}')
                self.assertEqual(result.code, 2, result.stderr)
                self.assert_one_line(result.stderr, '^runloopctl: .*--timeout')
        self.assertFalse(daemon.status().draining)

    def test_without_a_daemon_it_says_so(self):
        result = self.ctl('drain')
        self.assertEqual(result.code, 69)
        self.assert_one_line(result.stderr, 'no daemon listens')


if __name__ == '__main__':
    unittest.main()
