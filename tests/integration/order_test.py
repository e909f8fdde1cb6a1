"""Several producer processes at once: each session's order is kept, and nothing is lost or doubled."""

import collections
import subprocess
import unittest

import harness

PRODUCERS = 4
ITEMS = 30_000  # each


class OrderTest(harness.TestCase):

    def run_producers(self, daemon):
        producers = [
            self.start([harness.program('runloop_test_producer'), str(number), str(ITEMS)],
                       env={'RUNLOOP_ADDRESS': daemon.address}, stdin=subprocess.PIPE)
            for number in range(PRODUCERS)
        ]
        for producer in producers:
            producer.await_line('^ready$', 'stdout')
        # All at once: while the thread is held none of them can end, since each waits for an outcome now and then.
        held = daemon.hold()
        for producer in producers:
            producer.write('go\n')
        names = {f'producer-{number}' for number in range(PRODUCERS)}
        daemon.await_status(
            lambda status: names <= {session.client_name for session in status.sessions if session.queued},
            'each of them has begun')
        daemon.let_go()
        held.result(harness.DEADLINE)
        for producer in producers:
            self.assertEqual(producer.wait(), 0, producer.stderr)
            self.assertEqual(producer.stdout.splitlines()[-1], f'done {ITEMS}')

    def check(self, daemon):
        self.run_producers(daemon)
        items, _ = daemon.watch.record()
        self.assertEqual(len(items), PRODUCERS * ITEMS)
        by_producer = collections.defaultdict(list)
        for producer, index in items:
            by_producer[producer].append(index)
        self.assertEqual(set(by_producer), set(range(PRODUCERS)))
        for producer, indices in by_producer.items():
            self.assertEqual(indices, list(range(ITEMS)), f'the order of producer {producer}')
        ledger = daemon.status().ledger
        self.assertEqual(ledger.failed + ledger.cancelled + ledger.expired + ledger.abandoned + ledger.refused, 0)
        harness.wait_until(lambda: len(daemon.watch.record()[1]) == PRODUCERS, 'all sessions have ended')

    def test_producers_keep_their_order_and_lose_nothing_on_epoll(self):
        self.check(self.start_daemon())

    def test_producers_keep_their_order_and_lose_nothing_on_glib(self):
        self.check(self.start_daemon(args=['--loop=glib']))


if __name__ == '__main__':
    unittest.main()
