"""The kill table: what becomes of an invocation when the worker or the daemon dies or stops, or when the connection
between them is cut, in each state that the invocation can be in, of a session that is lost with its connection. Each cell of the table is run with processes of its
own. Prints a line a cell and how many were met.

    kill_table_test.py [--transport stream|ring] [--jobs N] [--repeat N] [WORD ...]

Only the cells whose names hold all the words.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

import grpc

import harness
import proxy as proxies
from proxy import DAEMON, DOWN, UP, WORKER
from runloop.test.v1 import test_operations_pb2 as operations_pb2
from runloop.v1 import diagnostics_pb2, session_pb2
from worker import Worker

# The states of the invocation when the fault comes:
#   unsent    its worker has not begun to send it: what was dispatched before it is still on its way
#   sent      its bytes are between the processes: the daemon has not read them
#   queued    the daemon has admitted it; another session's operation holds the runtime thread
#   running   it holds the runtime thread
#   deferred  it ran and has left its completion for later
#   done      it has ended, and the outcome is between the processes: the worker has not received it
# Unsent and sent invocations come to a draining daemon in a session that has other work, which keeps it open.
#
# The faults:
#   KILL      SIGKILL. What was sent before it arrives still; of what a killed daemon had sent, nothing does.
#   STOP      SIGSTOP; the other side goes on with what can be done; SIGCONT
#   CUT       the connection breaks at the end of the one named, which learns of it first. Meanwhile the other end, which
#             has noticed nothing, does what it can; then it is told. What was on its way to the end that was cut is lost;
#             what was on its way from it arrives.
#
# What is expected:
#   worker    how the invocation ends at its worker: OK, DEAD (there is none any more), LOST (UNKNOWN, SESSION_LOST: it may
#             have run), NOT_CONNECTED (UNAVAILABLE: it was not sent), DRAINING (UNAVAILABLE: it was refused)
#   ledger    what the daemon counts it as; `nothing`: it never arrived; `gone`: there is no ledger any more
#   ran       whether the operation ran
#   other     what another worker, which dispatches during the fault and awaits after it, gets: OK; `down`: UNAVAILABLE or
#             LOST, until there is a daemon again, then OK; `refused`: UNAVAILABLE, since the daemon drains
# `a/b`: which of them is a race that the processes may decide either way; if several columns of a phase say so, the
# first of each go together, and so on.
#
# Of the stream: NOT_CONNECTED/LOST of what was unsent: gRPC may report the write before it as done though it went
# nowhere, and the client then begins the next one before it learns that the session has ended.
STREAM = '''
state    fault whose  | open:          worker ledger            ran other | draining:      worker ledger          ran other
unsent   KILL  worker |                  DEAD nothing           no  OK    |                  DEAD nothing         no  refused
unsent   KILL  daemon |    NOT_CONNECTED/LOST gone              no  down  |    NOT_CONNECTED/LOST gone            no  down
unsent   STOP  worker |                    OK succeeded         yes OK    |              DRAINING refused         no  refused
unsent   STOP  daemon |                    OK succeeded         yes OK    |              DRAINING refused         no  refused
unsent   CUT   worker |    NOT_CONNECTED/LOST nothing           no  OK    |    NOT_CONNECTED/LOST nothing         no  refused
unsent   CUT   daemon |    NOT_CONNECTED/LOST nothing           no  OK    |    NOT_CONNECTED/LOST nothing         no  refused
sent     KILL  worker |                  DEAD abandoned/nothing no  OK    |                  DEAD refused/nothing no  refused
sent     KILL  daemon |                  LOST gone              no  down  |                  LOST gone            no  down
sent     STOP  worker |                    OK succeeded         yes OK    |              DRAINING refused         no  refused
sent     STOP  daemon |                    OK succeeded         yes OK    |              DRAINING refused         no  refused
sent     CUT   worker |                  LOST succeeded         yes OK    |                  LOST refused         no  refused
sent     CUT   daemon |                  LOST nothing           no  OK    |                  LOST nothing         no  refused
queued   KILL  worker |                  DEAD abandoned         no  OK    |                  DEAD abandoned       no  refused
queued   KILL  daemon |                  LOST gone              no  down  |                  LOST gone            no  down
queued   STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
queued   STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
queued   CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
queued   CUT   daemon |                  LOST abandoned         no  OK    |                  LOST abandoned       no  refused
running  KILL  worker |                  DEAD succeeded         yes OK    |                  DEAD succeeded       yes refused
running  KILL  daemon |                  LOST gone              yes down  |                  LOST gone            yes down
running  STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
running  STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
running  CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
running  CUT   daemon |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
deferred KILL  worker |                  DEAD failed            yes OK    |                  DEAD failed          yes refused
deferred KILL  daemon |                  LOST gone              yes down  |                  LOST gone            yes down
deferred STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
deferred STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
deferred CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
deferred CUT   daemon |                  LOST failed            yes OK    |                  LOST failed          yes refused
done     KILL  worker |                  DEAD succeeded         yes OK    |                  DEAD succeeded       yes refused
done     KILL  daemon |                  LOST gone              yes down  |                  LOST gone            yes down
done     STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
done     STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
done     CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
done     CUT   daemon |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
'''

# Of the ring. What lies in it is with both processes at once: no proxy can hold it back, and no cut or death takes it
# away. So the state is kept by stopping who has to read: an unsent invocation waits behind a request that is larger than
# the ring of a daemon that is stopped, a sent one lies there unread, and the outcome of one that is done lies in the ring
# of a worker that is stopped. The fault comes then, and after it they go on. What differs from the stream:
#   unsent    NOT_CONNECTED, always: the request before it cannot have been written in full, since nobody reads.
#   sent      A daemon that goes on finds the request and the end of its connection at once, on different threads, so
#             the session may end before the request is read (nothing) or after (abandoned). It never runs afterwards:
#             to see that, the runtime thread is held where the session ends. SIGTERM, too, is found at the same time,
#             and may be seen before the request (refused) or after. Of a refusal the worker is told even over a
#             connection that was cut: it reads the ring to its end before it takes the session for lost.
#   done      The worker finds the outcome, whatever became of the daemon and of the connection: OK.
RING = '''
state    fault whose  | open:          worker ledger            ran other | draining:      worker ledger          ran other
unsent   KILL  worker |                  DEAD nothing           no  OK    |                  DEAD nothing         no  refused
unsent   KILL  daemon |         NOT_CONNECTED gone              no  down  |         NOT_CONNECTED gone            no  down
unsent   STOP  worker |                    OK succeeded         yes OK    |              DRAINING refused         no  refused
unsent   STOP  daemon |                    OK succeeded         yes OK    |           DRAINING/OK refused/succeeded no/yes refused
unsent   CUT   worker |         NOT_CONNECTED nothing           no  OK    |         NOT_CONNECTED nothing         no  refused
unsent   CUT   daemon |         NOT_CONNECTED nothing           no  OK    |         NOT_CONNECTED nothing         no  refused
sent     KILL  worker |                  DEAD abandoned/nothing no  OK    |                  DEAD refused/abandoned/nothing no refused
sent     KILL  daemon |                  LOST gone              no  down  |                  LOST gone            no  down
sent     STOP  worker |                    OK succeeded         yes OK    |           DRAINING/OK refused/succeeded no/yes refused
sent     STOP  daemon |                    OK succeeded         yes OK    |           DRAINING/OK refused/succeeded no/yes refused
sent     CUT   worker |                  LOST succeeded         yes OK    |                  LOST refused/succeeded no/yes refused
sent     CUT   daemon |                  LOST abandoned/nothing no  OK    |    DRAINING/LOST/LOST refused/abandoned/nothing no refused
queued   KILL  worker |                  DEAD abandoned         no  OK    |                  DEAD abandoned       no  refused
queued   KILL  daemon |                  LOST gone              no  down  |                  LOST gone            no  down
queued   STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
queued   STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
queued   CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
queued   CUT   daemon |                  LOST abandoned         no  OK    |                  LOST abandoned       no  refused
running  KILL  worker |                  DEAD succeeded         yes OK    |                  DEAD succeeded       yes refused
running  KILL  daemon |                  LOST gone              yes down  |                  LOST gone            yes down
running  STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
running  STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
running  CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
running  CUT   daemon |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
deferred KILL  worker |                  DEAD failed            yes OK    |                  DEAD failed          yes refused
deferred KILL  daemon |                  LOST gone              yes down  |                  LOST gone            yes down
deferred STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
deferred STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
deferred CUT   worker |                  LOST succeeded         yes OK    |                  LOST succeeded       yes refused
deferred CUT   daemon |                  LOST failed            yes OK    |                  LOST failed          yes refused
done     KILL  worker |                  DEAD succeeded         yes OK    |                  DEAD succeeded       yes refused
done     KILL  daemon |                    OK gone              yes down  |                    OK gone            yes down
done     STOP  worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
done     STOP  daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
done     CUT   worker |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
done     CUT   daemon |                    OK succeeded         yes OK    |                    OK succeeded       yes refused
'''
TABLES = {'stream': STREAM, 'ring': RING}

STATES = ('unsent', 'sent', 'queued', 'running', 'deferred', 'done')
FAULTS = ('KILL', 'STOP', 'CUT')
SIGNALS = {'KILL': signal.SIGKILL, 'STOP': signal.SIGSTOP}

OUTCOMES = {
    'OK -': 'OK',
    'UNKNOWN SESSION_LOST': 'LOST',
    'UNAVAILABLE NOT_CONNECTED': 'NOT_CONNECTED',
    'UNAVAILABLE DRAINING': 'DRAINING',
}

Cell = collections.namedtuple('Cell', 'state phase fault whose')
Result = collections.namedtuple('Result', 'worker ledger ran other')

SERVICE = 'runloop.test.v1.TestOperations/'
# What the invocation runs: each shows on the wire, or holds what the state needs.
WHAT = {'unsent': 'record', 'sent': 'record', 'queued': 'record', 'running': 'hold', 'deferred': 'defer', 'done': 'echo'}
PRODUCER, INDEX = 0x7ABCDEF1, 0x7ABCDEF2
TEXT = 'outcome-on-its-way'
# More than flow control lets through, and many times what a ring has room for, while nobody reads.
PLUG_BYTES = 2 << 20
TRANSPORTS = {'stream': session_pb2.TRANSPORT_STREAM, 'ring': session_pb2.TRANSPORT_RING}


def read_table(transport):
    table = {}
    for line in TABLES[transport].strip().splitlines()[1:]:
        names, *results = line.split('|')
        state, fault, whose = names.split()
        for phase, result in zip(('open', 'draining'), results):
            table[Cell(state, phase, fault, whose)] = Result(*result.split())
    assert set(table) == {Cell(state, phase, fault, whose) for state in STATES for phase in ('open', 'draining')
                          for fault in FAULTS for whose in (WORKER, DAEMON)}
    return table


def check(condition, what):
    if not condition:
        raise AssertionError(what)


class Run:
    """One cell."""

    def __init__(self, cell, transport, stack):
        self.cell = cell
        self.transport = transport
        directory = tempfile.mkdtemp(prefix='runloop-')
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self.socket = os.path.join(directory, 's')
        self.stack = stack
        self.daemon = self.start_daemon()
        self.connect(directory, stack)
        self.other = Worker('other', self.daemon.address, transport, 'lose')
        stack.callback(self.other.close)
        self.held = None  # the call of our own that holds the runtime thread
        self.stopped = None  # who is stopped to keep the state
        self.defers = 0  # deferred, and not told to finish
        self.keeper = None
        self.session = None  # the worker's
        self.probe = 'record 9 9' if cell.state == 'done' else 'echo hello'  # what else is dispatched is not counted

    def connect(self, directory, stack):
        self.proxy = proxies.Proxy(os.path.join(directory, 'p'), self.socket)
        stack.callback(self.proxy.close)
        self.worker = Worker('worker', f'unix:{directory}/p', self.transport, 'lose')
        stack.callback(self.worker.close)

    def start_daemon(self, *args):
        daemon = harness.Daemon(self.socket, args=['--drain_timeout=1h', *args])
        self.stack.callback(daemon.close)
        return daemon

    def run(self):
        self.worker.await_line('^ready$', 'stdout')
        self.other.await_line('^ready$', 'stdout')
        self.daemon.steer()
        self.session = self.await_transport()
        self.reach_state()
        return self.faults()

    def await_transport(self):
        """A worker that gets no ring goes on by the stream; the daemon knows of a ring a moment after the worker has it.
        Returns the id of the worker's session."""
        def there(status):
            transports = {session.client_name: session.transport for session in status.sessions}
            return all(transports.get(name) == TRANSPORTS[self.transport] for name in ('worker', 'other'))
        status = self.daemon.await_status(there, f'both go by the {self.transport}')
        return next(session.session_id for session in status.sessions if session.client_name == 'worker')

    # ---- the state ----

    def reach_state(self):
        if self.cell.phase == 'draining' and self.cell.state != 'deferred':
            self.keep_draining()
        if self.cell.phase == 'draining' and self.cell.state in ('unsent', 'sent'):
            self.worker.dispatch('anchor', 'defer')
            self.defers += 1
            self.await_ledger('deferred', self.defers)
        getattr(self, f'make_{self.cell.state}')()
        if self.stopped is not self.worker:
            self.await_outcome()
        if self.cell.phase == 'draining':
            if self.cell.state == 'deferred':
                self.keep_draining()
            self.daemon.signal(signal.SIGTERM)
            if self.stopped is not self.daemon:
                self.await_drain()

    def await_outcome(self):
        self.worker.start_await('it')
        check(self.worker.is_pending('it'), 'the worker knows the outcome before the fault')

    def await_drain(self):
        self.daemon.await_status(lambda status: status.draining, 'the drain has begun')

    def keep_draining(self):
        """Something of our own for which the daemon goes on, so that it can be asked."""
        self.keeper = self.daemon.watch.operations.Defer.future(operations_pb2.DeferRequest())
        self.defers += 1
        self.await_ledger('deferred', self.defers)

    def await_ledger(self, name, count):
        self.daemon.await_status(lambda status: getattr(status.ledger, name) == count, f'{count} {name}')

    def dispatch(self):
        what = WHAT[self.cell.state]
        arguments = {'record': f' {PRODUCER} {INDEX}', 'echo': f' {TEXT}'}.get(what, '')
        # Both ways of waiting are met.
        self.worker.dispatch('it', what + arguments, 'blocking' if self.cell.state == 'running' else 'async')

    def make_unsent(self):
        self.keep(UP)
        self.worker.dispatch('plug', f'plug {PLUG_BYTES}')
        if self.transport == 'ring':
            harness.wait_until(lambda: len(self.proxy.unread(UP)) == self.proxy.ring_bytes(), 'the ring is full')
        self.dispatch()

    def make_sent(self):
        if self.transport == 'ring':
            holds = (self.cell.fault, self.cell.whose) in (('KILL', WORKER), ('CUT', DAEMON))
        else:
            holds = (self.cell.fault, self.cell.whose, self.cell.phase) == ('KILL', WORKER, 'open')
        if holds:
            # So that it cannot run before the daemon knows of the death, or of the cut.
            self.held = self.daemon.hold()
        self.keep(UP)
        self.dispatch()
        self.await_kept(UP, operations_pb2.RecordRequest(producer=PRODUCER, index=INDEX).SerializeToString())

    def make_queued(self):
        self.held = self.daemon.hold()
        self.dispatch()
        self.await_ledger('queued', 1)

    def make_running(self):
        self.dispatch()
        self.daemon.await_status(lambda status: status.thread.current_operation == harness.HOLD, 'it runs')

    def make_deferred(self):
        self.dispatch()
        self.defers += 1
        self.await_ledger('deferred', self.defers)

    def make_done(self):
        if self.transport == 'ring':
            # So that it does not end before nobody reads.
            hold = self.daemon.hold()
            self.dispatch()
            self.await_outcome()
            self.keep(DOWN)
            self.daemon.let_go()
            hold.result(harness.DEADLINE)
        else:
            self.keep(DOWN)
            self.dispatch()
        self.await_kept(DOWN, TEXT.encode())

    def keep(self, direction):
        """What goes that way from now on does not arrive until pass_on()."""
        if self.transport == 'stream':
            self.proxy.hold(direction)
        else:
            self.stopped = self.daemon if direction == UP else self.worker
            self.stop(self.stopped)

    def await_kept(self, direction, part):
        kept = self.proxy.unread if self.transport == 'ring' else self.proxy.held
        harness.wait_until(lambda: part in kept(direction), f'{part} is on its way')

    def pass_on(self, *directions):
        self.proxy.release(*directions)
        if self.stopped is not None and (UP if self.stopped is self.daemon else DOWN) in directions:
            self.go_on(self.stopped)

    def go_on(self, process):
        process.signal(signal.SIGCONT)
        if process is self.stopped:
            self.stopped = None
        if process is self.daemon and self.cell.phase == 'draining':
            # It may have been told while it was stopped.
            self.await_drain()

    # ---- the fault ----

    def faults(self):
        return getattr(self, f'{self.cell.fault.lower()}_{self.cell.whose}')()

    def kill_worker(self):
        self.worker.signal(signal.SIGKILL)
        check(self.worker.wait() == -signal.SIGKILL, 'killed')
        self.meanwhile(self.dispatch_other, lambda: self.pass_on(UP, DOWN))
        self.await_session_end()
        self.let_it_end()
        return self.look('DEAD')

    def kill_daemon(self):
        if self.stopped is self.daemon:
            ran = False  # since before it was dispatched
        else:
            operation = self.operation()
            # Both are as they were when it was last asked: nothing can have started since.
            ran = operation.succeeded + operation.failed + (self.cell.state in ('running', 'deferred'))
        self.daemon.signal(signal.SIGKILL)
        check(self.daemon.wait() == -signal.SIGKILL, 'killed')
        if self.stopped is self.daemon:
            self.stopped = None
        self.proxy.drop()
        self.pass_on(UP, DOWN)
        outcome = self.outcome()
        self.dispatch_other()
        # It may or may not have noticed by then; that the daemon drained it may have been told before.
        may = ('NOT_CONNECTED', 'LOST') + (('DRAINING',) if self.cell.phase == 'draining' else ())
        check(self.await_other() in may, f'without a daemon the other worker got {self.await_other()}')
        self.daemon = self.start_daemon()
        self.await_other_ok()
        return Result(outcome, 'gone', 'yes' if ran else 'no', 'down')

    def stop_worker(self):
        self.stop(self.worker)
        self.meanwhile(self.dispatch_other, lambda: self.cell.state != 'done' and self.pass_on(UP))
        self.let_it_end()
        if self.cell.state in ('queued', 'running', 'deferred'):
            self.await_end_in_daemon()
        if self.cell.phase == 'open':
            check(self.await_other() == 'OK', 'the other worker goes on meanwhile')
        self.go_on(self.worker)
        self.pass_on(DOWN)
        return self.look(self.outcome())

    def stop_daemon(self):
        self.stop(self.daemon)
        if self.cell.phase == 'open':
            self.dispatch_other()
        self.proxy.release(UP)
        self.let_it_end()
        if self.stopped is self.worker:
            # It needs nobody to find it.
            self.pass_on(DOWN)
            check(self.outcome() == 'OK', 'the outcome that lay in the ring')
        else:
            check(self.worker.is_pending('it'), 'the worker knows the outcome from a daemon that is stopped')
        self.go_on(self.daemon)
        self.pass_on(DOWN)
        if self.cell.phase == 'draining':
            self.dispatch_other()
        return self.look(self.outcome())

    def cut_worker(self):
        if self.cell.state == 'done':
            self.proxy.drop()
        self.proxy.cut(WORKER)
        self.pass_on(DOWN)
        outcome = self.outcome()
        self.meanwhile(self.dispatch_other, lambda: self.pass_on(UP))
        self.let_it_end()
        if self.cell.state != 'unsent':
            self.await_end_in_daemon()
        self.proxy.tell()
        return self.look(outcome)

    def cut_daemon(self):
        self.proxy.cut(DAEMON)
        if self.stopped is self.daemon:
            self.pass_on(UP)
        self.await_session_end()
        self.dispatch_other()
        self.let_it_end()
        if self.cell.state not in ('unsent', 'sent'):
            self.await_end_in_daemon()
        if not (self.transport == 'ring' and self.cell.state in ('sent', 'done')):
            # In a ring it may find one.
            check(self.worker.is_pending('it'), 'the worker knows the outcome before it is told')
        self.proxy.tell()
        self.pass_on(DOWN)
        return self.look(self.outcome())

    def meanwhile(self, dispatch_other, pass_on):
        """Both; the other worker first, unless that is why it would not be refused: a daemon that is stopped has not begun
        to drain."""
        if self.stopped is self.daemon and self.cell.phase == 'draining':
            pass_on()
            dispatch_other()
        else:
            dispatch_other()
            pass_on()

    def stop(self, process):
        process.signal(signal.SIGSTOP)
        # It takes effect thread by thread.
        tasks = f'/proc/{process.pid}/task'

        def stopped():
            states = []
            for thread in os.listdir(tasks):
                with contextlib.suppress(OSError), open(f'{tasks}/{thread}/stat', encoding='utf-8') as stat:
                    states.append(stat.read().rpartition(')')[2].split()[0])
            return states and set(states) == {'T'}
        harness.wait_until(stopped, 'it is stopped')

    def let_it_end(self):
        """Lets go what the state holds."""
        if self.held is not None or self.cell.state == 'running':
            self.daemon.let_go()
        if self.cell.state == 'deferred':
            self.daemon.finish_deferred('done')
            self.defers -= 1

    def await_session_end(self):
        """Waits until the daemon starts nothing of the session any more."""
        # It may be closing for as long as the runtime thread is held.
        self.daemon.await_status(lambda status: all(session.closing for session in status.sessions
                                                    if session.session_id == self.session), 'the session has ended')
        if self.cell.state == 'deferred':
            # What ends with the session is ended on the runtime thread, a moment later.
            self.await_end_in_daemon()

    def await_end_in_daemon(self):
        def ended():
            operation = self.operation()
            return operation.succeeded + operation.failed + operation.not_started or self.status().ledger.refused
        harness.wait_until(ended, 'the daemon has counted its end')

    # ---- what came of it ----

    def outcome(self):
        outcome = self.worker.outcome('it')
        return OUTCOMES.get(outcome, outcome)

    def dispatch_other(self):
        self.other.dispatch('probe', self.probe)
        self.other.start_await('probe')

    def await_other(self):
        outcome = self.other.outcome('probe')
        return OUTCOMES.get(outcome, outcome)

    def await_other_ok(self):
        numbers = iter(range(1000))

        def ok():
            name = f'again{next(numbers)}'
            self.other.dispatch(name, self.probe)
            self.other.start_await(name)
            return self.other.outcome(name) == 'OK -'
        harness.wait_until(ok, 'the other worker is served again')

    def status(self):
        return self.daemon.status()

    def operation(self):
        name = SERVICE + WHAT[self.cell.state].capitalize()
        return next(operation for operation in self.daemon.watch.diagnostics.ListOperations(
            diagnostics_pb2.ListOperationsRequest(), timeout=harness.DEADLINE).operations if operation.name == name)

    def look(self, outcome):
        """Lets everything settle and gives what came of the invocation."""
        other = self.await_other()
        if self.cell.phase == 'draining' and other in ('DRAINING', 'NOT_CONNECTED'):
            other = 'refused'
        self.worker.close()
        self.proxy.tell()

        def settled(status):
            ledger = status.ledger
            return (ledger.queued == ledger.running == 0 and ledger.deferred == (self.keeper is not None) and
                    all(session.client_name != 'worker' for session in status.sessions))
        status = self.daemon.await_status(settled, 'the daemon has settled')
        operation = self.operation()
        words = (['succeeded'] * operation.succeeded + ['failed'] * operation.failed +
                 ['refused'] * (status.ledger.refused if self.cell.phase == 'draining' else 0))
        if operation.not_started:
            words += ['abandoned'] * status.ledger.abandoned or ['not started']
        result = Result(outcome, '+'.join(words) or 'nothing', 'yes' if operation.succeeded + operation.failed else 'no',
                        other)
        self.end_daemon()
        return result

    def end_daemon(self):
        """The daemon drains, and its books balance."""
        if self.cell.phase == 'draining':
            try:
                self.daemon.watch.echo('too late')
                raise AssertionError('a plain call was served')
            except grpc.RpcError as error:
                check(harness.error_info(error).reason == 'DRAINING', error)
            # In one write: the worker's may have ended with its session, and the daemon ends with the keeper.
            self.daemon.finish_deferred('\nfinish '.join(['done'] * self.defers))
        else:
            self.daemon.signal(signal.SIGTERM)
        check(self.daemon.wait() == 0, f'the daemon ended with another code than 0: {self.daemon.stderr}')
        line = self.daemon.await_line('ledger: (.*)').group(1)
        counts = {name: int(number) for name, number in re.findall(r'([a-z]+) (\d+)', line)}
        ends = ('succeeded', 'failed', 'cancelled', 'expired', 'superseded', 'abandoned')
        check(counts['admitted'] == sum(counts[name] for name in ends) and
              counts['queued'] == counts['running'] == counts['deferred'] == 0, f'the ledger does not balance: {line}')


def meets(result, expected):
    wanted = [words.split('/') for words in expected]
    ways = max(len(words) for words in wanted)
    return any(result == Result(*(words[way if len(words) > 1 else 0] for words in wanted)) for way in range(ways))


def run_cell(cell, transport, expected, run_class):
    """Runs it; returns whether it was met, and a line about it."""
    begin = time.monotonic()
    detail = ''
    try:
        with contextlib.ExitStack() as stack:
            result = run_class(cell, transport, stack).run()
        met = meets(result, expected)
    except Exception:  # pylint: disable=broad-except
        result, met, detail = None, False, traceback.format_exc()
    took = time.monotonic() - begin
    name = f'{cell.state:8} {cell.phase:8} {cell.fault:4} {cell.whose:6}'
    if met:
        text = f'worker {result.worker}; ledger {result.ledger}; ran {result.ran}; other {result.other}'
        return True, f'met     {name}  {text}  ({took:.1f} s)'
    return False, f'NOT MET {name}  expected {expected}\n        got {result} ({took:.1f} s)\n{detail}'


def main(table_of, run_class, description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--transport', choices=TABLES, default='ring', help='what is between; default: %(default)s')
    parser.add_argument('--jobs', type=int, default=4, help='cells that run at a time; default: %(default)s')
    parser.add_argument('--repeat', type=int, default=1, help='how often each is run; default: %(default)s')
    parser.add_argument('words', nargs='*')
    arguments = parser.parse_args()
    table = {cell: expected for cell, expected in table_of(arguments.transport).items()
             if all(word in cell for word in arguments.words)}
    begin = time.monotonic()
    met = 0
    # The threads live until the end: a child dies with the thread that started it.
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run_cell, cell, arguments.transport, expected, run_class) for _ in range(arguments.repeat)
                for cell, expected in table.items()]
        for run in runs:
            is_met, line = run.result()
            met += is_met
            print(line, flush=True)
    print(f'{met} of {len(runs)} cells met by the {arguments.transport}, in {time.monotonic() - begin:.0f} s')
    return 0 if met == len(runs) and runs else 1


if __name__ == '__main__':
    sys.exit(main(read_table, Run, __doc__))
