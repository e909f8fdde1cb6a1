"""How a worker resumes its session (docs/protocol.md): by messages made here, with what a worker may do wrong."""

import os
import queue
import signal
import subprocess
import sys
import threading
import unittest

import grpc

import harness
from runloop.test.v1 import test_operations_pb2 as test
from runloop.v1 import dispatcher_pb2_grpc, session_pb2
from session_client import error_of_rpc

OPERATIONS = 'runloop.test.v1.TestOperations/'
# A child that opens a session that it may resume, tells its token, and waits.
CHILD = '''
import sys, time
sys.path[:0] = {path!r}
import resume_protocol_test
raw = resume_protocol_test.Raw(sys.argv[1])
raw.say(dispatches=[resume_protocol_test.defer(1)])
print(raw.welcome.session_id, raw.welcome.resume_token.hex(), flush=True)
time.sleep(3600)
'''


def dispatch(number, operation, request, reply_wanted=False):
    return session_pb2.Dispatch(invocation_id=number, operation_name=OPERATIONS + operation,
                                request=request.SerializeToString(), reply_wanted=reply_wanted)


def echo(number, text='hello'):
    return dispatch(number, 'Echo', test.EchoRequest(text=text), True)


def record(number):
    return dispatch(number, 'Record', test.RecordRequest(producer=1, index=number))


def defer(number):
    return dispatch(number, 'Defer', test.DeferRequest(), True)


def raws(status):
    """The sessions of those below."""
    return [session for session in status.sessions if session.client_name == 'raw']


class Raw:
    """A session stream of one connection of its own."""

    def __init__(self, address, **hello):
        self.channel = grpc.insecure_channel(address, options=[('grpc.use_local_subchannel_pool', 1),
                                                               ('grpc.max_receive_message_length', -1)])
        self._requests = queue.Queue()
        self._responses = queue.Queue()
        self.call = dispatcher_pb2_grpc.DispatcherStub(self.channel).Session(iter(self._requests.get, None))
        hello = session_pb2.Hello(versions=session_pb2.VersionRange(min=1, max=1), client_name='raw', **{
            'resumable': True, **hello})
        self.say(hello=hello)
        threading.Thread(target=self._read, daemon=True).start()
        self.welcome = self.hear().welcome

    def _read(self):
        try:
            for response in self.call:
                self._responses.put(response)
            self._responses.put(None)
        except grpc.RpcError as error:
            self._responses.put(error)

    def say(self, **fields):
        self._requests.put(session_pb2.SessionRequest(**fields))

    def hear(self):
        response = self._responses.get(timeout=harness.DEADLINE)
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def outcomes(self, count):
        """So many, as (id, whether it succeeded); and what else came."""
        heard, ranges = [], []
        while len(heard) < count:
            response = self.hear()
            heard += [(outcome.invocation_id, outcome.HasField('reply')) for outcome in response.outcomes]
            if response.HasField('succeeded'):
                ranges.append(response.succeeded)
        return heard, ranges

    def end(self):
        """The error that the daemon ends the stream with."""
        try:
            while self.hear() is not None:
                pass
        except grpc.RpcError as error:
            return error_of_rpc(error)
        return None

    def cut(self):
        self.channel.close()

    def resumed(self, address, received, **hello):
        return Raw(address, resume_token=self.welcome.resume_token, outcomes_received=received, **hello)


class ResumeTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(args=['--resume_grace=1h'])
        self.daemon.steer()

    def open(self, **hello):
        raw = Raw(self.daemon.address, **hello)
        self.addCleanup(raw.cut)
        return raw

    def resume(self, raw, received):
        again = raw.resumed(self.daemon.address, received)
        self.addCleanup(again.cut)
        return again

    def await_detached(self, count=1):
        self.daemon.await_status(lambda status: sum(session.transport == session_pb2.TRANSPORT_UNSPECIFIED
                                                    for session in raws(status)) == count, f'{count} wait')

    def test_outcomes_that_were_not_counted_come_again_alone_and_first(self):
        raw = self.open()
        raw.say(dispatches=[echo(1), record(2), echo(3), record(4), echo(5)])
        self.assertEqual([number for number, _ in raw.outcomes(3)[0]], [1, 3, 5])
        raw.cut()
        self.await_detached()
        again = self.resume(raw, received=1)
        self.assertTrue(again.welcome.resumed)
        self.assertEqual(again.welcome.session_id, raw.welcome.session_id)
        self.assertEqual(again.welcome.admitted.watermark, 5)
        first = again.hear()
        self.assertEqual([outcome.invocation_id for outcome in first.outcomes], [3, 5])
        self.assertFalse(first.HasField('succeeded'))
        self.assertEqual(again.hear().succeeded.watermark, 5)

    def test_what_is_sent_again_is_passed_over_and_what_was_never_sent_is_taken(self):
        raw = self.open()
        raw.say(dispatches=[record(1), record(2), echo(3)])
        raw.outcomes(1)
        raw.cut()
        again = self.resume(raw, received=1)
        self.assertTrue(again.welcome.resumed)
        again.say(dispatches=[record(2), echo(3), record(4), echo(5)])
        self.assertEqual(again.outcomes(1)[0], [(5, True)])
        self.assertEqual([index for _, index in self.daemon.watch.record()[0]], [1, 2, 4])
        again.say(dispatches=[record(4)])
        self.assertEqual(again.end().reason, 'PROTOCOL_VIOLATION')

    def test_work_goes_on_and_its_outcomes_wait(self):
        raw = self.open()
        raw.say(dispatches=[defer(1)])
        self.daemon.await_status(lambda status: status.ledger.deferred == 1, 'it is deferred')
        raw.cut()
        self.await_detached()
        self.daemon.finish_deferred('meanwhile')
        self.daemon.await_status(lambda status: status.ledger.deferred == 0, 'it has ended')
        self.assertEqual(self.resume(raw, received=0).outcomes(1)[0], [(1, True)])

    def test_a_stream_that_is_not_known_to_be_broken_is_taken_over(self):
        raw = self.open()
        raw.say(dispatches=[defer(1)])
        self.daemon.await_status(lambda status: status.ledger.deferred == 1, 'it is deferred')
        again = self.resume(raw, received=0)
        self.assertTrue(again.welcome.resumed)
        self.assertEqual(raw.end().reason, 'NOT_CONNECTED')
        self.daemon.finish_deferred('to the new one')
        self.assertEqual(again.outcomes(1)[0], [(1, True)])

    def test_who_counts_wrong_loses_the_session(self):
        raw = self.open()
        raw.say(dispatches=[echo(1)])
        raw.outcomes(1)
        raw.say(outcomes_received=2)
        self.assertEqual(raw.end().reason, 'PROTOCOL_VIOLATION')
        other = self.open()
        other.say(dispatches=[echo(1)])
        other.outcomes(1)
        other.cut()
        self.await_detached()
        again = self.resume(other, received=2)
        self.assertFalse(again.welcome.resumed)
        self.await_detached(0)

    def test_tokens_are_not_guessed_and_not_lent(self):
        raw = self.open()
        token = raw.welcome.resume_token
        for wrong in (b'x', token[:-1], token + b'x', token[:-1] + bytes([token[-1] ^ 1]), b'\0' * len(token)):
            self.assertFalse(Raw(self.daemon.address, resume_token=wrong).welcome.resumed)
        code = 'import sys; sys.path[:0] = %r; import resume_protocol_test; print(resume_protocol_test.Raw(sys.argv[1], ' \
               'resume_token=bytes.fromhex(sys.argv[2])).welcome.resumed)' % sys.path
        told = subprocess.run([sys.executable, '-c', code, self.daemon.address, token.hex()], check=True,
                              capture_output=True, text=True).stdout
        self.assertEqual(told.strip(), 'False')
        raw.say(dispatches=[echo(1)])
        raw.outcomes(1)

    def test_who_does_not_ask_gets_no_token(self):
        raw = self.open(resumable=False)
        self.assertEqual(raw.welcome.resume_token, b'')
        raw.say(dispatches=[defer(1)])
        self.daemon.await_status(lambda status: status.ledger.deferred == 1, 'it is deferred')
        raw.cut()
        self.daemon.await_status(lambda status: not raws(status), 'it has ended')

    def test_it_ends_with_its_process(self):
        with subprocess.Popen([sys.executable, '-c', CHILD.format(path=sys.path), self.daemon.address],
                              stdout=subprocess.PIPE, text=True) as child:
            child.stdout.readline()
            self.daemon.await_status(lambda status: status.ledger.deferred == 1, 'it is deferred')
            child.send_signal(signal.SIGKILL)
        self.daemon.await_status(lambda status: not raws(status) and status.ledger.failed == 1, 'it has ended')

    def test_more_than_is_kept_cannot_be_had_again(self):
        raw = self.open()
        text = 'x' * (1 << 20)
        raw.say(dispatches=[echo(number, text) for number in range(1, 19)])
        raw.outcomes(18)
        raw.cut()
        self.await_detached()
        self.assertFalse(self.resume(raw, received=1).welcome.resumed)

    def test_what_was_counted_need_not_be_kept(self):
        raw = self.open()
        text = 'x' * (1 << 20)
        for number in range(1, 19):
            raw.say(dispatches=[echo(number, text)], outcomes_received=number - 1)
            raw.outcomes(1)
        raw.cut()
        self.await_detached()
        again = self.resume(raw, received=17)
        self.assertTrue(again.welcome.resumed)
        self.assertEqual(again.outcomes(1)[0], [(18, True)])

    def test_more_outcomes_than_may_wait_end_it(self):
        raw = self.open()
        hold = self.daemon.hold()
        text = 'x' * (1 << 20)
        for number in range(1, 41):
            raw.say(dispatches=[echo(number, text)])
        self.daemon.await_status(lambda status: status.ledger.queued == 40, 'all are queued')
        raw.cut()
        self.await_detached()
        self.daemon.let_go()
        hold.result(harness.DEADLINE)
        self.daemon.await_status(lambda status: not raws(status), 'it has ended')
        self.daemon.await_line('more than 33554432 bytes of outcomes wait for it')


class GraceTest(harness.TestCase):
    def test_it_ends_when_nobody_comes_back(self):
        daemon = self.start_daemon(args=['--resume_grace=50ms'])
        daemon.steer()
        raw = Raw(daemon.address)
        self.assertEqual(raw.welcome.resume_grace.nanos, 50_000_000)
        raw.say(dispatches=[defer(1)])
        daemon.await_status(lambda status: status.ledger.deferred == 1, 'it is deferred')
        raw.cut()
        daemon.await_line('whose connection was lost: it was not resumed within its grace')
        daemon.await_status(lambda status: not raws(status) and status.ledger.failed == 1, 'it has ended')

    def test_none_is_given(self):
        daemon = self.start_daemon(args=['--resume_grace=0'])
        self.assertEqual(Raw(daemon.address).welcome.resume_token, b'')

    def test_a_wrong_grace_is_refused(self):
        for grace in ('2h', 'soon', '-1s'):
            process = harness.run([harness.RUNLOOPD, f'--resume_grace={grace}'])
            self.assertEqual(process.code, 2)
            self.assert_one_line(process.stderr, '--resume_grace')


if __name__ == '__main__':
    unittest.main()
