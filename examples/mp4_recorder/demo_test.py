"""The demo as a user runs it, on a short input, and on what it has to refuse."""

import os
import subprocess
import unittest

import harness

DEMO = os.path.join(harness.SOURCE, 'deploy', 'demo')


class DemoTest(harness.TestCase):

    def demo(self, *arguments):
        return harness.run([DEMO, '--no-install', *arguments], deadline=400)

    def clip(self):
        path = os.path.join(self.directory, 'clip.mkv')
        subprocess.run(['ffmpeg', '-v', 'error', '-f', 'lavfi', '-i', 'testsrc2=size=320x240:rate=25:duration=2', '-f',
                        'lavfi', '-i', 'sine=duration=2', path], stdin=subprocess.DEVNULL, check=True)
        return path

    def test_two_sandboxed_workers_record_at_the_same_time(self):
        out = os.path.join(self.directory, 'out')
        result = self.demo(self.clip(), '--out', out)
        self.assertEqual(result.code, 0, result.stdout + result.stderr)
        self.assertIn('worker 1 recorded 50 frames; INPUT has 50', result.stdout)
        self.assertRegex(result.stdout, r'recording-2.mp4: 640x360, 150 frames, .* sound \(aac\)')
        self.assertRegex(result.stdout, r'both recorded at the same time for \d+\.\d+ s; queue wait: median')
        self.assertRegex(result.stdout, r'processor time: worker 1 \S+ s, worker 2 \S+ s, daemon \S+ s, of which')
        self.assertEqual(sorted(os.listdir(out)),
                         ['recording-1.mp4', 'recording-1.png', 'recording-2.mp4', 'recording-2.png'])

    def test_three_sandboxed_workers_pass_frames_on(self):
        out = os.path.join(self.directory, 'out')
        result = self.demo('--pipeline', '--out', out)
        self.assertEqual(result.code, 0, result.stdout + result.stderr)
        self.assertIn('pipeline.mp4: 1920x1080, 300 frames through three processes', result.stdout)
        self.assertEqual(os.listdir(out), ['pipeline.mp4'])

    def test_what_cannot_be_recorded_is_refused_in_one_line_that_says_what_to_do(self):
        text = os.path.join(self.directory, 'text')
        with open(text, 'w') as file:
            file.write('no video\n')
        for arguments, parts in (((text,), (text, 'no video', 'give a file')),
                                 (('/does/not/exist',), ('no such file',)),
                                 ((self.directory,), ('is not a file',)),
                                 (('--out', os.path.join(text, 'out')), ('cannot make', '--out')),
                                 (('--out', '/proc'), ('cannot write', '--out')),
                                 (('--pipeline', text), ('takes no INPUT', '--help')),
                                 (('--bogus',), ('no such option', '--help'))):
            result = self.demo(*arguments)
            self.assertNotEqual(result.code, 0)
            self.assert_one_line(result.stderr, *parts)


if __name__ == '__main__':
    unittest.main()
