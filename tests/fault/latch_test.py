"""While an operation holds the runtime thread for ever, everything else goes on: others are queued or refused, cancels and
deadlines take effect, the daemon can be looked at and says who holds the thread, and SIGTERM ends it at its deadline.

Prints how long each took; no time is checked."""

import queue
import signal
import time
import unittest

import grpc

import harness
from health.v1 import health_pb2
from runloop.test.v1 import test_operations_pb2 as operations_pb2
from runloop.v1 import session_pb2
from worker import Worker

Code = grpc.StatusCode
Serving = health_pb2.HealthCheckResponse.ServingStatus
STALLED = 4  # RuntimeThread.STATE_STALLED
# More than a session may have unfinished.
TOO_MANY_BY = 10
DISPATCHES_PER_MESSAGE = 10_000


class LatchTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(args=['--drain_timeout=500ms'])
        self.other = self.start_worker('other')
        self.holder = self.start_worker('holder')
        self.holder.dispatch('latch', 'hold')
        self.daemon.await_status(lambda status: status.thread.current_operation == harness.HOLD, 'the thread is held')

    def start_worker(self, name):
        worker = Worker(name, self.daemon.address)
        self.addCleanup(worker.close)
        worker.await_line('^ready$', 'stdout')
        return worker

    def timed(self, what, call):
        begin = time.monotonic()
        result = call()
        print(f'{what}: {1000 * (time.monotonic() - begin):.1f} ms', flush=True)
        return result

    def outcome(self, name):
        self.other.start_await(name)
        return self.other.outcome(name)

    def assert_held(self):
        """It was held all the time."""
        status = self.daemon.status()
        self.assertEqual(status.thread.current_operation, harness.HOLD)
        self.assertEqual(status.ledger.running, 1)
        return status

    def session_of(self, name):
        return next(session for session in self.daemon.status().sessions if session.client_name == name)

    def test_a_cancel_takes_effect(self):
        self.other.dispatch('it', 'record 1 1')
        self.daemon.await_status(lambda status: status.ledger.queued == 1, 'it is queued')

        def cancel():
            self.other.write('cancel it\n')
            return self.outcome('it')
        self.assertEqual(self.timed('a cancel', cancel), 'CANCELLED CANCELLED')
        self.assertEqual(self.assert_held().ledger.cancelled, 1)

    def test_deadlines_take_effect(self):
        for how in ('async:100', 'blocking:100'):
            with self.subTest(how):
                name = how.replace(':', '-')

                def dispatch():
                    self.other.dispatch(name, 'record 1 1', how)
                    return self.outcome(name)
                self.assertEqual(self.timed(f'a deadline of 100 ms, {how.partition(":")[0]}', dispatch),
                                 'DEADLINE_EXCEEDED EXPIRED')
        error = self.timed('a deadline of 100 ms, plain call', lambda: self.assert_fails(
            lambda: self.daemon.watch.echo('late', timeout=0.1), Code.DEADLINE_EXCEEDED))
        self.assertIsNotNone(error)
        self.daemon.await_status(lambda status: status.ledger.expired + status.ledger.cancelled == 3, 'all are counted')
        self.assertEqual(self.assert_held().ledger.queued, 0)

    def test_others_are_queued_in_their_bounds_and_refused_beyond(self):
        stubs = self.connect(self.daemon.address)
        requests = queue.SimpleQueue()
        stream = stubs.dispatcher.Session(iter(requests.get, None), timeout=harness.DEADLINE)
        hello = session_pb2.SessionRequest()
        hello.hello.versions.min = hello.hello.versions.max = 1
        hello.hello.client_name = 'flood'
        requests.put(hello)
        limit = next(stream).welcome.limits.max_unfinished
        sent = limit + TOO_MANY_BY
        echo = operations_pb2.EchoRequest().SerializeToString()

        def flood():
            for first in range(1, sent + 1, DISPATCHES_PER_MESSAGE):
                requests.put(session_pb2.SessionRequest(dispatches=[
                    session_pb2.Dispatch(invocation_id=number, operation_name=harness.ECHO, request=echo)
                    for number in range(first, min(first + DISPATCHES_PER_MESSAGE, sent + 1))]))
            refused = set()
            while len(refused) < TOO_MANY_BY:
                for outcome in next(stream).outcomes:
                    self.assertEqual(harness.info_of(outcome.status).reason, 'QUEUE_FULL', outcome.status.message)
                    refused.add(outcome.invocation_id)
            return refused
        refused = self.timed(f'{sent} dispatches, {limit} of them queued, {TOO_MANY_BY} refused', flood)
        self.assertLessEqual(max(refused), sent)
        status = self.daemon.await_status(
            lambda status: status.ledger.queued + status.ledger.refused + len(refused) >= sent, 'all have arrived')
        self.assertLessEqual(status.ledger.queued, limit)
        self.assert_held()
        # A worker that comes now is served as far as that is possible.
        late = self.timed('a new session', lambda: self.start_worker('late'))
        late.dispatch('it', 'record 1 1')
        late.write('cancel it\n')
        late.start_await('it')
        self.assertIn(late.outcome('it'), ('CANCELLED CANCELLED', 'RESOURCE_EXHAUSTED QUEUE_FULL'))
        requests.put(None)
        stream.cancel()

    def test_it_can_be_looked_at_and_says_who_holds_the_thread(self):
        status = self.timed('GetStatus', self.daemon.status)
        self.assertEqual(status.thread.current_operation, harness.HOLD)
        self.assertEqual(status.thread.current_session, self.session_of('holder').session_id)
        self.assertEqual(self.session_of('holder').peer_pid, self.holder.pid)
        self.assertEqual(status.thread.current_client, 'holder')
        self.assertEqual(status.thread.current_pid, self.holder.pid)
        self.daemon.await_status(lambda status: status.thread.state == STALLED, 'the thread counts as stalled')
        status = self.daemon.status()
        self.assertIn(harness.HOLD, status.thread.notice)
        told = self.timed('runloopctl status', lambda: self.ctl('status'))
        self.assertEqual(told.code, 0, told.stderr)
        self.assertIn(harness.HOLD, told.stdout)

    def test_health_tells_a_stalled_thread_from_a_daemon_that_lives(self):
        def health(service):
            return self.daemon.watch.health.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=harness.DEADLINE).status
        self.assertEqual(self.timed('health of the daemon', lambda: health('')), Serving.SERVING)
        harness.wait_until(lambda: health('runloop.RuntimeThread') == Serving.NOT_SERVING, 'the thread counts as stalled')
        self.assertEqual(health('runloop.test.v1.TestOperations'), Serving.NOT_SERVING)
        self.assertEqual(health(''), Serving.SERVING)
        self.assert_held()

    def test_sigterm_ends_it_at_the_deadline_of_the_drain_and_the_last_words_name_the_operation(self):
        session = self.session_of('holder').session_id
        self.other.dispatch('it', 'record 1 1')
        self.daemon.await_status(lambda status: status.ledger.queued == 1, 'it is queued')

        def end():
            self.daemon.signal(signal.SIGTERM)
            return self.daemon.wait()
        self.assertEqual(self.timed('SIGTERM to the end, with a drain of 500 ms', end), 3, self.daemon.stderr)
        words = next(line for line in self.daemon.stderr.splitlines() if 'cut off' in line)
        self.assertIn(harness.HOLD, words)
        self.assertIn(session, words)
        ledger = self.daemon.stderr.splitlines()[-1]
        self.assertRegex(ledger, r'running 1\b')
        self.assertRegex(ledger, r'queued 1\b')
        self.assertEqual(self.outcome('it'), 'UNKNOWN SESSION_LOST')


if __name__ == '__main__':
    unittest.main()
