"""The recorder's Mp4Writer, called by three clients that nobody here wrote, each by the unix socket."""

import json
import os
import unittest

import grpc

import harness
from reflection.v1 import reflection_pb2, reflection_pb2_grpc
from runloop.examples.media.v1 import mp4_writer_pb2, mp4_writer_pb2_grpc
from runloop.v1 import handles_pb2, handles_pb2_grpc

SERVICE = 'runloop.examples.media.v1.Mp4Writer'
OPEN = f'{SERVICE}/Open'
VIDEO = {'width': 64, 'height': 48, 'frame_rate_numerator': 30, 'frame_rate_denominator': 1}
BUF = [os.path.join(harness.CLIENTS, 'node_modules', '.bin', 'buf'), '--log-format=text', 'curl', '--protocol', 'grpc',
       '--http2-prior-knowledge', '--unix-socket']


class Mp4ClientsTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(
            plugins=[os.path.join(harness.BUILD, 'lib', 'plugins', 'mp4_recorder.so')], args=['--loop=glib'],
            env={'RUNLOOP_MP4_DIR': self.directory})

    def assert_opened(self, count):
        response = json.loads(self.ctl('--json', 'operations').stdout)
        opened = next(operation for operation in response['operations'] if operation['name'] == OPEN)
        self.assertEqual((int(opened['succeeded']), int(opened['failed'])), (count, 0))

    def test_python(self):
        with harness.connect(self.daemon.address) as channel:
            listed = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services='*')]), timeout=harness.DEADLINE)
            self.assertIn(SERVICE, [service.name for service in next(listed).list_services_response.service])
            request = mp4_writer_pb2.OpenRequest(file_name='python.mp4', video=mp4_writer_pb2.VideoFormat(**VIDEO))
            reply = mp4_writer_pb2_grpc.Mp4WriterStub(channel).Open(request, timeout=harness.DEADLINE)
            self.assertNotEqual(reply.writer, 0)
        self.assert_opened(1)

    def test_python_releases_a_writer_by_its_handle_which_is_its_connections_own(self):
        with harness.connect(self.daemon.address) as channel, harness.connect(self.daemon.address) as other:
            writers = mp4_writer_pb2_grpc.Mp4WriterStub(channel)
            opened = writers.Open(mp4_writer_pb2.OpenRequest(
                file_name='python.mp4', video=mp4_writer_pb2.VideoFormat(**VIDEO)), timeout=harness.DEADLINE)
            frame = mp4_writer_pb2.VideoFrame(i420=bytes(64 * 48 * 3 // 2))
            writers.Append(mp4_writer_pb2.AppendRequest(writer=opened.writer, video=frame), timeout=harness.DEADLINE)
            release = handles_pb2.ReleaseRequest(handle=opened.writer)
            self.assert_fails(
                lambda: handles_pb2_grpc.HandlesStub(other).Release(release, timeout=harness.DEADLINE),
                grpc.StatusCode.NOT_FOUND, 'UNKNOWN_HANDLE')
            handles_pb2_grpc.HandlesStub(channel).Release(release, timeout=harness.DEADLINE)
            with open(opened.path, 'rb') as file:
                self.assertIn(b'moov', file.read())
            self.assert_fails(
                lambda: writers.Finish(mp4_writer_pb2.FinishRequest(writer=opened.writer), timeout=harness.DEADLINE),
                grpc.StatusCode.NOT_FOUND, 'UNKNOWN_HANDLE')

    def test_grpc_js(self):
        # The harness passes nothing on that is called RUNLOOP_.
        result = harness.run(
            ['node', os.path.join(harness.SOURCE, 'tests', 'clients', 'open_writer.cjs'), self.daemon.address, 'js.mp4'],
            env={'RUNLOOP_SOURCE_DIR': harness.SOURCE, 'RUNLOOP_CLIENTS_DIR': harness.CLIENTS})
        self.assertEqual(result.code, 0, result.stderr)
        printed = json.loads(result.stdout)
        self.assertIn(SERVICE, printed['services'])
        self.assertNotEqual(int(printed['writer']), 0)
        self.assert_opened(1)

    def test_buf_curl(self):
        environment = {'HOME': self.directory}
        listed = harness.run([*BUF, self.socket, '--list-services', 'http://localhost'], env=environment)
        self.assertIn(SERVICE, listed.stdout.split())
        request = json.dumps({'file_name': 'buf.mp4', 'video': VIDEO})
        result = harness.run([*BUF, self.socket, '--data', request, f'http://localhost/{OPEN}'], env=environment)
        self.assertEqual(result.code, 0, result.stderr)
        self.assertNotEqual(int(json.loads(result.stdout)['writer']), 0)
        self.assert_opened(1)


if __name__ == '__main__':
    unittest.main()
