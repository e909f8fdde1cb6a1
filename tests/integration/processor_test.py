"""The processor runner: what is called, and what the process ends with."""

import signal
import unittest

import harness

PHASES = ['setup', 'process', 'teardown']


class ProcessorTest(harness.TestCase):

    def start_processor(self, *words):
        return self.start([harness.program('runloop_test_processor'), *words],
                          env={'RUNLOOP_ADDRESS': f'unix:{self.socket}'})

    def assert_ends(self, processor, code, phases, *errors):
        self.assertEqual(processor.wait(), code, processor.stderr)
        self.assertEqual(processor.stdout.split(), phases)
        lines = processor.stderr.splitlines()
        self.assertEqual(len(lines), len(errors), processor.stderr)
        for line, error in zip(lines, errors):
            self.assertRegex(line, f'^runloop_test_processor: {error}')

    def test_one_that_is_done_is_torn_down_and_ends_with_0(self):
        self.start_daemon()
        self.assert_ends(self.start_processor(), 0, PHASES)

    def test_a_signal_ends_it_with_0_after_teardown(self):
        self.start_daemon()
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number):
                processor = self.start_processor('endless')
                processor.await_line('^process$', 'stdout')
                processor.signal(number)
                self.assert_ends(processor, 0, PHASES)

    def test_a_signal_and_a_failing_teardown_end_it_with_2(self):
        self.start_daemon()
        processor = self.start_processor('endless', 'teardown-fails')
        processor.await_line('^process$', 'stdout')
        processor.signal(signal.SIGTERM)
        self.assert_ends(processor, 2, PHASES, 'teardown: DATA_LOSS: teardown failed')

    def test_an_error_in_setup_skips_process_but_not_teardown(self):
        self.start_daemon()
        self.assert_ends(self.start_processor('setup-fails'), 1, ['setup', 'teardown'],
                         'setup: DATA_LOSS: setup failed')

    def test_an_error_in_process_ends_it_with_1_after_teardown(self):
        self.start_daemon()
        self.assert_ends(self.start_processor('process-fails'), 1, PHASES, 'process: DATA_LOSS: process failed')

    def test_an_error_in_teardown_alone_ends_it_with_2(self):
        self.start_daemon()
        self.assert_ends(self.start_processor('teardown-fails'), 2, PHASES, 'teardown: DATA_LOSS: teardown failed')

    def test_the_first_error_decides_and_all_are_told(self):
        self.start_daemon()
        self.assert_ends(self.start_processor('process-fails', 'teardown-fails'), 1, PHASES,
                         'process: DATA_LOSS: process failed', 'teardown: DATA_LOSS: teardown failed')

    def test_an_exception_is_an_error_like_any_other(self):
        self.start_daemon()
        for phase, code, phases in (('setup', 1, ['setup', 'teardown']), ('process', 1, PHASES),
                                    ('teardown', 2, PHASES)):
            with self.subTest(phase):
                self.assert_ends(self.start_processor(f'{phase}-throws'), code, phases,
                                 f'{phase}: INTERNAL: .*{phase} threw')

    def test_without_a_daemon_it_ends_with_69_and_says_what_to_do(self):
        self.assert_ends(self.start_processor(), 69, [], f'connect: UNAVAILABLE: .*{self.socket}.*runloopd')

    def test_a_daemon_that_dies_ends_it_with_69_after_teardown(self):
        daemon = self.start_daemon()
        processor = self.start_processor('endless')
        processor.await_line('^process$', 'stdout')
        daemon.signal(signal.SIGKILL)
        self.assertEqual(processor.wait(), 69, processor.stderr)
        self.assertEqual(processor.stdout.split(), PHASES)
        self.assertEqual(len(processor.stderr.splitlines()), 1, processor.stderr)

    def test_a_daemon_that_drains_ends_it_with_69_after_teardown(self):
        daemon = self.start_daemon()
        processor = self.start_processor('endless')
        processor.await_line('^process$', 'stdout')
        daemon.signal(signal.SIGTERM)
        self.assertEqual(processor.wait(), 69, processor.stderr)
        self.assertEqual(processor.stdout.split(), PHASES)
        self.assertEqual(daemon.wait(), 0, daemon.stderr)


if __name__ == '__main__':
    unittest.main()
