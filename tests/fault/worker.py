"""A worker that a test steers."""

import re
import subprocess

import harness


class Worker(harness.Process):
    """A runloop_fault_worker: see there. `lost`: what it does with a session whose connection is lost."""

    def __init__(self, name, address, transport='ring', lost='resume'):
        super().__init__([harness.program('runloop_fault_worker'), name, transport, lost], env={'RUNLOOP_ADDRESS': address},
                         stdin=subprocess.PIPE)
        self._peeks = 0

    def dispatch(self, name, what, how='async'):
        self.write(f'{how} {name} {what}\n')
        self.await_line(f'^sent {name}$', 'stdout')

    def cut(self):
        """Its own connections."""
        self.write('cut\n')
        self.await_line('^cut$', 'stdout')

    def start_await(self, name):
        self.write(f'await {name}\n')

    def outcome(self, name):
        """Its code and reason; start_await was called."""
        return self.await_line(f'^outcome {name} (.*)$', 'stdout').group(1)

    def is_pending(self, name):
        self._peeks += 1
        self.write(f'peek {name}\n')
        peeks = f'^peek {name} '
        harness.wait_until(lambda: len(re.findall(peeks, self.stdout, re.MULTILINE)) == self._peeks, 'it answers')
        return self.stdout.splitlines()[-1].endswith('pending')
