"""Batches by messages made here (docs/protocol.md), with what a worker may do wrong."""

import unittest

import harness
from resume_protocol_test import Raw, defer, dispatch, echo, record
from runloop.test.v1 import test_operations_pb2 as test
from runloop.v1 import session_pb2


def batch(*dispatches, stop_at_failure=False):
    dispatches[0].batch_size = len(dispatches)
    dispatches[0].stop_at_failure = stop_at_failure
    return list(dispatches)


def fail(number):
    return dispatch(number, 'Fail', test.FailRequest(code=15))


class BatchTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()

    def open(self, **hello):
        raw = Raw(self.daemon.address, **hello)
        self.addCleanup(raw.cut)
        return raw

    def reasons(self, raw, count):
        """The reasons, or the codes, of so many outcomes, by id."""
        reasons = {}
        while len(reasons) < count:
            for outcome in raw.hear().outcomes:
                status = outcome.status
                reasons[outcome.invocation_id] = harness.info_of(status).reason if status.details else status.code
        return reasons

    def test_one_runs_and_is_acknowledged_as_anything_else(self):
        raw = self.open()
        raw.say(dispatches=[record(1), *batch(record(2), echo(4), record(5)), record(6)])
        heard, acknowledged = [], set()
        while len(heard) + len(acknowledged) < 5:
            response = raw.hear()
            heard += [(outcome.invocation_id, outcome.HasField('reply')) for outcome in response.outcomes]
            told = response.succeeded
            acknowledged |= {number for number in (1, 2, 5, 6) if number <= told.watermark or any(
                each.first <= number <= each.last for each in told.ranges)}
        self.assertEqual(heard, [(4, True)])
        self.assertEqual([index for _, index in self.daemon.watch.record()[0]], [1, 2, 5, 6])

    def test_it_stops_at_a_failure_if_it_is_to(self):
        raw = self.open()
        raw.say(dispatches=batch(record(1), fail(2), record(3), record(4), stop_at_failure=True))
        self.assertEqual(self.reasons(raw, 3), {2: 15, 3: 'BATCH_STOPPED', 4: 'BATCH_STOPPED'})
        raw.say(dispatches=batch(fail(5), record(6)))
        self.assertEqual(self.reasons(raw, 1), {5: 15})
        self.assertEqual([index for _, index in self.daemon.watch.record()[0]], [1, 6])

    def test_one_that_is_refused_refuses_all(self):
        raw = self.open()
        for number, (wrong, reason) in enumerate((
                (dict(coalesce_key='x'), 'INVALID_REQUEST'), (dict(delay={'seconds': 1}), 'INVALID_REQUEST'),
                (dict(chain=[session_pb2.ChainLink(runtime_id='r', operation='o')]), 'INVALID_REQUEST'),
                (dict(operation_name='a.b/C'), 'UNKNOWN_OPERATION'), (dict(request=b'\xff'), 'INVALID_REQUEST'))):
            first = 3 * number + 1
            with self.subTest(wrong):
                third = record(first + 2)
                third.MergeFrom(session_pb2.Dispatch(**wrong))
                if 'request' in wrong:
                    third.request = wrong['request']
                raw.say(dispatches=batch(record(first), record(first + 1), third))
                self.assertEqual(self.reasons(raw, 3), {first + i: reason for i in range(3)})
        self.assertEqual(self.daemon.watch.record()[0], [])
        ledger = self.daemon.status().ledger
        self.assertEqual(ledger.running + ledger.queued, 0)

    def test_the_daemons_bounds_are_held_against_all_of_it(self):
        daemon = self.start_daemon(socket=self.socket + '2', args=[
            '--session_bound=10,1MiB', '--user_bound=12,64MiB', '--max_message_bytes=1MiB'])
        raw, other = Raw(daemon.address), Raw(daemon.address)
        self.addCleanup(raw.cut)
        self.addCleanup(other.cut)
        before = daemon.status().ledger

        def refused(session, reason, *dispatches):
            session.say(dispatches=batch(*dispatches))
            numbers = [each.invocation_id for each in dispatches]
            self.assertEqual(self.reasons(session, len(numbers)), dict.fromkeys(numbers, reason))

        # More than ever fits.
        refused(raw, 'MESSAGE_TOO_LARGE', *(record(number) for number in range(1, 12)))
        # What others of the user have is in the way.
        held = daemon.hold()
        other.say(dispatches=[record(number) for number in range(1, 9)])
        daemon.await_status(lambda status: status.ledger.queued == 8, 'they are queued')
        refused(raw, 'QUEUE_FULL', *(record(number) for number in range(31, 36)))
        raw.say(dispatches=batch(*(record(number) for number in range(41, 44))))
        daemon.await_status(lambda status: status.ledger.queued == 11, 'what fits is queued')
        daemon.let_go()
        held.result(harness.DEADLINE)
        ledger = daemon.status().ledger
        self.assertEqual(ledger.refused - before.refused, 11 + 5)
        harness.wait_until(lambda: len(daemon.watch.record()[0]) == 11, 'what was taken in has run')

    def test_what_is_no_batch_ends_the_session(self):
        inner = batch(record(1), record(2), record(3))
        inner[1].batch_size = 2
        falling = batch(record(5), record(4))
        short = batch(record(1), record(2))
        short[0].batch_size = 3
        long = batch(*(record(number) for number in range(1, 1026)))
        huge = [record(1)]
        huge[0].batch_size = 0xffffffff
        for dispatches in (inner, falling, short, long, huge, batch(record(0), record(1))):
            with self.subTest(dispatches[0]):
                raw = self.open()
                raw.say(dispatches=dispatches)
                self.assertEqual(raw.end().reason, 'PROTOCOL_VIOLATION')
        self.assertEqual(self.daemon.watch.record()[0], [])

    def test_one_that_is_sent_again_runs_once(self):
        raw = self.open()
        raw.say(dispatches=batch(record(1), defer(2), record(3)))
        self.daemon.await_status(lambda status: status.ledger.deferred == 1, 'it has run')
        raw.cut()
        again = raw.resumed(self.daemon.address, 0)
        self.addCleanup(again.cut)
        self.assertTrue(again.welcome.resumed)
        self.assertEqual(again.welcome.admitted.watermark, 3)
        again.say(dispatches=[*batch(record(1), defer(2), record(3)), record(4)])
        harness.wait_until(lambda: len(self.daemon.watch.record()[0]) == 3, 'the new one has run')
        # A part of one cannot have come alone.
        again.cut()
        third = raw.resumed(self.daemon.address, 0)
        self.addCleanup(third.cut)
        self.assertTrue(third.welcome.resumed)
        third.say(dispatches=batch(record(4), record(5)))
        self.assertEqual(third.end().reason, 'PROTOCOL_VIOLATION')
        self.assertEqual([index for _, index in self.daemon.watch.record()[0]], [1, 3, 4])


if __name__ == '__main__':
    unittest.main()
