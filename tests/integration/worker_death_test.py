"""kill -9 of a worker in the middle of a flood: the others' work is complete, and the daemon gives everything back."""

import signal
import subprocess
import unittest

import harness
from runloop.v1 import diagnostics_pb2

ITEMS = 30_000
SURVIVOR, VICTIM = 1, 2

# Speaks as much HTTP/2 as opens a connection, and leaves it to a child as well.
FORKING_WORKER = r'''
import os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
if os.fork() == 0:
    while connection.recv(4096):
        pass
    print('the child saw the end', flush=True)
    os._exit(0)
print('connected', flush=True)
signal.pause()
'''


class WorkerDeathTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()

    def start_producer(self, number, count):
        producer = self.start([harness.program('runloop_test_producer'), str(number), str(count)],
                              env={'RUNLOOP_ADDRESS': self.daemon.address}, stdin=subprocess.PIPE)
        producer.await_line('^ready$', 'stdout')
        return producer

    def session_of(self, producer):
        return next(session.session_id for session in self.daemon.status().sessions
                    if session.peer_pid == producer.pid)

    def warm_up(self):
        """Whatever the daemon makes once, for its first clients, is there afterwards."""
        producers = [self.start_producer(100 + number, 2000) for number in range(2)]
        for producer in producers:
            producer.write('go\n')
        for producer in producers:
            self.assertEqual(producer.wait(), 0, producer.stderr)
        self.daemon.await_status(lambda status: status.connections == 1, 'only our own connection is left')
        return self.daemon.usage()

    def test_killing_one_worker_leaves_the_others_work_complete_and_the_daemon_as_it_was(self):
        before = self.warm_up()
        survivor = self.start_producer(SURVIVOR, ITEMS)
        victim = self.start_producer(VICTIM, 0)
        session = self.session_of(victim)
        victim.write('go\n')
        survivor.write('go\n')
        victim.await_line('^sent', 'stdout')
        # So that there is something for the session's end to clean up.
        self.daemon.await_status(
            lambda status: any(each.session_id == session and each.finished > 0 for each in status.sessions),
            'some of the victim have run')
        victim.signal(signal.SIGKILL)
        self.assertEqual(victim.wait(), -signal.SIGKILL)

        self.assertEqual(survivor.wait(), 0, survivor.stderr)
        self.daemon.await_usage(before)
        items, ended = self.daemon.watch.record()
        self.assertEqual([index for producer, index in items if producer == SURVIVOR], list(range(ITEMS)))
        recorded = [index for producer, index in items if producer == VICTIM]
        self.assertEqual(recorded, list(range(len(recorded))))
        self.assertIn(session, ended)
        ledger = self.daemon.status().ledger
        self.assertEqual(ledger.admitted, ledger.succeeded + ledger.abandoned + ledger.running)

    def recorded(self):
        """How many Records have run: known while the thread is held, too."""
        response = self.daemon.watch.diagnostics.ListOperations(
            diagnostics_pb2.ListOperationsRequest(), timeout=harness.DEADLINE)
        return next(operation.succeeded for operation in response.operations if operation.name == harness.RECORD)

    def test_what_a_killed_worker_had_queued_never_runs_and_its_session_ends(self):
        self.daemon.steer()
        before = self.warm_up()
        # Some items, so that there is something for the session's end to clean up; then the thread is held and the
        # flood piles up behind.
        victim = self.start_producer(VICTIM, 0)
        session = self.session_of(victim)
        recorded = self.recorded()
        victim.write('go\n')
        victim.await_line('^sent', 'stdout')
        harness.wait_until(lambda: self.recorded() > recorded, 'some have run')
        held = self.daemon.hold()
        self.daemon.await_status(lambda status: status.ledger.queued >= 1000, 'much is queued')
        victim.signal(signal.SIGKILL)
        self.assertEqual(victim.wait(), -signal.SIGKILL)
        harness.wait_until(lambda: self.daemon.usage().files <= before.files, 'the connection is closed')
        recorded = self.recorded()
        # Its queued work has ended, though the thread is held.
        self.daemon.await_status(lambda status: status.ledger.queued == 0, 'what was queued is abandoned')
        self.daemon.let_go()
        held.result()

        self.daemon.await_usage(before)
        self.assertEqual(self.recorded(), recorded)
        ledger = self.daemon.status().ledger
        self.assertEqual(ledger.abandoned, ledger.admitted - ledger.succeeded, ledger)
        self.assertGreaterEqual(ledger.abandoned, 1000)
        _, ended = self.daemon.watch.record()
        self.assertIn(session, ended)
        self.assertEqual(self.daemon.watch.echo('others go on'), 'others go on')

    def test_a_connection_ends_with_its_process_though_a_child_holds_it(self):
        before = self.warm_up()
        for _ in range(3):
            worker = self.start(['python3', '-c', FORKING_WORKER, self.socket])
            worker.await_line('^connected$', 'stdout')
            self.daemon.await_status(lambda status: status.connections == 2, 'gRPC has the connection')
            worker.signal(signal.SIGKILL)
            worker.await_line('^the child saw the end$', 'stdout')
            self.daemon.await_usage(before)
        self.assertIn('another process holds its socket', self.daemon.stderr)
        self.assertEqual(self.daemon.watch.echo('others go on'), 'others go on')


if __name__ == '__main__':
    unittest.main()
