"""The kill table: what becomes of an invocation when the worker or the daemon dies or stops, or when the connection
between them is cut, in each state that the invocation can be in. Each cell of the table is run with processes of its
own. Prints a line a cell and how many were met.

    kill_table_test.py [--jobs N] [--repeat N] [WORD ...]    only the cells whose names hold all the words
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
from runloop.v1 import diagnostics_pb2
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
# `a/b`: which of them is a race that the processes may decide either way. NOT_CONNECTED/LOST of what was unsent: gRPC
# may report the write before it as done though it went nowhere, and the client then begins the next one before it learns
# that the session has ended.
TABLE = '''
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
# More than flow control lets through while nobody reads.
PLUG_BYTES = 2 << 20


def read_table():
    table = {}
    for line in TABLE.strip().splitlines()[1:]:
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

    def __init__(self, cell, stack):
        self.cell = cell
        directory = tempfile.mkdtemp(prefix='runloop-')
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self.socket = os.path.join(directory, 's')
        self.stack = stack
        self.daemon = self.start_daemon()
        self.proxy = proxies.Proxy(os.path.join(directory, 'p'), self.socket)
        stack.callback(self.proxy.close)
        self.worker = Worker('worker', f'unix:{directory}/p')
        stack.callback(self.worker.close)
        self.other = Worker('other', self.daemon.address)
        stack.callback(self.other.close)
        self.held = None  # the call of our own that holds the runtime thread
        self.defers = 0  # deferred, and not told to finish
        self.keeper = None
        self.session = None  # the worker's
        self.probe = 'record 9 9' if cell.state == 'done' else 'echo hello'  # what else is dispatched is not counted

    def start_daemon(self):
        daemon = harness.Daemon(self.socket, args=['--drain_timeout=1h'])
        self.stack.callback(daemon.close)
        return daemon

    def run(self):
        self.worker.await_line('^ready$', 'stdout')
        self.other.await_line('^ready$', 'stdout')
        self.daemon.steer()
        self.session = next(session.session_id for session in self.daemon.status().sessions
                            if session.client_name == 'worker')
        self.reach_state()
        self.worker.start_await('it')
        check(self.worker.is_pending('it'), 'the worker knows the outcome before the fault')
        return self.faults()

    # ---- the state ----

    def reach_state(self):
        if self.cell.phase == 'draining' and self.cell.state != 'deferred':
            self.keep_draining()
        if self.cell.phase == 'draining' and self.cell.state in ('unsent', 'sent'):
            self.worker.dispatch('anchor', 'defer')
            self.defers += 1
            self.await_ledger('deferred', self.defers)
        getattr(self, f'make_{self.cell.state}')()
        if self.cell.phase == 'draining':
            if self.cell.state == 'deferred':
                self.keep_draining()
            self.daemon.signal(signal.SIGTERM)
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
        self.proxy.hold(UP)
        self.worker.dispatch('plug', f'plug {PLUG_BYTES}')
        self.dispatch()

    def make_sent(self):
        if self.cell.fault == 'KILL' and self.cell.whose == WORKER and self.cell.phase == 'open':
            # So that it cannot run before the daemon knows of the death.
            self.held = self.daemon.hold()
        self.proxy.hold(UP)
        self.dispatch()
        self.await_held(UP, operations_pb2.RecordRequest(producer=PRODUCER, index=INDEX).SerializeToString())

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
        self.proxy.hold(DOWN)
        self.dispatch()
        self.await_held(DOWN, TEXT.encode())

    def await_held(self, direction, part):
        harness.wait_until(lambda: part in self.proxy.held(direction), f'{part} is on its way')

    # ---- the fault ----

    def faults(self):
        return getattr(self, f'{self.cell.fault.lower()}_{self.cell.whose}')()

    def kill_worker(self):
        self.worker.signal(signal.SIGKILL)
        check(self.worker.wait() == -signal.SIGKILL, 'killed')
        self.dispatch_other()
        self.proxy.release(UP, DOWN)
        self.await_session_end()
        self.let_it_end()
        return self.look('DEAD')

    def kill_daemon(self):
        operation = self.operation()
        # Both are as they were when it was last asked: nothing can have started since.
        ran = operation.succeeded + operation.failed + (self.cell.state in ('running', 'deferred'))
        self.daemon.signal(signal.SIGKILL)
        check(self.daemon.wait() == -signal.SIGKILL, 'killed')
        self.proxy.drop()
        self.proxy.release(UP, DOWN)
        outcome = self.outcome()
        self.dispatch_other()
        # It may or may not have noticed by then.
        check(self.await_other() in ('NOT_CONNECTED', 'LOST'), f'without a daemon the other worker got {self.await_other()}')
        self.daemon = self.start_daemon()
        self.await_other_ok()
        return Result(outcome, 'gone', 'yes' if ran else 'no', 'down')

    def stop_worker(self):
        self.stop(self.worker)
        self.dispatch_other()
        if self.cell.state != 'done':
            self.proxy.release(UP)
        self.let_it_end()
        if self.cell.state in ('queued', 'running', 'deferred'):
            self.await_end_in_daemon()
        if self.cell.phase == 'open':
            check(self.await_other() == 'OK', 'the other worker goes on meanwhile')
        self.worker.signal(signal.SIGCONT)
        self.proxy.release(DOWN)
        return self.look(self.outcome())

    def stop_daemon(self):
        self.stop(self.daemon)
        if self.cell.phase == 'open':
            self.dispatch_other()
        self.proxy.release(UP)
        self.let_it_end()
        check(self.worker.is_pending('it'), 'the worker knows the outcome from a daemon that is stopped')
        self.daemon.signal(signal.SIGCONT)
        self.proxy.release(DOWN)
        if self.cell.phase == 'draining':
            self.dispatch_other()
        return self.look(self.outcome())

    def cut_worker(self):
        if self.cell.state == 'done':
            self.proxy.drop()
        self.proxy.cut(WORKER)
        outcome = self.outcome()
        self.dispatch_other()
        self.proxy.release(UP)
        self.let_it_end()
        if self.cell.state != 'unsent':
            self.await_end_in_daemon()
        self.proxy.tell()
        return self.look(outcome)

    def cut_daemon(self):
        self.proxy.cut(DAEMON)
        self.await_session_end()
        self.dispatch_other()
        self.let_it_end()
        if self.cell.state not in ('unsent', 'sent'):
            self.await_end_in_daemon()
        check(self.worker.is_pending('it'), 'the worker knows the outcome before it is told')
        self.proxy.tell()
        return self.look(self.outcome())

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
        if self.cell.phase == 'draining' and self.cell.state in ('unsent', 'sent'):
            # Refused, whether it is known or not.
            return
        watch = self.daemon.watch
        # The proxy makes the worker's peer this process, which may therefore join the session.
        harness.wait_until(lambda: not session_is_open(watch, self.session), 'the session has ended')
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


def session_is_open(stubs, session):
    """As harness.session_is_open, by a call whose request is none: it never runs, and is in no operation's way."""
    call = stubs.channel.unary_unary('/' + harness.ECHO, request_serializer=lambda _: b'\xff')
    try:
        call(None, metadata=(('runloop-session', session),), timeout=harness.DEADLINE)
    except grpc.RpcError as error:
        return harness.error_info(error).reason == 'INVALID_REQUEST'
    raise AssertionError('a request that is none was served')


def meets(result, expected):
    return all(got in wanted.split('/') for got, wanted in zip(result, expected))


def run_cell(cell, expected):
    """Runs it; returns whether it was met, and a line about it."""
    begin = time.monotonic()
    detail = ''
    try:
        with contextlib.ExitStack() as stack:
            result = Run(cell, stack).run()
        met = meets(result, expected)
    except Exception:  # pylint: disable=broad-except
        result, met, detail = None, False, traceback.format_exc()
    took = time.monotonic() - begin
    name = f'{cell.state:8} {cell.phase:8} {cell.fault:4} {cell.whose:6}'
    if met:
        text = f'worker {result.worker}; ledger {result.ledger}; ran {result.ran}; other {result.other}'
        return True, f'met     {name}  {text}  ({took:.1f} s)'
    return False, f'NOT MET {name}  expected {expected}\n        got {result} ({took:.1f} s)\n{detail}'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--jobs', type=int, default=4, help='cells that run at a time; default: %(default)s')
    parser.add_argument('--repeat', type=int, default=1, help='how often each is run; default: %(default)s')
    parser.add_argument('words', nargs='*')
    arguments = parser.parse_args()
    table = {cell: expected for cell, expected in read_table().items()
             if all(word in cell for word in arguments.words)}
    begin = time.monotonic()
    met = 0
    # The threads live until the end: a child dies with the thread that started it.
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run_cell, cell, expected) for _ in range(arguments.repeat)
                for cell, expected in table.items()]
        for run in runs:
            is_met, line = run.result()
            met += is_met
            print(line, flush=True)
    print(f'{met} of {len(runs)} cells met, in {time.monotonic() - begin:.0f} s')
    return 0 if met == len(runs) and runs else 1


if __name__ == '__main__':
    sys.exit(main())
