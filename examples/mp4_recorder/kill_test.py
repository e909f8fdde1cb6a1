"""kill -9 of a worker, and SIGTERM of its daemon, in the middle: every acknowledged frame is in a file that plays."""

import os
import random
import re
import signal
import subprocess
import sys
import unittest

import harness

PLUGIN = os.path.join(harness.BUILD, 'lib', 'plugins', 'mp4_recorder.so')
CLIENT = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'appending_client.py')]
# A failure tells its seed.
SEEDS = range(1, 5)
MOST_FRAMES = 300


class KillTest(harness.TestCase):

    def start_recording_daemon(self, seed):
        self.recordings = os.path.join(self.directory, f'recordings-{seed}')
        os.mkdir(self.recordings)
        return self.start_daemon(socket=os.path.join(self.directory, f's{seed}'), plugins=(PLUGIN,),
                                 args=('--loop=glib',), env={'RUNLOOP_MP4_DIR': self.recordings})

    def start_client(self, daemon, seed, writers):
        """A client, and the names of its files; it has had replies, how many is the seed's choice."""
        names = [f'{seed}-{writer}.mp4' for writer in range(writers)]
        client = self.start([*CLIENT, daemon.address, *names], env={'PYTHONPATH': os.environ['PYTHONPATH'], **{
            name: os.environ[name] for name in ('RUNLOOP_BUILD_DIR', 'RUNLOOP_SOURCE_DIR', 'RUNLOOP_CLIENTS_DIR')}})
        least = random.Random(seed).randint(1, MOST_FRAMES)
        client.await_line(rf'^acknowledged \S+ {least}$', 'stdout')
        return client, names

    def await_session_gone(self, daemon, client):
        daemon.await_status(
            lambda status: all(session.peer_pid != client.pid for session in status.sessions),
            'no session of the killed worker is left, and so no handle')

    def assert_recorded(self, client, names):
        """Each file plays to its end and has the frames whose replies the client had. It has ended."""
        for name in names:
            told = re.findall(rf'^acknowledged {re.escape(name)} (\d+)$', client.stdout, re.MULTILINE)
            self.assertTrue(told, f'nothing was acknowledged of {name}')
            path = os.path.join(self.recordings, name)
            probe = subprocess.run(
                ['ffprobe', '-v', 'error', '-count_frames', '-select_streams', 'v:0', '-show_entries',
                 'stream=nb_read_frames', '-of', 'csv=p=0', path], capture_output=True, text=True, check=False)
            self.assertEqual((probe.returncode, probe.stderr), (0, ''), name)
            self.assertGreaterEqual(int(probe.stdout), int(told[-1]), name)
            decoded = subprocess.run(['ffmpeg', '-v', 'error', '-i', path, '-f', 'null', '-'], capture_output=True,
                                     stdin=subprocess.DEVNULL, text=True, check=False)
            self.assertEqual((decoded.returncode, decoded.stderr), (0, ''), name)

    def test_a_killed_worker_leaves_every_acknowledged_frame_in_files_that_play(self):
        daemon = self.start_recording_daemon(0)
        for writers in (1, 2):
            for seed in SEEDS:
                with self.subTest(seed=seed, writers=writers):
                    client, names = self.start_client(daemon, f'{writers}-{seed}', writers)
                    client.signal(signal.SIGKILL)
                    self.assertEqual(client.wait(), -signal.SIGKILL, client.stderr)
                    self.await_session_gone(daemon, client)
                    self.assert_recorded(client, names)

    def test_a_daemon_that_drains_leaves_every_acknowledged_frame_in_files_that_play(self):
        for seed in SEEDS:
            with self.subTest(seed=seed):
                daemon = self.start_recording_daemon(seed)
                client, names = self.start_client(daemon, seed, writers=2)
                daemon.signal(signal.SIGTERM)
                self.assertEqual(daemon.wait(), 0, daemon.stderr)
                client.wait()  # it reads on to the end
                self.assert_recorded(client, names)

    def test_a_worker_that_is_killed_while_its_daemon_drains_changes_nothing_of_that(self):
        for seed in SEEDS:
            with self.subTest(seed=seed):
                daemon = self.start_recording_daemon(seed)
                client, names = self.start_client(daemon, seed, writers=2)
                # Either way round: the session ends by itself in the drain, or the drain finds it closing.
                for process, number in random.Random(seed).sample(
                        [(daemon, signal.SIGTERM), (client, signal.SIGKILL)], k=2):
                    process.signal(number)
                self.assertEqual(client.wait(), -signal.SIGKILL, client.stderr)
                self.assertEqual(daemon.wait(), 0, daemon.stderr)
                self.assert_recorded(client, names)


if __name__ == '__main__':
    unittest.main()
