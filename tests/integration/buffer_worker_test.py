"""Buffers between whole processes: workers in sandboxes, and one that is killed."""

import os
import signal
import subprocess
import unittest

import harness

SIZE = 3110400


class BuffersTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()

    def start_worker(self, sandboxed):
        command = [harness.program('runloop_test_buffer_worker')]
        if sandboxed:
            command = [harness.RUNLOOPCTL, f'--address=unix:{self.socket}', 'run', '--role', 'camera',
                       '--ro-bind', os.path.join(harness.BUILD, 'lib'), '--', *command]
        worker = self.start(command, stdin=subprocess.PIPE, env={'RUNLOOP_ADDRESS': f'unix:{self.socket}'})
        session = worker.await_line(r'^session (\w+)$', 'stdout').group(1)
        worker.await_line(rf'^summed 100 {SIZE} 0$', 'stdout')
        return worker, session

    def ask(self, worker, line, answer):
        worker.popen.stdin.write(line + '\n')
        worker.popen.stdin.flush()
        return worker.await_line(answer, 'stdout').group(1)

    def held(self):
        return {each.session_id: each.buffers for each in self.daemon.status().sessions if each.buffers}

    def test_in_sandboxes_workers_use_one_buffer_each_and_pass_it_on(self):
        source, from_session = self.start_worker(True)
        reader, to_session = self.start_worker(True)
        self.assertEqual(self.held(), {from_session: 1, to_session: 1})
        shown = self.ctl('status').stdout
        self.assertRegex(shown, r'buffers  runtime: 2 of \d+, 7\S* MiB of \S+ GiB; 0 refused')
        self.assertRegex(shown, r'role camera: 2 of')
        buffer = self.ask(source, f'grant {to_session}', r'^granted (\d+)$')
        self.assertEqual(self.ask(reader, f'read {buffer}', r'^read (\d+)$'), str(SIZE))
        source.popen.stdin.close()
        self.assertEqual(source.wait(), 0, source.stderr)
        harness.wait_until(lambda: self.held() == {to_session: 1}, 'what the source had is freed')

    def test_what_a_worker_had_that_was_killed_is_freed(self):
        before = self.daemon.usage()
        worker, session = self.start_worker(False)
        self.assertEqual(self.held(), {session: 1})
        os.kill(worker.pid, signal.SIGKILL)
        harness.wait_until(lambda: not self.held(), 'its buffers are freed')
        self.daemon.await_usage(before)

    def test_what_does_not_fit_is_refused_and_counted(self):
        self.daemon.close()
        self.daemon = self.start_daemon(args=['--session_buffers=4,1MiB'])
        worker = self.start([harness.program('runloop_test_buffer_worker')],
                            env={'RUNLOOP_ADDRESS': f'unix:{self.socket}'})
        self.assertNotEqual(worker.wait(), 0)
        self.assertIn('can never fit', worker.stderr)
        self.assertEqual(self.daemon.status().refused_buffers, 1)


if __name__ == '__main__':
    unittest.main()
