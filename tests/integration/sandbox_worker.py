"""A worker in a sandbox: uses the daemon at RUNLOOP_ADDRESS and prints what it got as one line of JSON.

After that it does what its argument says: `exit N`, `signal` (ends by SIGKILL), `wait` (until its stdin ends, telling
on stdout of each call that a line on it asks for).
"""

import json
import os
import signal
import sys

import grpc

from runloop.test.v1 import test_operations_pb2, test_operations_pb2_grpc
from runloop.v1 import diagnostics_pb2, diagnostics_pb2_grpc

DEADLINE = 60


def outcome(call):
    try:
        return call()
    except grpc.RpcError as error:
        return error.code().name


def main():
    channel = grpc.insecure_channel(os.environ['RUNLOOP_ADDRESS'], options=[('grpc.max_reconnect_backoff_ms', 100)])
    operations = test_operations_pb2_grpc.TestOperationsStub(channel)
    diagnostics = diagnostics_pb2_grpc.DiagnosticsStub(channel)

    def echo():
        request = test_operations_pb2.EchoRequest(text='from inside')
        return operations.Echo(request, timeout=DEADLINE, wait_for_ready=True).text

    print(json.dumps({
        'echo': outcome(echo),
        'status': outcome(
            lambda: diagnostics.GetStatus(diagnostics_pb2.GetStatusRequest(), timeout=DEADLINE).version),
        'operations': outcome(
            lambda: str(diagnostics.ListOperations(diagnostics_pb2.ListOperationsRequest(), timeout=DEADLINE))),
        'environment': sorted(os.environ),
    }), flush=True)

    what = sys.argv[1]
    if what == 'exit':
        sys.exit(int(sys.argv[2]))
    if what == 'signal':
        os.kill(os.getpid(), signal.SIGKILL)
    if what == 'wait':
        for _ in sys.stdin:
            # A connection that broke is noticed when it is used; the next call makes a new one.
            answer = outcome(echo)
            while answer == 'UNAVAILABLE':
                answer = outcome(echo)
            print(answer, flush=True)


main()
