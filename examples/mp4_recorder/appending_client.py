"""A worker that appends to writers of one session until it is killed or refused, many appends at a time.

appending_client.py ADDRESS FILE_NAME...: prints `acknowledged FILE_NAME COUNT` for each reply to an Append. Refused,
as by a daemon that drains, it reads on to the end of the stream.
"""

import collections
import queue
import sys

import harness
from runloop.examples.media.v1 import mp4_writer_pb2 as pb
from runloop.v1 import session_pb2

SERVICE = 'runloop.examples.media.v1.Mp4Writer'
WIDTH, HEIGHT, RATE = 320, 240, 30
IN_FLIGHT = 12  # of each writer


class Session:
    """A session stream."""

    def __init__(self, stubs):
        self.requests = queue.Queue()
        self.responses = stubs.dispatcher.Session(iter(self.requests.get, None), timeout=harness.DEADLINE)
        self.last = 0
        self.requests.put(session_pb2.SessionRequest(
            hello=session_pb2.Hello(versions=session_pb2.VersionRange(min=1, max=1))))
        next(self.responses)

    def dispatch(self, operation, request):
        """Returns the invocation's id."""
        self.last += 1
        self.requests.put(session_pb2.SessionRequest(dispatches=[session_pb2.Dispatch(
            invocation_id=self.last, operation_name=f'{SERVICE}/{operation}', request=request.SerializeToString(),
            reply_wanted=True)]))
        return self.last

    def outcomes(self):
        """Outcomes, as they come, to the end of the stream."""
        for response in self.responses:
            yield from response.outcomes


def frame(writer, index):
    picture = bytes([index % 256]) * (WIDTH * HEIGHT * 3 // 2)
    return pb.AppendRequest(writer=writer, video=pb.VideoFrame(i420=picture, pts_nanos=index * 10**9 // RATE))


def main(address, names):
    session = Session(harness.Stubs(harness.connect(address)))
    outcomes = session.outcomes()
    writers = {}
    video = pb.VideoFormat(width=WIDTH, height=HEIGHT, frame_rate_numerator=RATE, frame_rate_denominator=1)
    for name in names:
        session.dispatch('Open', pb.OpenRequest(file_name=name, video=video))
        writers[name] = pb.OpenReply.FromString(next(outcomes).reply).writer

    unanswered = {}
    sent, acknowledged = collections.Counter(), collections.Counter()

    def append(name):
        unanswered[session.dispatch('Append', frame(writers[name], sent[name]))] = name
        sent[name] += 1

    for name in names * IN_FLIGHT:
        append(name)
    refused = False
    for outcome in outcomes:
        name = unanswered.pop(outcome.invocation_id)
        if outcome.HasField('status'):
            refused = True
            continue
        acknowledged[name] += 1
        print('acknowledged', name, acknowledged[name], flush=True)
        if not refused:
            append(name)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
