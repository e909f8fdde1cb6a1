"""Who handed over what runs, and what ran for long: in the status, in the log, by the flags."""

import json
import unittest

import harness

TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736'
TRACE_PARENT = f'00-{TRACE_ID}-00f067aa0ba902b7-01'


class ProvenanceTest(harness.TestCase):

    def hold(self, daemon, *arguments):
        """Holds the thread by an operation of another process; returns that, and how it is to be named."""
        daemon.steer()
        holder = self.start([harness.program('runloop_test_holder'), *arguments],
                            env={'RUNLOOP_ADDRESS': daemon.address})
        line = holder.await_line(r'from (\d+)', stream='stdout').group(1)
        daemon.await_status(lambda status: status.thread.current_operation == harness.HOLD, 'the thread is held')
        return holder, (rf'{harness.HOLD} of session \S+ \(client holder, pid {holder.pid}\), '
                        rf'called at integration/programs/holder\.cc:{line} \([^)]*main.*?\)')

    def test_status_names_where_a_stuck_operation_was_dispatched_and_its_trace(self):
        daemon = self.start_daemon()
        holder, named = self.hold(daemon, TRACE_PARENT)
        result = self.ctl('status')
        self.assertEqual(result.code, 0, result.stderr)
        self.assertRegex(result.stdout, rf'thread +(running|stalled): {named}, trace {TRACE_ID}, for ')
        thread = json.loads(self.ctl('--json', 'status').stdout)['thread']
        self.assertIn('holder.cc:', thread['currentCallSite'])
        self.assertEqual(thread['currentTraceId'], TRACE_ID)
        # Whose thread is stuck tells the same by itself.
        daemon.await_line(rf'the runtime thread is stalled: {harness.HOLD} of session \S+, '
                          rf'called at integration/programs/holder\.cc:.*, trace {TRACE_ID}, has been running')
        daemon.let_go()
        self.assertEqual(holder.wait(), 0, holder.stderr)

    def test_what_ran_for_long_is_named_in_the_log_and_afterwards_in_the_status(self):
        # Less than it takes to see that it runs.
        daemon = self.start_daemon(args=['--slow_execution=50us'])
        holder, named = self.hold(daemon)
        daemon.let_go()
        self.assertEqual(holder.wait(), 0, holder.stderr)
        daemon.await_line(rf'slow: {named}, (waited for \S+, )?ran for ')
        result = self.ctl('status')
        self.assertRegex(result.stdout, r'slow +\d+ so far; the latest:\n')
        self.assertRegex(result.stdout, rf'{named}, (waited for \S+, )?ran for \S+, \S+ ago\n')

    def test_both_thresholds_can_be_switched_off(self):
        daemon = self.start_daemon(args=['--slow_execution=inf', '--slow_queue_wait=inf'])
        holder, _ = self.hold(daemon)
        daemon.await_line('is stalled')  # so it has run for a second
        daemon.let_go()
        self.assertEqual(holder.wait(), 0, holder.stderr)
        self.assertEqual(daemon.status().ledger.slow, 0)
        self.assertNotIn('slow:', daemon.stderr)

    def test_a_threshold_that_is_none_is_refused(self):
        for flag in ('--slow_execution=soon', '--slow_queue_wait=-1s'):
            result = harness.run([harness.RUNLOOPD, flag])
            self.assertEqual(result.code, 2, result.stdout)
            self.assert_one_line(result.stderr, 'is no duration')


if __name__ == '__main__':
    unittest.main()
