"""Messages that begin and never end: what gRPC holds before anything is admitted. No sanitizer's allocator, please."""

import os
import socket
import struct
import unittest

import harness
import http2
import session_client
from runloop.test.v1 import test_operations_pb2 as operations_pb2
from runloop.v1 import side_channel_pb2


class UnendedTest(harness.TestCase):
    """Messages of which most is sent, and never the end."""

    MESSAGE = 1 << 20
    # That of a role: its bound on unfinished work, four messages, and 64 MiB.
    QUOTA = (1 + 4 + 64) << 20

    def resident(self):
        with open(f'/proc/{self.daemon.pid}/statm', encoding='ascii') as statm:
            return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

    def test_those_of_a_role_take_a_bounded_room_and_end_no_session_of_another(self):
        bounds = [f'--{name}_bound=1000,1MiB' for name in ('session', 'user', 'total')]
        self.daemon = self.start_daemon(args=['--max_message_bytes=1MiB'] + bounds)
        role = os.path.join(self.directory, 'role')
        with socket.socket(socket.AF_UNIX) as channel, socket.socket(socket.AF_UNIX) as listening:
            channel.settimeout(harness.DEADLINE)
            channel.connect(self.socket)
            channel.sendall(b'RUNLOOP1')
            listening.bind(role)
            listening.listen()
            request = side_channel_pb2.SideChannelRequest(
                add_role_socket=side_channel_pb2.AddRoleSocket(role='hostile')).SerializeToString()
            socket.send_fds(channel, [struct.pack('<I', len(request)) + request], [listening.fileno()])
            self.assertTrue(channel.recv(1000))
            with session_client.Session(self.daemon.address, 'another') as session:
                before = self.resident()
                method = f'/{harness.ECHO}'.encode()
                peers = [http2.UnendedCalls(role, method, 200, self.MESSAGE) for _ in range(2)]
                sent, most = 400 * (self.MESSAGE - 1000), 0
                for peer in peers:
                    while peer.send() and any(peer.left[stream] for stream in peer.windows):
                        most = max(most, self.resident() - before)
                self.assertGreater(sum(peer.sent for peer in peers), self.QUOTA)
                self.assertLess(max(most, self.resident() - before), self.QUOTA + (64 << 20), f'of {sent} bytes')
                reply = session.dispatch(harness.ECHO, operations_pb2.EchoRequest(text='on'), operations_pb2.EchoReply)
                self.assertEqual(reply.result(harness.DEADLINE).text, 'on')
                for peer in peers:
                    peer.close()


if __name__ == '__main__':
    unittest.main()
