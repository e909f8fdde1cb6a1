"""The kill table of a session that is being resumed: its connection has been cut, and its worker waits for the answer of
a daemon that is stopped. What becomes of an invocation when the worker or the daemon dies or stops then, or when the
connection is cut once more, in each state that the invocation can be in. See kill_table_test.py.

    resuming_table_test.py [--transport stream|ring] [--jobs N] [--repeat N] [WORD ...]
"""

import signal
import sys

import kill_table_test as kill_table
from kill_table_test import Cell, Result, check
from proxy import DAEMON, WORKER
from worker import Worker

# The states, when the connection is cut:
#   unsent    not dispatched: it is while the worker waits
#   sent      dispatched to a daemon that is stopped
#   queued, running, deferred  as ever
# CUT is of the new connection, by the worker. Nothing else is resumed than what lives on both sides; then all goes on.
# NOT_CONNECTED/LOST: whether the worker has seen the cut when it dispatches is a race.
TABLE = '''
state    fault whose  |            worker ledger            ran other
unsent   KILL  worker |              DEAD nothing/abandoned no  OK
unsent   KILL  daemon | NOT_CONNECTED/LOST gone             no  down
unsent   STOP  worker |                OK succeeded         yes OK
unsent   STOP  daemon |                OK succeeded         yes OK
unsent   CUT   worker |                OK succeeded         yes OK
sent     KILL  worker |              DEAD nothing/abandoned no  OK
sent     KILL  daemon |              LOST gone              no  down
sent     STOP  worker |                OK succeeded         yes OK
sent     STOP  daemon |                OK succeeded         yes OK
sent     CUT   worker |                OK succeeded         yes OK
queued   KILL  worker |              DEAD abandoned         no  OK
queued   KILL  daemon |              LOST gone              no  down
queued   STOP  worker |                OK succeeded         yes OK
queued   STOP  daemon |                OK succeeded         yes OK
queued   CUT   worker |                OK succeeded         yes OK
running  KILL  worker |              DEAD succeeded         yes OK
running  KILL  daemon |              LOST gone              yes down
running  STOP  worker |                OK succeeded         yes OK
running  STOP  daemon |                OK succeeded         yes OK
running  CUT   worker |                OK succeeded         yes OK
deferred KILL  worker |              DEAD failed            yes OK
deferred KILL  daemon |              LOST gone              yes down
deferred STOP  worker |                OK succeeded         yes OK
deferred STOP  daemon |                OK succeeded         yes OK
deferred CUT   worker |                OK succeeded         yes OK
'''
CELLS = 25


def read_table():
    table = {}
    for line in TABLE.strip().splitlines()[1:]:
        names, result = line.split('|')
        state, fault, whose = names.split()
        table[Cell(state, 'open', fault, whose)] = Result(*result.split())
    assert len(table) == CELLS
    return table


class NoProxy:
    """The worker comes to the daemon itself, and cuts its own connections."""

    def release(self, *_):
        pass

    drop = tell = close = release


class Resuming(kill_table.Run):
    def connect(self, directory, stack):
        del directory
        self.proxy = NoProxy()
        self.worker = Worker('worker', self.daemon.address, self.transport, 'resume')
        stack.callback(self.worker.close)

    def start_daemon(self):
        return super().start_daemon('--resume_grace=1h')

    def reach_state(self):
        if self.cell.state in ('unsent', 'sent'):
            if (self.cell.fault, self.cell.whose) == ('KILL', WORKER):
                # So that it cannot run before the daemon knows of the death.
                self.held = self.daemon.hold()
        else:
            getattr(self, f'make_{self.cell.state}')()
        self.stop(self.daemon)
        self.stopped = self.daemon
        if self.cell.state == 'sent':
            self.dispatch()
        self.worker.cut()
        if self.cell.state == 'unsent':
            self.dispatch()
        self.await_outcome()

    # ---- the faults ----

    def kill_worker(self):
        self.worker.signal(signal.SIGKILL)
        check(self.worker.wait() == -signal.SIGKILL, 'killed')
        self.go_on(self.daemon)
        self.await_session_end()
        self.dispatch_other()
        self.let_it_end()
        return self.look('DEAD')

    def kill_daemon(self):
        self.daemon.signal(signal.SIGKILL)
        check(self.daemon.wait() == -signal.SIGKILL, 'killed')
        self.stopped = None
        outcome = self.outcome()
        self.dispatch_other()
        check(self.await_other() in ('NOT_CONNECTED', 'LOST'), f'without a daemon it got {self.await_other()}')
        self.daemon = self.start_daemon()
        self.await_other_ok()
        # Nothing can have started since it was stopped.
        return Result(outcome, 'gone', 'yes' if self.cell.state in ('running', 'deferred') else 'no', 'down')

    def stop_worker(self):
        self.stop(self.worker)
        self.go_on(self.daemon)
        self.dispatch_other()
        if self.cell.state in ('queued', 'running', 'deferred'):
            self.let_it_end()
            self.await_end_in_daemon()
            check(self.await_other() == 'OK', 'the other worker goes on meanwhile')
        self.worker.signal(signal.SIGCONT)
        return self.look(self.outcome())

    def stop_daemon(self):
        # It is stopped, and goes on.
        check(self.worker.is_pending('it'), 'the worker knows the outcome from a daemon that is stopped')
        self.go_on(self.daemon)
        self.dispatch_other()
        self.let_it_end()
        return self.look(self.outcome())

    def cut_worker(self):
        self.worker.cut()
        check(self.worker.is_pending('it'), 'the worker knows the outcome from a daemon that is stopped')
        self.go_on(self.daemon)
        self.dispatch_other()
        self.let_it_end()
        return self.look(self.outcome())


if __name__ == '__main__':
    sys.exit(kill_table.main(lambda transport: read_table(), Resuming, __doc__))
