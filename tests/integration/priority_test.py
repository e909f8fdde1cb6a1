"""Workers of each priority at once, in processes of their own: who is urgent comes first, and nobody starves."""

import os
import socket
import subprocess
import unittest

import harness
from resume_protocol_test import Raw, record
from runloop.v1 import session_pb2, side_channel_pb2

PRIORITIES = ('interactive', 'default', 'background')
ITEMS = 4_000  # each, all of them queued at once
# By how many more urgent ones each may be passed while it waits (runtime/priority.h).
MOST_PASSED_BY = (0, 7, 63)


class PriorityTest(harness.TestCase):

    def test_a_flood_in_each_starves_nobody(self):
        daemon = self.start_daemon()
        producers = [self.start([harness.program('runloop_test_producer'), str(level), str(ITEMS), priority],
                                env={'RUNLOOP_ADDRESS': daemon.address}, stdin=subprocess.PIPE)
                     for level, priority in enumerate(PRIORITIES)]
        for producer in producers:
            producer.await_line('^ready$', 'stdout')
        held = daemon.hold()
        for producer in producers:
            producer.write('go\n')
        daemon.await_status(
            lambda status: sum(session.queued == ITEMS for session in status.sessions) == len(PRIORITIES),
            'all of them wait')
        shown = self.ctl('status', address=daemon.address).stdout
        for priority in PRIORITIES:
            self.assertIn(priority, shown)
        daemon.let_go()
        held.result(harness.DEADLINE)
        for producer in producers:
            self.assertEqual(producer.wait(), 0, producer.stderr)

        items, _ = daemon.watch.record()
        self.assertEqual(len(items), len(PRIORITIES) * ITEMS)
        following = [0, 0, 0]
        passed_by = [0, 0, 0]
        for place, (level, index) in enumerate(items):
            self.assertEqual(index, following[level], f'the order of the {PRIORITIES[level]} one')
            following[level] += 1
            passed_by[level] = 0
            for lower in range(level + 1, len(PRIORITIES)):
                # The last ones may have been taken in a moment after they were counted.
                if following[lower] < ITEMS - 64:
                    passed_by[lower] += 1
                    self.assertLessEqual(passed_by[lower], MOST_PASSED_BY[lower], f'at {place}')
        ended = [max(place for place, (level, _) in enumerate(items) if level == each) for each in range(3)]
        self.assertEqual(ended, sorted(ended), 'the urgent one is through first')

    def test_a_worker_in_a_role_gets_no_more_than_roles_may_have(self):
        for highest, granted in (('default', [2, 2, 3]), ('interactive', [1, 2, 3]), ('background', [3, 3, 3])):
            with self.subTest(highest):
                daemon = self.start_daemon(args=[f'--role_priority={highest}'])
                with socket.socket(socket.AF_UNIX) as channel, socket.socket(socket.AF_UNIX) as listening:
                    path = os.path.join(self.directory, f'role-{highest}')
                    listening.bind(path)
                    listening.listen()
                    channel.connect(self.socket)
                    channel.sendall(b'RUNLOOP1')
                    request = side_channel_pb2.SideChannelRequest(
                        add_role_socket=side_channel_pb2.AddRoleSocket(role='camera')).SerializeToString()
                    self.assertEqual(harness.ask(channel, request, [listening.fileno()]).code, 0)
                    for address, expected in ((f'unix:{path}', granted), (daemon.address, [1, 2, 3])):
                        got = []
                        for asked in (1, 2, 3):
                            raw = Raw(address, priority=asked)
                            got.append(raw.welcome.priority)
                            raw.cut()
                        self.assertEqual(got, expected, address)
                    # A plain call has the default priority, or less.
                    with harness.connect(f'unix:{path}') as worker:
                        self.assertEqual(harness.Stubs(worker).echo('by role'), 'by role')
                        self.assertEqual([session.priority for session in daemon.status().sessions
                                          if session.role and session.session_id.startswith('connection-')],
                                         [granted[1]])
                    # Smaller batches than others, since they hold up all.
                    raw = Raw(f'unix:{path}')
                    self.assertEqual(raw.welcome.limits.max_batch, 128)
                    dispatches = [record(number) for number in range(1, 130)]
                    dispatches[0].batch_size = len(dispatches)
                    raw.say(dispatches=dispatches)
                    self.assertEqual(raw.end().reason, 'PROTOCOL_VIOLATION')
                    raw.cut()
                daemon.close()

    def test_what_is_not_known_is_the_default(self):
        daemon = self.start_daemon()
        for asked in (session_pb2.PRIORITY_UNSPECIFIED, 77):
            raw = Raw(daemon.address, priority=asked)
            self.assertEqual(raw.welcome.priority, session_pb2.PRIORITY_DEFAULT)
            raw.cut()

    def test_a_priority_that_is_none_is_a_wrong_flag(self):
        result = harness.run(harness.daemon_command(self.socket, args=['--role_priority=urgent']))
        self.assertEqual(result.code, 2)
        self.assertIn('--role_priority', result.stderr)


if __name__ == '__main__':
    unittest.main()
