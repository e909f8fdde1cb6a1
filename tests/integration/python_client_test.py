"""A client that nobody here wrote: python3-grpcio, with stubs generated from the .proto files."""

import queue
import unittest

import grpc
from google.protobuf import descriptor_pb2

import harness
from health.v1 import health_pb2
from reflection.v1 import reflection_pb2, reflection_pb2_grpc
from reflection.v1alpha import reflection_pb2 as alpha_pb2
from reflection.v1alpha import reflection_pb2_grpc as alpha_pb2_grpc
from runloop.test.v1 import test_operations_pb2 as operations_pb2
from runloop.v1 import diagnostics_pb2, dispatcher_pb2, session_pb2

Code = grpc.StatusCode
State = diagnostics_pb2.RuntimeThread
SERVICE = 'runloop.test.v1.TestOperations'
END = object()
MANY = 200


class SessionStream:
    """The session stream, written and read by hand."""

    def __init__(self, stubs):
        self.requests = queue.Queue()
        self.responses = stubs.dispatcher.Session(iter(self.requests.get, END), timeout=harness.DEADLINE)
        self.succeeded = session_pb2.InvocationRanges()
        self.outcomes = {}

    def send(self, **fields):
        self.requests.put(session_pb2.SessionRequest(**fields))

    def hello(self, versions=(1, 1), **fields):
        hello = session_pb2.Hello(versions=session_pb2.VersionRange(min=versions[0], max=versions[1]), **fields)
        self.send(hello=hello)
        return next(self.responses).welcome

    def dispatch(self, *dispatches):
        self.send(dispatches=dispatches)

    def half_close(self):
        self.requests.put(END)

    def read(self):
        """One response; what it tells is noted."""
        response = next(self.responses)
        if response.HasField('succeeded'):
            self.succeeded = response.succeeded
        for outcome in response.outcomes:
            assert outcome.invocation_id not in self.outcomes, f'a second outcome: {outcome}'
            self.outcomes[outcome.invocation_id] = outcome
        return response

    def has_succeeded(self, number):
        return number <= self.succeeded.watermark or any(
            span.first <= number <= span.last for span in self.succeeded.ranges)

    def await_outcome(self, number):
        while number not in self.outcomes:
            self.read()
        return self.outcomes[number]

    def await_success(self, number):
        while not self.has_succeeded(number):
            self.read()

    def read_to_end(self):
        for _ in iter(lambda: self._read_or_none(), None):
            pass

    def _read_or_none(self):
        try:
            return self.read()
        except StopIteration:
            return None


def echo(number, text, **fields):
    fields.setdefault('operation_name', harness.ECHO)
    return session_pb2.Dispatch(
        invocation_id=number, request=operations_pb2.EchoRequest(text=text).SerializeToString(), **fields)


def record(number, index, **fields):
    return session_pb2.Dispatch(
        invocation_id=number, operation_name=harness.RECORD,
        request=operations_pb2.RecordRequest(producer=1, index=index).SerializeToString(), **fields)


class PythonClientTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()
        self.stubs = self.connect(self.daemon.address)

    # Typed calls.

    def test_a_typed_call_runs_on_the_runtime_thread(self):
        reply = self.stubs.operations.Echo(
            operations_pb2.EchoRequest(text='grüße', payload=b'x' * 1000), timeout=harness.DEADLINE)
        self.assertEqual(reply.text, 'grüße')
        self.assertEqual(reply.payload_size, 1000)
        self.assertTrue(reply.on_runtime_thread)

    def test_an_operations_own_error_comes_back_as_it_is(self):
        error = self.assert_fails(
            lambda: self.stubs.operations.Fail(
                operations_pb2.FailRequest(code=Code.DATA_LOSS.value[0], message='the disk is gone'),
                timeout=harness.DEADLINE),
            Code.DATA_LOSS)
        self.assertEqual(error.details(), 'the disk is gone')

    def test_a_handler_that_throws_gives_internal_with_its_text_and_the_thread_goes_on(self):
        error = self.assert_fails(
            lambda: self.stubs.operations.Throw(
                operations_pb2.ThrowRequest(text='no such camera'), timeout=harness.DEADLINE),
            Code.INTERNAL, 'HANDLER_THREW')
        self.assertIn('no such camera', error.details())
        self.assertEqual(self.stubs.echo('still here'), 'still here')

    def test_a_dropped_completion_gives_aborted(self):
        self.assert_fails(
            lambda: self.stubs.operations.Drop(operations_pb2.DropRequest(), timeout=harness.DEADLINE),
            Code.ABORTED, 'COMPLETION_DROPPED')

    def test_a_deferred_completion_answers_while_the_thread_serves_others(self):
        deferred = self.stubs.operations.Defer.future(operations_pb2.DeferRequest(), timeout=harness.DEADLINE)
        self.daemon.await_status(lambda status: status.ledger.deferred == 1, 'one invocation is deferred')
        self.assertEqual(self.stubs.echo('meanwhile'), 'meanwhile')
        self.assertFalse(deferred.done())
        self.daemon.finish_deferred('from a callback')
        self.assertEqual(deferred.result().text, 'from a callback')

    def test_a_method_that_is_no_operation_is_unimplemented(self):
        unknown = self.stubs.channel.unary_unary(f'/{SERVICE}/NoSuchMethod')
        error = self.assert_fails(lambda: unknown(b'', timeout=harness.DEADLINE), Code.UNIMPLEMENTED,
                                  'UNKNOWN_OPERATION')
        self.assertIn('NoSuchMethod', error.details())

    def test_a_request_that_does_not_parse_is_an_invalid_argument(self):
        raw = self.stubs.channel.unary_unary(f'/{harness.ECHO}')
        error = self.assert_fails(lambda: raw(b'\xff\xff\xff', timeout=harness.DEADLINE), Code.INVALID_ARGUMENT,
                                  'INVALID_REQUEST')
        self.assertIn('runloop.test.v1.EchoRequest', error.details())

    def test_a_call_whose_deadline_passes_while_it_is_queued_never_runs(self):
        self.daemon.hold()
        self.assert_fails(
            lambda: self.stubs.operations.Record(operations_pb2.RecordRequest(producer=1, index=1), timeout=0.2),
            Code.DEADLINE_EXCEEDED)
        self.daemon.await_status(
            lambda status: status.ledger.expired + status.ledger.cancelled == 1, 'the daemon knows of it')
        self.daemon.let_go()
        items, _ = self.stubs.record()
        self.assertEqual(items, [])

    def test_a_call_that_is_cancelled_while_it_is_queued_never_runs(self):
        self.daemon.hold()
        call = self.stubs.operations.Record.future(operations_pb2.RecordRequest(producer=1, index=1))
        self.daemon.await_status(lambda status: status.ledger.queued == 1, 'the call is queued')
        call.cancel()
        self.daemon.await_status(lambda status: status.ledger.cancelled == 1, 'the call is cancelled')
        self.daemon.let_go()
        items, _ = self.stubs.record()
        self.assertEqual(items, [])

    # Dispatcher.Dispatch.

    def dispatch(self, operation, request, **fields):
        return self.stubs.dispatcher.Dispatch(
            dispatcher_pb2.DispatchRequest(operation=operation, request=request, **fields), timeout=harness.DEADLINE)

    def test_hundreds_of_plain_calls_that_wait_hold_no_thread_of_the_daemon(self):
        held = self.daemon.hold()
        threads = self.daemon.usage().threads
        calls = [self.stubs.operations.Record.future(
            operations_pb2.RecordRequest(producer=1, index=index), timeout=harness.DEADLINE)
            for index in range(MANY)]
        self.daemon.await_status(lambda status: status.ledger.queued == MANY, 'all are queued')
        self.assertLessEqual(self.daemon.usage().threads, threads)
        self.daemon.let_go()
        held.result()
        self.assertEqual(sorted(call.result().position for call in calls), list(range(MANY)))

    def test_hundreds_of_sessions_that_wait_hold_no_thread_of_the_daemon(self):
        held = self.daemon.hold()
        threads = self.daemon.usage().threads
        streams = [SessionStream(self.stubs) for _ in range(MANY)]
        for index, stream in enumerate(streams):
            stream.hello()
            stream.dispatch(record(1, index))
        self.daemon.await_status(lambda status: status.ledger.queued == MANY, 'all are queued')
        self.assertLessEqual(self.daemon.usage().threads, threads)
        self.daemon.let_go()
        held.result()
        for stream in streams:
            stream.await_success(1)
            stream.half_close()
            stream.read_to_end()

    def test_dispatch_runs_an_operation_by_name(self):
        response = self.dispatch(harness.ECHO, operations_pb2.EchoRequest(text='by name').SerializeToString())
        self.assertEqual(operations_pb2.EchoReply.FromString(response.reply).text, 'by name')

    def test_dispatch_tells_what_ran_and_failed_from_what_was_not_admitted(self):
        response = self.dispatch(f'{SERVICE}/Throw', operations_pb2.ThrowRequest(text='boom').SerializeToString())
        self.assertEqual(response.status.code, Code.INTERNAL.value[0])
        self.assertEqual(harness.info_of(response.status).reason, 'HANDLER_THREW')
        self.assert_fails(lambda: self.dispatch('acme.v1.Nothing/AtAll', b''), Code.UNIMPLEMENTED,
                          'UNKNOWN_OPERATION')
        self.assert_fails(lambda: self.dispatch(harness.ECHO, b'\xff\xff'), Code.INVALID_ARGUMENT,
                          'INVALID_REQUEST')

    def test_dispatch_whose_timeout_passes_while_it_is_queued_says_that_it_never_ran(self):
        self.daemon.hold()
        request = dispatcher_pb2.DispatchRequest(
            operation=harness.RECORD, request=operations_pb2.RecordRequest().SerializeToString())
        request.timeout.FromMilliseconds(200)
        response = self.stubs.dispatcher.Dispatch(request, timeout=harness.DEADLINE)
        self.assertEqual(response.status.code, Code.DEADLINE_EXCEEDED.value[0])
        self.assertEqual(harness.info_of(response.status).reason, 'EXPIRED')
        self.daemon.let_go()

    # The session stream.

    def test_a_session_is_welcomed_with_what_it_needs_to_know(self):
        stream = SessionStream(self.stubs)
        welcome = stream.hello(versions=(1, 7), client_name='by hand',
                               transports=[session_pb2.TRANSPORT_RING, session_pb2.TRANSPORT_STREAM])
        self.assertEqual(welcome.version, 1)
        self.assertTrue(welcome.session_id)
        self.assertEqual(welcome.transport, session_pb2.TRANSPORT_RING)
        without = SessionStream(self.stubs).hello(transports=[session_pb2.TRANSPORT_STREAM])
        self.assertEqual(without.transport, session_pb2.TRANSPORT_STREAM)
        self.assertFalse(welcome.resumed)
        self.assertGreaterEqual(welcome.limits.max_message_bytes, 4 << 20)
        self.assertGreaterEqual(welcome.limits.max_unfinished, 1)
        operations = {operation.name: operation for operation in welcome.operations}
        self.assertEqual(operations[harness.ECHO].request_type, 'runloop.test.v1.EchoRequest')
        self.assertEqual(operations[harness.ECHO].reply_type, 'runloop.test.v1.EchoReply')
        session = next(session for session in self.daemon.status().sessions
                       if session.session_id == welcome.session_id)
        self.assertEqual(session.client_name, 'by hand')
        self.assertEqual(session.role, '')
        stream.half_close()
        stream.read_to_end()

    def test_a_session_gets_the_replies_it_asked_for_and_acknowledgements_of_the_rest(self):
        stream = SessionStream(self.stubs)
        welcome = stream.hello()
        by_id = next(operation.id for operation in welcome.operations if operation.name == harness.ECHO)
        stream.dispatch(echo(1, 'quiet'), echo(2, 'loud', reply_wanted=True),
                        session_pb2.Dispatch(invocation_id=3, operation_id=by_id, reply_wanted=True,
                                             request=operations_pb2.EchoRequest(text='by id').SerializeToString()))
        self.assertEqual(operations_pb2.EchoReply.FromString(stream.await_outcome(2).reply).text, 'loud')
        self.assertEqual(operations_pb2.EchoReply.FromString(stream.await_outcome(3).reply).text, 'by id')
        stream.await_success(1)
        self.assertNotIn(1, stream.outcomes)
        stream.half_close()
        stream.read_to_end()

    def test_an_unfinished_invocation_holds_back_no_later_ones(self):
        stream = SessionStream(self.stubs)
        stream.hello()
        deferred = session_pb2.Dispatch(invocation_id=1, operation_name=f'{SERVICE}/Defer', reply_wanted=True)
        stream.dispatch(deferred, *(record(number, number) for number in range(2, 102)))
        stream.await_success(101)
        self.assertEqual(stream.succeeded.watermark, 0)
        self.assertEqual([(span.first, span.last) for span in stream.succeeded.ranges], [(2, 101)])
        self.daemon.finish_deferred('at last')
        self.assertEqual(operations_pb2.DeferReply.FromString(stream.await_outcome(1).reply).text, 'at last')
        stream.half_close()
        stream.read_to_end()
        self.assertEqual(stream.responses.code(), Code.OK)

    def test_a_session_runs_its_dispatches_in_send_order(self):
        stream = SessionStream(self.stubs)
        stream.hello()
        for first in range(0, 2000, 100):
            stream.dispatch(*(record(number + 1, number) for number in range(first, first + 100)))
        stream.await_success(2000)
        items, _ = self.stubs.record()
        self.assertEqual(items, [(1, index) for index in range(2000)])
        stream.half_close()
        stream.read_to_end()

    def test_what_was_sent_before_a_half_close_still_runs_and_the_stream_ends_with_ok(self):
        held = self.daemon.hold()
        stream = SessionStream(self.stubs)
        stream.hello()
        stream.dispatch(*(record(number, number) for number in range(1, 11)))
        stream.half_close()
        self.daemon.await_status(lambda status: status.ledger.queued == 10, 'all are queued')
        self.daemon.let_go()
        stream.read_to_end()
        self.assertEqual(stream.responses.code(), Code.OK)
        self.assertTrue(stream.has_succeeded(10))
        held.result()
        items, ended = self.stubs.record()
        self.assertEqual(len(items), 10)
        harness.wait_until(lambda: len(self.stubs.record()[1]) == 1, "the session's object was destroyed")

    def test_what_was_queued_when_a_stream_breaks_never_runs(self):
        self.daemon.hold()
        stream = SessionStream(self.stubs)
        session = stream.hello().session_id
        stream.dispatch(*(record(number, number) for number in range(1, 11)))
        self.daemon.await_status(lambda status: status.ledger.queued == 10, 'all are queued')
        stream.responses.cancel()
        harness.wait_until(lambda: not harness.session_is_open(self.stubs, session), 'the session has ended')
        self.daemon.let_go()
        items, _ = self.stubs.record()
        self.assertEqual(items, [])
        # Of the ledger's abandoned ones some may be calls that looked whether the session is open.
        operations = self.stubs.diagnostics.ListOperations(
            diagnostics_pb2.ListOperationsRequest(), timeout=harness.DEADLINE).operations
        self.assertEqual([each.not_started for each in operations if each.name == harness.RECORD], [10])

    def test_a_dispatch_that_fails_has_its_status_in_its_outcome(self):
        stream = SessionStream(self.stubs)
        stream.hello()
        stream.dispatch(
            session_pb2.Dispatch(invocation_id=1, operation_name=f'{SERVICE}/Throw',
                                 request=operations_pb2.ThrowRequest(text='boom').SerializeToString()),
            session_pb2.Dispatch(invocation_id=2, operation_name='acme.v1.Nothing/AtAll'),
            session_pb2.Dispatch(invocation_id=3, operation_name=harness.ECHO, request=b'\xff\xff'),
            session_pb2.Dispatch(invocation_id=4),
            echo(5, 'fine'))
        for number, code, reason in ((1, Code.INTERNAL, 'HANDLER_THREW'), (2, Code.UNIMPLEMENTED, 'UNKNOWN_OPERATION'),
                                     (3, Code.INVALID_ARGUMENT, 'INVALID_REQUEST'),
                                     (4, Code.INVALID_ARGUMENT, 'INVALID_REQUEST')):
            status = stream.await_outcome(number).status
            self.assertEqual(status.code, code.value[0], status)
            self.assertEqual(harness.info_of(status).reason, reason)
        stream.await_success(5)
        stream.half_close()
        stream.read_to_end()

    def test_a_dispatch_is_cancelled_or_expires_only_while_it_is_queued(self):
        self.daemon.hold()
        stream = SessionStream(self.stubs)
        stream.hello()
        expiring = record(2, 2)
        expiring.timeout.FromMilliseconds(100)
        stream.dispatch(record(1, 1), expiring, record(3, 3))
        stream.send(cancels=[session_pb2.Cancel(invocation_id=1), session_pb2.Cancel(invocation_id=99)])
        self.assertEqual(harness.info_of(stream.await_outcome(1).status).reason, 'CANCELLED')
        self.assertEqual(harness.info_of(stream.await_outcome(2).status).reason, 'EXPIRED')
        self.daemon.let_go()
        stream.await_success(3)
        items, _ = self.stubs.record()
        self.assertEqual(items, [(1, 3)])
        stream.half_close()
        stream.read_to_end()

    def test_a_plain_call_joins_the_session_that_it_names(self):
        stream = SessionStream(self.stubs)
        session = stream.hello().session_id
        before = [session.session_id for session in self.daemon.status().sessions]
        self.assertEqual(self.stubs.echo('joined', metadata=(('runloop-session', session),)), 'joined')
        status = self.daemon.await_status(
            lambda status: any(other.session_id == session and other.finished == 1 for other in status.sessions),
            'the session has finished one')
        self.assertEqual([session.session_id for session in status.sessions], before)
        self.assert_fails(lambda: self.stubs.echo('lost', metadata=(('runloop-session', 'no-such-session'),)),
                          Code.INVALID_ARGUMENT, 'UNKNOWN_SESSION')
        stream.half_close()
        stream.read_to_end()

    def assert_stream_ends(self, stream, code, reason):
        error = self.assert_fails(stream.read_to_end, code, reason)
        stream.half_close()
        self.assertEqual(self.stubs.echo('others go on'), 'others go on')
        return error

    def test_a_stream_that_begins_without_hello_ends(self):
        stream = SessionStream(self.stubs)
        stream.dispatch(echo(1, 'too early'))
        self.assert_stream_ends(stream, Code.INVALID_ARGUMENT, 'PROTOCOL_VIOLATION')

    def test_a_second_hello_ends_the_stream(self):
        stream = SessionStream(self.stubs)
        stream.hello()
        stream.send(hello=session_pb2.Hello(versions=session_pb2.VersionRange(min=1, max=1)))
        self.assert_stream_ends(stream, Code.INVALID_ARGUMENT, 'PROTOCOL_VIOLATION')

    def test_an_invocation_id_that_does_not_rise_ends_the_stream(self):
        stream = SessionStream(self.stubs)
        stream.hello()
        stream.dispatch(echo(5, 'five'), echo(5, 'five again'))
        self.assert_stream_ends(stream, Code.INVALID_ARGUMENT, 'PROTOCOL_VIOLATION')

    def test_versions_without_a_common_one_end_the_stream(self):
        stream = SessionStream(self.stubs)
        error = self.assert_fails(lambda: stream.hello(versions=(2, 3)), Code.FAILED_PRECONDITION,
                                  'VERSION_MISMATCH')
        self.assertIn('update the daemon', error.details())
        stream.half_close()

    # Reflection and health.

    def reflect(self, module, stub, **fields):
        requests = queue.Queue()
        requests.put(module.ServerReflectionRequest(**fields))
        responses = stub.ServerReflectionInfo(iter(requests.get, END), timeout=harness.DEADLINE)
        response = next(responses)
        requests.put(END)
        self.assertEqual(list(responses), [])
        return response

    def check_reflection(self, module, stub):
        listed = {service.name for service in
                  self.reflect(module, stub, list_services='*').list_services_response.service}
        self.assertLessEqual(
            {SERVICE, 'runloop.test.v1.TestControl', 'runloop.v1.Dispatcher', 'runloop.v1.Diagnostics',
             'grpc.health.v1.Health', 'grpc.reflection.v1.ServerReflection',
             'grpc.reflection.v1alpha.ServerReflection'}, listed)
        for service in listed:
            files = self.reflect(
                module, stub, file_containing_symbol=service).file_descriptor_response.file_descriptor_proto
            parsed = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in files]
            self.assertIn(service, [f'{file.package}.{described.name}' for file in parsed for described in file.service])
        error = self.reflect(module, stub, file_containing_symbol='acme.v1.Nothing').error_response
        self.assertEqual(error.error_code, Code.NOT_FOUND.value[0])

    def test_reflection_v1_lists_and_describes_every_service(self):
        self.check_reflection(reflection_pb2, reflection_pb2_grpc.ServerReflectionStub(self.stubs.channel))

    def test_reflection_v1alpha_lists_and_describes_every_service(self):
        self.check_reflection(alpha_pb2, alpha_pb2_grpc.ServerReflectionStub(self.stubs.channel))

    def check_health(self, service=''):
        return self.stubs.health.Check(
            health_pb2.HealthCheckRequest(service=service), timeout=harness.DEADLINE).status

    def test_health_tells_a_stalled_thread_from_a_daemon_that_is_alive(self):
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        self.assertEqual(self.check_health(), serving)
        self.assertEqual(self.check_health('runloop.RuntimeThread'), serving)
        self.assertEqual(self.check_health(SERVICE), serving)
        self.assert_fails(lambda: self.check_health('acme.v1.Nothing'), Code.NOT_FOUND)
        self.daemon.hold()
        harness.wait_until(lambda: self.check_health('runloop.RuntimeThread') == not_serving, 'the thread is stalled')
        self.assertEqual(self.check_health(), serving)
        self.daemon.let_go()
        harness.wait_until(lambda: self.check_health('runloop.RuntimeThread') == serving, 'the thread goes on')

    def test_health_can_be_watched(self):
        watch = self.stubs.health.Watch(
            health_pb2.HealthCheckRequest(service='runloop.RuntimeThread'), timeout=harness.DEADLINE)
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        self.daemon.hold()
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
        self.daemon.let_go()
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()

    # Diagnostics.

    def test_status_tells_what_holds_the_thread_while_it_is_held(self):
        held = self.daemon.hold()
        waiting = [self.stubs.operations.Echo.future(operations_pb2.EchoRequest(), timeout=harness.DEADLINE)
                   for _ in range(3)]
        status = self.daemon.await_status(
            lambda status: status.ledger.queued == 3 and status.thread.state == State.STATE_STALLED,
            'three wait and the thread counts as stalled')
        self.assertEqual(status.pid, self.daemon.pid)
        self.assertEqual(status.thread.current_operation, harness.HOLD)
        self.assertTrue(status.thread.current_session)
        self.assertGreater(status.thread.current_age.ToNanoseconds(), 0)
        self.assertEqual(status.thread.loop, 'epoll')
        self.assertEqual(list(status.addresses), [self.daemon.address])
        self.assertEqual(status.ledger.running, 1)
        self.assertGreater(status.threads, 1)
        self.assertGreater(status.open_files, 3)
        self.daemon.let_go()
        held.result()
        for call in waiting:
            call.result()
        status = self.daemon.await_status(
            lambda status: status.thread.state == State.STATE_IDLE, 'the thread has nothing to do')
        ledger = status.ledger
        self.assertEqual(ledger.admitted, ledger.succeeded + ledger.failed + ledger.cancelled + ledger.expired +
                         ledger.superseded + ledger.abandoned + ledger.delayed + ledger.queued + ledger.running +
                         ledger.deferred)

    def test_operations_are_listed_with_types_counts_and_times(self):
        for _ in range(5):
            self.stubs.echo('counted')
        self.assert_fails(
            lambda: self.stubs.operations.Fail(operations_pb2.FailRequest(code=3), timeout=harness.DEADLINE),
            Code.INVALID_ARGUMENT)
        response = self.stubs.diagnostics.ListOperations(
            diagnostics_pb2.ListOperationsRequest(), timeout=harness.DEADLINE)
        names = [operation.name for operation in response.operations]
        self.assertEqual(names, sorted(names))
        operations = {operation.name: operation for operation in response.operations}
        listed = operations[harness.ECHO]
        self.assertEqual((listed.request_type, listed.reply_type),
                         ('runloop.test.v1.EchoRequest', 'runloop.test.v1.EchoReply'))
        self.assertEqual((listed.succeeded, listed.failed, listed.queue_wait.count, listed.run_time.count), (5, 0, 5, 5))
        self.assertLessEqual(listed.queue_wait.p50.ToNanoseconds(), listed.queue_wait.max.ToNanoseconds() * 1.07)
        self.assertEqual(operations[f'{SERVICE}/Fail'].failed, 1)


class GlibLoopTest(harness.TestCase):

    def test_a_daemon_on_glibs_loop_serves_the_same_calls(self):
        daemon = self.start_daemon(args=['--loop=glib'])
        stubs = self.connect(daemon.address)
        self.assertEqual(stubs.echo('glib'), 'glib')
        self.assertEqual(daemon.status().thread.loop, 'glib')


if __name__ == '__main__':
    unittest.main()
