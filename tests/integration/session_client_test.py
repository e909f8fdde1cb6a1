"""The session protocol as docs/protocol.md tells it: session_client.py was written from that page and the protos alone."""

import os
import shutil
import signal
import tempfile
import threading
import unittest

import grpc

import harness
from runloop.test.v1 import test_control_pb2, test_operations_pb2 as test
from runloop.v1 import diagnostics_pb2, session_pb2
from session_client import RunloopError, Session, error_of_rpc

OPERATIONS, CONTROL = 'runloop.test.v1.TestOperations/', 'runloop.test.v1.TestControl/'
WAIT = harness.DEADLINE
NO_STATUS = diagnostics_pb2.SessionStatus()  # of a session that is gone


class DaemonTest(unittest.TestCase):
    """One daemon for a class, one session for a test."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix='runloop-')
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.daemon = harness.Daemon(os.path.join(cls.directory, 's'), args=['--close_timeout=2s', '--drain_timeout=1s'])
        cls.addClassCleanup(cls.daemon.close)
        cls.daemon.steer()

    def setUp(self):
        self.held = 0
        self.session = self.open()

    def open(self):
        session = Session(self.daemon.address, self.id())
        self.addCleanup(session.abort)
        return session

    def session_status(self, session):
        return next((entry for entry in self.daemon.status().sessions if entry.session_id == session.id), None)

    def eventually(self, condition, what):
        harness.wait_until(condition, what)

    def running(self, operation):
        self.daemon.await_status(lambda status: status.thread.current_operation == OPERATIONS + operation,
                                 f'{operation} runs')

    def hold(self):
        """Holds the runtime thread; the test lets it go, or its end does."""
        invocation = self.session.dispatch(OPERATIONS + 'Hold', test.HoldRequest(), test.HoldReply)
        self.will_let_go()
        self.running('Hold')
        return invocation

    def will_let_go(self):
        self.held += 1
        self.addCleanup(lambda: self.held and self.let_go())

    def let_go(self):
        self.held -= 1
        self.daemon.let_go()

    def record(self, producer, index, **options):
        request = test.RecordRequest(producer=producer, index=index)
        return self.session.dispatch(OPERATIONS + 'Record', request, **options)

    def recorded(self, producer):
        """The indices that ran, in the order in which they ran."""
        reply = self.session.dispatch(CONTROL + 'GetRecord', test_control_pb2.GetRecordRequest(),
                                      test_control_pb2.GetRecordReply).result(WAIT)
        return [index for who, index in zip(reply.producers, reply.indices) if who == producer]

    def error(self, invocation):
        error = invocation.exception(WAIT)
        self.assertIsInstance(error, RunloopError, f'it succeeded: {invocation}')
        return error.code.name, error.reason


class OrderTest(DaemonTest):
    def test_thousands_run_in_send_order_with_one_outcome_each(self):
        count, outcomes, done = 30000, [], threading.Event()

        def settled(number):
            outcomes.append(number)
            if len(outcomes) == count:
                done.set()

        held, invocations = self.hold(), []

        def dispatch(indices):
            for index in indices:
                wanted = test.RecordReply if index % 7 == 0 else None
                invocation = self.record(1, index, reply_type=wanted)
                invocation.add_done_callback(lambda which: settled(which.number))
                invocations.append(invocation)

        dispatch(range(count // 2))
        with self.session._lock:  # nothing is written meanwhile
            dispatch(range(count // 2, count))
            written = self.session.requests
        self.assertEqual(outcomes, [], 'something ran while the thread was held')
        self.let_go()
        self.assertTrue(done.wait(WAIT), f'{len(outcomes)} outcomes of {count}')
        held.result(WAIT)
        self.assertEqual(self.session.requests, written + 1, 'what had gathered was less than BATCH_BYTES')
        self.assertEqual(sorted(outcomes), [each.number for each in invocations])
        self.assertEqual(self.recorded(1), list(range(count)))
        positions = [each.result(0).position for each in invocations[::7]]
        self.assertEqual(positions, [positions[0] + 7 * index for index in range(len(positions))])
        self.assertTrue(all(each.result(0) is None for each in invocations if not each.reply_wanted))
        self.assertEqual(self.session.acknowledged, sum(not each.reply_wanted for each in invocations))
        self.assertEqual(self.session.settled_twice, 0)

    def test_failures_and_deferred_ones_stop_no_later_ones(self):
        late = self.session.dispatch(OPERATIONS + 'Defer', test.DeferRequest(), test.DeferReply)
        quiet_late = self.session.dispatch(OPERATIONS + 'Defer', test.DeferRequest())
        wrong = self.session.dispatch('acme.v1.Nothing/AtAll', test.EchoRequest())
        failed = self.session.dispatch(OPERATIONS + 'Fail', test.FailRequest(code=5, message='gone'))
        threw = self.session.dispatch(OPERATIONS + 'Throw', test.ThrowRequest(text='ouch'))
        dropped = self.session.dispatch(OPERATIONS + 'Drop', test.DropRequest())
        fine = [self.record(2, index) for index in range(100)]
        for each in fine:
            self.assertIsNone(each.result(WAIT))
        self.assertEqual(self.error(wrong), ('UNIMPLEMENTED', 'UNKNOWN_OPERATION'))
        self.assertEqual(self.error(failed), ('NOT_FOUND', ''))
        self.assertEqual(failed.exception().message, 'gone')
        self.assertEqual(self.error(threw), ('INTERNAL', 'HANDLER_THREW'))
        self.assertEqual(self.error(dropped), ('ABORTED', 'COMPLETION_DROPPED'))
        self.assertFalse(late.done() or quiet_late.done())
        self.daemon.finish_deferred('first')
        self.daemon.finish_deferred('second')
        self.assertEqual(late.result(WAIT).text, 'first')
        self.assertIsNone(quiet_late.result(WAIT))
        self.assertEqual(self.recorded(2), list(range(100)))
        self.assertEqual(self.session.settled_twice, 0)

    def test_half_closing_lets_everything_run(self):
        fine = [self.record(3, index) for index in range(5000)]
        self.assertTrue(self.session.drain_own(WAIT))
        self.assertEqual([each.exception(0) for each in fine], [None] * len(fine))
        self.session = self.open()
        self.assertEqual(self.recorded(3), list(range(5000)))

    def test_aborting_leaves_unknown_and_nothing_else_runs(self):
        self.hold()
        sent = self.record(4, 0)
        self.eventually(lambda: self.session_status(self.session).queued == 1, 'it is queued')
        self.session.abort()
        self.assertEqual(self.error(sent), ('UNKNOWN', 'SESSION_LOST'))
        with self.assertRaises(RunloopError):
            self.record(4, 1)
        self.eventually(lambda: not (self.session_status(self.session) or NO_STATUS).queued, 'the queue is empty')
        self.let_go()
        self.session = self.open()
        self.assertEqual(self.recorded(4), [])


class CancelTest(DaemonTest):
    def test_cancelled_before_it_started_never_runs(self):
        for give_up in (False, True):
            with self.subTest(give_up=give_up):
                self.hold()
                kept, unwanted, after = (self.record(10 + give_up, index) for index in range(3))
                unwanted.give_up() if give_up else unwanted.cancel()
                self.assertEqual(self.error(unwanted), ('CANCELLED', 'CANCELLED'))  # at once, while the thread is held
                self.assertFalse(kept.done() or after.done())
                self.let_go()
                after.result(WAIT)
                self.assertEqual(self.recorded(10 + give_up), [0, 2])

    def test_running_is_not_cancelled(self):
        running = self.hold()
        probe = self.record(12, 0)
        running.cancel()
        probe.cancel()  # taken after it: when this one is cancelled, that one was looked at
        self.assertEqual(self.error(probe), ('CANCELLED', 'CANCELLED'))
        self.assertFalse(running.done())
        self.let_go()
        self.assertIsInstance(running.result(WAIT), test.HoldReply)

    def test_giving_up_what_runs_or_is_deferred_answers_now(self):
        deferred = self.session.dispatch(OPERATIONS + 'Defer', test.DeferRequest(), test.DeferReply)
        running = self.hold()
        running.cancel()
        running.give_up()
        deferred.give_up()
        self.assertEqual(self.error(running), ('DEADLINE_EXCEEDED', 'STILL_RUNNING'))
        self.assertEqual(self.error(deferred), ('DEADLINE_EXCEEDED', 'STILL_RUNNING'))
        self.assertEqual(self.daemon.status().thread.current_operation, OPERATIONS + 'Hold')
        self.let_go()
        self.daemon.finish_deferred('nobody looks')
        self.assertEqual(self.recorded(13), [])
        self.assertEqual(self.session.settled_twice, 0)  # its end is not told

    def test_expires_before_it_starts(self):
        self.hold()
        late, fine = self.record(14, 0, timeout=0.05), self.record(14, 1, timeout=WAIT)
        self.assertEqual(self.error(late), ('DEADLINE_EXCEEDED', 'EXPIRED'))
        self.let_go()
        fine.result(WAIT)
        self.assertEqual(self.recorded(14), [1])


class CoalesceTest(DaemonTest):
    def test_takes_the_place_of_the_one_before(self):
        self.hold()
        keyed = [self.record(20, 0, coalesce_key='k')]
        other = self.record(20, 100, coalesce_key='other')
        plain = self.record(20, 200)
        keyed += [self.record(20, index, coalesce_key='k') for index in (1, 2)]
        for superseded in keyed[:-1]:
            self.assertEqual(self.error(superseded), ('ABORTED', 'SUPERSEDED'))
        self.let_go()
        for each in (keyed[-1], other, plain):
            self.assertIsNone(each.result(WAIT))
        self.assertEqual(self.recorded(20), [2, 100, 200])

    def test_another_session_has_its_own_keys(self):
        self.hold()
        first, mine = self.record(21, 0, coalesce_key='k'), self.session
        self.session = self.open()
        second = self.record(21, 1, coalesce_key='k')
        self.eventually(lambda: self.session_status(self.session).queued == 1, 'the second is queued')
        self.assertFalse(first.done())
        self.session = mine
        self.let_go()
        self.assertIsNone(first.result(WAIT))
        self.assertIsNone(second.result(WAIT))

    def test_an_overlong_key_is_refused(self):
        self.assertIsNone(self.record(22, 0, coalesce_key='k' * 128).result(WAIT))
        overlong = self.record(22, 1, coalesce_key='k' * 129)
        self.assertEqual(self.error(overlong), ('INVALID_ARGUMENT', 'INVALID_REQUEST'))
        self.assertEqual(self.recorded(22), [0])


class HandleTest(DaemonTest):
    def make(self, **fields):
        return self.session.dispatch(OPERATIONS + 'Make', test.MakeRequest(**fields), test.MakeReply)

    def use(self, handle, session=None):
        return (session or self.session).dispatch(OPERATIONS + 'Use', test.UseRequest(handle=handle), test.UseReply)

    def assert_unknown(self, invocation):
        self.assertEqual(self.error(invocation), ('NOT_FOUND', 'UNKNOWN_HANDLE'))

    def test_used_until_released_in_order(self):
        handle = self.make(name='one').result(WAIT).handle
        other = self.make(name='two').result(WAIT).handle
        self.assertNotEqual(handle, other)
        before, release, after = self.use(handle), self.session.release(handle), self.use(handle)
        self.assertEqual(before.result(WAIT).name, 'one')
        self.assertIsNone(release.result(WAIT))
        self.assert_unknown(after)
        self.assert_unknown(self.session.release(handle))
        self.assertEqual(self.use(other).result(WAIT).name, 'two')
        self.assertEqual(self.session_status(self.session).handles, 1)

    def test_of_another_session_is_refused(self):
        handle = self.make(name='mine').result(WAIT).handle
        other = self.open()
        self.assert_unknown(self.use(handle, other))
        self.assert_unknown(other.release(handle))
        self.assertEqual(self.use(handle).result(WAIT).name, 'mine')

    def test_giving_up_after_the_reply_releases(self):
        kept, made = self.make(name='kept'), self.make(name='given up')
        handle = made.result(WAIT).handle
        self.assertEqual(self.use(handle).result(WAIT).name, 'given up')
        made.give_up()
        self.eventually(lambda: self.session_status(self.session).handles == 1, 'it is released')
        self.assert_unknown(self.use(handle))
        self.assertEqual(self.use(kept.result(WAIT).handle).result(WAIT).name, 'kept')

    def test_giving_up_while_it_runs_leaves_no_handle(self):
        made = self.make(name='late', holds_first=True)
        self.will_let_go()
        self.running('Make')
        made.give_up()
        self.assertEqual(self.error(made), ('DEADLINE_EXCEEDED', 'STILL_RUNNING'))
        self.let_go()
        self.assertEqual(self.recorded(30), [])  # behind it
        self.eventually(lambda: self.session_status(self.session).handles == 0, 'it is released')
        handle = self.make(name='next').result(WAIT).handle
        self.assertEqual(self.session_status(self.session).handles, 1)
        self.assertEqual(self.use(handle).result(WAIT).name, 'next')

    def test_session_end_closes(self):
        for end in ('close', 'abort'):
            with self.subTest(end=end):
                self.session = self.open()
                self.make(name='quick').result(WAIT)
                slow = self.make(name='slow', closes_slowly=True).result(WAIT).handle
                ended = self.session
                self.assertEqual(self.session_status(ended).handles, 2)
                getattr(ended, end)()
                self.eventually(lambda: (self.session_status(ended) or NO_STATUS).closing, 'it is being closed')
                self.session = self.open()
                self.assert_unknown(self.use(slow))  # and the thread is not held meanwhile
                # Nobody says that it is closed: the daemon's --close_timeout (2 s) destroys it.
                self.eventually(lambda: self.session_status(ended) is None, 'all is closed')


class OpeningTest(DaemonTest):
    def refusal(self, *versions):
        with self.assertRaises(RunloopError) as caught:
            Session(self.daemon.address, 'other', versions)
        return caught.exception

    def test_versions(self):
        self.assertEqual(self.session.welcome.version, 1)
        newer = Session(self.daemon.address, 'newer', (1, 7))
        self.assertEqual(newer.welcome.version, 1)
        newer.close()
        error = self.refusal(2, 7)
        self.assertEqual((error.code.name, error.reason), ('FAILED_PRECONDITION', 'VERSION_MISMATCH'))
        self.assertEqual(set(error.metadata), {'daemon', 'client'})

    def test_ranges_that_are_none(self):
        for versions in ((0, 1), (2, 1)):
            error = self.refusal(*versions)
            self.assertEqual((error.code.name, error.reason), ('INVALID_ARGUMENT', 'PROTOCOL_VIOLATION'), versions)

    def test_welcome(self):
        self.assertEqual(self.session.welcome.transport, session_pb2.TRANSPORT_STREAM)
        self.assertFalse(self.session.welcome.resume_token)
        types = {each.name: (each.request_type, each.reply_type) for each in self.session.welcome.operations}
        self.assertEqual(types[OPERATIONS + 'Echo'], ('runloop.test.v1.EchoRequest', 'runloop.test.v1.EchoReply'))
        self.assertNotIn(OPERATIONS + 'Stream', types)
        self.assertEqual(self.session.welcome.runtime_id, self.daemon.status().runtime_id)

    def test_own_bounds(self):
        self.session.limits.max_unfinished = 2
        self.hold()
        self.record(40, 0)
        with self.assertRaises(RunloopError) as caught:
            self.record(40, 1)
        self.assertEqual(caught.exception.reason, 'QUEUE_FULL')
        self.let_go()
        self.eventually(lambda: not self.session._unfinished, 'they ran')
        self.session.limits.max_message_bytes = 1000
        with self.assertRaises(RunloopError) as caught:
            self.session.dispatch(OPERATIONS + 'Echo', test.EchoRequest(payload=bytes(1000)))
        self.assertEqual(caught.exception.reason, 'MESSAGE_TOO_LARGE')

    def test_a_message_that_does_not_parse_is_a_violation(self):
        for garbage in (b'\xff\xff', session_pb2.SessionRequest(
                dispatches=[session_pb2.Dispatch(operation_name='xx')]).SerializeToString().replace(b'xx', b'\xff\xff')):
            hello = session_pb2.SessionRequest(hello=session_pb2.Hello(versions=session_pb2.VersionRange(min=1, max=1)))
            with grpc.insecure_channel(self.daemon.address) as channel:
                session = channel.stream_stream('/runloop.v1.Dispatcher/Session')
                responses = session(iter([hello.SerializeToString(), garbage]), timeout=WAIT)
                next(responses)
                with self.assertRaises(grpc.RpcError) as caught:
                    next(responses)
                self.assertEqual(error_of_rpc(caught.exception).reason, 'PROTOCOL_VIOLATION')

    def test_nobody_there(self):
        with self.assertRaises(RunloopError) as caught:
            Session(os.path.join(self.directory, 'nobody'))
        self.assertEqual(caught.exception.code, grpc.StatusCode.UNAVAILABLE)


class DrainTest(DaemonTest):
    def test_what_was_admitted_runs_and_the_rest_is_refused(self):
        deferred = self.session.dispatch(OPERATIONS + 'Defer', test.DeferRequest())
        held, queued = self.hold(), self.record(50, 0)
        self.eventually(lambda: self.session_status(self.session).queued == 1, 'it is queued')
        self.daemon.signal(signal.SIGTERM)
        self.eventually(lambda: self.session.draining, 'the session hears of it')
        with self.assertRaises(RunloopError) as caught:
            self.record(50, 1)
        self.assertEqual(caught.exception.reason, 'DRAINING')
        self.session.draining = False  # so that the daemon says it, too
        self.assertEqual(self.error(self.record(50, 2)), ('UNAVAILABLE', 'DRAINING'))
        self.let_go()
        self.assertIsNone(queued.result(WAIT))
        held.result(WAIT)
        self.assertEqual(self.error(deferred), ('ABORTED', 'SESSION_ENDED'))  # cut off at --drain_timeout
        self.assertEqual(self.daemon.wait(WAIT), 3)


if __name__ == '__main__':
    unittest.main()
