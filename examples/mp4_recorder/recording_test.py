"""Workers that record through a daemon: to their end, to a signal, and not so far."""

import os
import signal
import subprocess
import unittest

import harness

WORKER = harness.program('mp4_recorder_worker')
PLUGIN = os.path.join(harness.BUILD, 'lib', 'plugins', 'mp4_recorder.so')


def frames(path):
    """How many frames of video ffprobe finds; None while the file is not complete."""
    result = subprocess.run(
        ['ffprobe', '-v', 'quiet', '-count_frames', '-select_streams', 'v:0', '-show_entries', 'stream=nb_read_frames',
         '-of', 'csv=p=0', path], capture_output=True, text=True, check=False)
    return int(result.stdout) if result.returncode == 0 and result.stdout.strip() else None


def has_sound(path):
    return bool(subprocess.run(
        ['ffprobe', '-v', 'quiet', '-select_streams', 'a', '-show_entries', 'stream=codec_name', '-of', 'csv=p=0', path],
        capture_output=True, text=True, check=True).stdout.strip())


class RecordingTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.recordings = os.path.join(self.directory, 'recordings')
        os.mkdir(self.recordings)
        self.daemon = self.start_daemon(plugins=(PLUGIN,), args=('--loop=glib',),
                                        env={'RUNLOOP_MP4_DIR': self.recordings})

    def path(self, name):
        return os.path.join(self.recordings, name)

    def worker(self, output, *arguments):
        return self.start([WORKER, '--progress', '--output', output, *arguments],
                          env={'RUNLOOP_ADDRESS': self.daemon.address})

    def live_worker(self, output, *arguments):
        worker = self.worker(output, '--test-source', '--width=160', '--height=120', *arguments)
        worker.await_line('^started', 'stdout')
        return worker

    def assert_recorded(self, worker, name):
        self.assertEqual(worker.wait(), 0, worker.stderr)
        told = int(worker.await_line(r'^finished .*\bframes=(\d+)', 'stdout').group(1))
        self.assertEqual(frames(self.path(name)), told)
        self.assertTrue(has_sound(self.path(name)))
        return told

    def test_killing_one_worker_leaves_the_others_recording_complete_and_the_daemon_as_it_was(self):
        # What is made once, for the first recordings, is there afterwards.
        for worker in [self.live_worker(f'first-{i}.mp4', '--frames=15') for i in range(2)]:
            self.assertEqual(worker.wait(), 0, worker.stderr)
        self.daemon.await_status(lambda status: status.connections == 1, 'only our own connection is left')
        before = self.daemon.usage()

        victim = self.live_worker('victim.mp4')
        survivor = self.live_worker('survivor.mp4', '--frames=60')
        progress = victim.await_line(r'^progress .*\bframes=(\d+) .*\bunfinished=(\d+)', 'stdout')
        victim.signal(signal.SIGKILL)
        self.assertEqual(victim.wait(), -signal.SIGKILL)

        self.assertEqual(self.assert_recorded(survivor, 'survivor.mp4'), 60)
        self.daemon.await_usage(before)
        # Even the victim's file was completed, with what had been acknowledged.
        self.assertGreaterEqual(frames(self.path('victim.mp4')), int(progress.group(1)) - int(progress.group(2)))

    def test_a_signal_ends_a_recording_and_completes_its_file(self):
        worker = self.live_worker('a.mp4')
        worker.await_line('^progress', 'stdout')
        worker.signal(signal.SIGTERM)
        self.assertGreater(self.assert_recorded(worker, 'a.mp4'), 0)

    def test_a_daemon_that_is_told_to_stop_completes_the_files(self):
        worker = self.live_worker('a.mp4')
        worker.await_line('^progress', 'stdout')
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 0, self.daemon.stderr)
        self.assertGreater(frames(self.path('a.mp4')), 0)
        self.assertNotEqual(worker.wait(), 0)

    def clip(self, name, *arguments):
        path = os.path.join(self.directory, name)
        subprocess.run(['ffmpeg', '-v', 'error', *arguments, path], stdin=subprocess.DEVNULL, check=True)
        return path

    def test_every_frame_of_a_file_is_recorded_and_its_sound(self):
        clip = self.clip('clip.mkv', '-f', 'lavfi', '-i', 'testsrc2=size=161x121:rate=24:duration=3', '-f', 'lavfi',
                         '-i', 'sine=duration=3')
        self.assertEqual(self.assert_recorded(self.worker('a.mp4', '--input', clip), 'a.mp4'), 72)

    def test_sound_may_be_longer_or_shorter_than_the_picture(self):
        for seconds in (1, 4):
            clip = self.clip(f'{seconds}.mkv', '-f', 'lavfi', '-i', 'testsrc2=size=160x120:rate=24:duration=2', '-f',
                             'lavfi', '-i', f'sine=duration={seconds}')
            name = f'{seconds}.mp4'
            self.assertEqual(self.assert_recorded(self.worker(name, '--input', clip), name), 48)

    def test_an_input_that_cannot_be_recorded_is_named_in_one_line(self):
        text = os.path.join(self.directory, 'text.mp4')
        with open(text, 'w') as file:
            file.write('this is no video\n' * 100)
        sound = self.clip('sound.wav', '-f', 'lavfi', '-i', 'sine=duration=1')
        for path, why in ((text, 'no video'), (sound, 'no video'), ('/does/not/exist', 'no such file'),
                          (self.directory, 'is a directory')):
            worker = self.worker('a.mp4', '--input', path)
            self.assertEqual(worker.wait(), 1)
            self.assert_one_line(worker.stderr, path, why)
        self.assertEqual(os.listdir(self.recordings), [])

    def test_a_file_that_cannot_be_written_is_named_in_one_line(self):
        os.mkdir(self.path('taken.mp4'))
        for name, why in (('taken.mp4', 'cannot record to'), ('../a.mp4', 'plain name')):
            worker = self.worker(name, '--test-source', '--frames=5')
            self.assertEqual(worker.wait(), 1)
            self.assert_one_line(worker.stderr, why)


if __name__ == '__main__':
    unittest.main()
