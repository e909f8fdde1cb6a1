"""Daemons whose operations block on each other: a cycle is an error that names it, and never a hang."""

import os
import unittest

import harness
from runloop.test.v1 import test_control_pb2 as control_pb2

RELAY = 'runloop.test.v1.TestControl/Relay'


class DeadlockTest(harness.TestCase):

    def start_daemons(self, count):
        return [self.start_daemon(socket=os.path.join(self.directory, f's{count}-{number}'))
                for number in range(count)]

    def relay(self, daemon, others, holds_first=False):
        request = control_pb2.RelayRequest(addresses=[other.address for other in others], holds_first=holds_first)
        return daemon.watch.control.Relay.future(request, timeout=harness.DEADLINE)

    def assert_names(self, error, daemons):
        self.assertIn('deadlock', error)
        for daemon in daemons:
            self.assertIn(daemon.status().runtime_id[:8], error)
        self.assertIn(RELAY, error)

    def test_a_call_back_into_a_daemon_that_waits_for_it_names_the_cycle(self):
        for count in (2, 3):
            with self.subTest(count):
                daemons = self.start_daemons(count)
                error = self.relay(daemons[0], daemons[1:] + daemons[:1]).result().error
                self.assert_names(error, daemons)
                for daemon in daemons:
                    daemon.close()

    def test_a_chain_without_a_cycle_goes_through(self):
        daemons = self.start_daemons(3)
        self.assertEqual(self.relay(daemons[0], daemons[1:]).result().error, '')

    def test_daemons_that_began_to_wait_before_they_could_know_are_found(self):
        # Each is inside an operation before any of them calls the next, so none of the calls tells of the whole cycle.
        for count in (2, 3):
            with self.subTest(count):
                daemons = self.start_daemons(count)
                for daemon in daemons:
                    daemon.steer()
                calls = [self.relay(daemon, [daemons[(number + 1) % count]], holds_first=True)
                         for number, daemon in enumerate(daemons)]
                for daemon in daemons:
                    daemon.await_status(lambda status: status.thread.current_operation == RELAY, 'it is inside')
                for daemon in daemons:
                    daemon.let_go()
                errors = [call.result().error for call in calls]
                found = [error for error in errors if error]
                self.assertTrue(found, 'nobody was told')
                for error in found:
                    self.assert_names(error, daemons)
                for daemon in daemons:
                    self.assertEqual(daemon.watch.echo('still there'), 'still there')
                    daemon.close()


if __name__ == '__main__':
    unittest.main()
