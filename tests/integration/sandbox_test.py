"""What a worker in the sandbox can and cannot reach; the same attempts succeed outside."""

import json
import os
import signal
import socket
import subprocess
import threading
import unittest

import harness

HERE = os.path.dirname(os.path.abspath(__file__))
STUBS = os.path.join(harness.BUILD, 'tests', 'integration', 'stubs')
PYTHON = '/usr/bin/python3'
VICTIM = '''
import ctypes, signal
PR_SET_PTRACER, ANYBODY = 0x59616d61, ctypes.c_ulong(-1)
ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
print("ready", flush=True)
signal.pause()
'''
# The fewest that show the worker its own files.
SHOW = ['--ro-bind', HERE, '--ro-bind', STUBS, '--setenv', f'PYTHONPATH={STUBS}']


class SandboxTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()

    def start_run(self, *arguments, stdin=subprocess.DEVNULL, **options):
        return self.start([harness.RUNLOOPCTL, f'--address=unix:{self.socket}', 'run', *arguments],
                          stdin=stdin, **options)

    def worker(self, *what):
        return ['--', PYTHON, os.path.join(HERE, 'sandbox_worker.py'), *what]

    # What cannot be reached.

    def targets(self):
        """Everything that the probe tries to reach; each belongs to this test."""
        home = os.path.join(self.directory, 'home')
        os.makedirs(home, exist_ok=True)
        secret = os.path.join(home, 'secret')
        with open(secret, 'w', encoding='utf-8') as file:
            file.write('secret')
        victim = self.start([PYTHON, '-c', VICTIM], env={'PROBE_SECRET': f'secret-of-{self.directory}'})
        victim.await_line('^ready$', 'stdout')
        tcp = socket.create_server(('127.0.0.1', 0))
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f'\0{self.directory}')
        abstract.listen()
        for listening in (tcp, abstract):
            self.addCleanup(listening.close)
            threading.Thread(target=self.greet, args=(listening,), daemon=True).start()
        info = os.stat(home)
        return victim, {
            'home': home, 'home_identity': [info.st_dev, info.st_ino], 'home_secret': secret, 'victim': victim.pid,
            'victim_secret': f'secret-of-{self.directory}', 'port': tcp.getsockname()[1],
            'abstract': self.directory, 'main_socket': self.socket,
        }

    def greet(self, listening):
        """Answers whoever connects, until the socket is closed."""
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b'hello')

    def probe(self, targets, *arguments):
        process = self.start_run(*arguments, '--', PYTHON, os.path.join(HERE, 'sandbox_probe.py'), json.dumps(targets),
                                 env={'HOME': targets['home']})
        self.assertEqual(process.wait(), 0, process.stderr)
        return json.loads(process.stdout.splitlines()[-1])

    def test_inside_every_attempt_fails_and_outside_the_same_succeed(self):
        victim, targets = self.targets()
        inside = self.probe(targets, *SHOW)
        self.assertEqual([name for name, outcome in inside.items() if outcome == 'ok'], [], inside)
        self.assertIsNone(victim.popen.poll())

        outside = self.probe(targets, '--no-sandbox')
        self.assertEqual([name for name, outcome in outside.items() if outcome != 'ok'], [], outside)
        self.assertEqual(set(inside), set(outside))
        self.assertEqual(victim.wait(), -signal.SIGTERM)

    def test_the_users_real_home_is_not_there(self):
        home = os.path.expanduser('~')
        info = os.stat(home)
        code = f'import os; i = os.stat({home!r}); print(i.st_dev, i.st_ino, os.listdir({home!r}))'
        process = self.start_run('--', PYTHON, '-c', code)
        if process.wait() == 0:  # a directory of that name, but an empty one
            self.assertNotEqual(process.stdout.split()[:2], [str(info.st_dev), str(info.st_ino)])
            self.assertEqual(process.stdout.split()[2], '[]')
        else:
            self.assertIn('FileNotFoundError', process.stderr)

    def test_nothing_of_the_environment_gets_in_but_what_was_asked_for(self):
        process = self.start_run(*SHOW, *self.worker('exit', '0'), env={'AWS_SECRET': 'x', 'LD_PRELOAD_X': 'y'})
        self.assertEqual(process.wait(), 0, process.stderr)
        environment = json.loads(process.stdout)['environment']
        self.assertLessEqual(set(environment),
                             {'HOME', 'LANG', 'LC_CTYPE', 'PATH', 'PWD', 'PYTHONPATH', 'RUNLOOP_ADDRESS', 'TERM'})

    def test_no_process_in_it_was_started_with_the_callers_environment(self):
        secret = f'secret-of-{self.directory}'
        code = 'import glob; print([open(path).read() for path in glob.glob("/proc/[0-9]*/environ")])'
        process = self.start_run('--', PYTHON, '-c', code, env={'CALLER_SECRET': secret})
        self.assertEqual(process.wait(), 0, process.stderr)
        self.assertIn('RUNLOOP_ADDRESS=', process.stdout)
        self.assertNotIn(secret, process.stdout)

    def test_no_descriptor_of_the_caller_gets_in(self):
        inherited = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, inherited)
        code = '''
import os
identities = []
for fd in range(3, 1024):
    try:
        info = os.fstat(fd)
    except OSError:
        continue
    identities.append((info.st_dev, info.st_ino))
print(identities)
'''
        info = os.stat(self.directory)
        for arguments, there in (([], False), (['--no-sandbox'], True)):
            with self.subTest(arguments):
                process = self.start_run(*arguments, '--', PYTHON, '-c', code, pass_fds=(inherited,))
                self.assertEqual(process.wait(), 0, process.stderr)
                self.assertEqual(str((info.st_dev, info.st_ino)) in process.stdout, there, process.stdout)

    def test_a_program_beside_the_daemons_socket_does_not_bring_it(self):
        program = os.path.join(self.directory, 'program')
        with open(program, 'w', encoding='utf-8') as file:
            file.write(f'#!{PYTHON}\nimport os\nprint(os.listdir({self.directory!r}))\n')
        os.chmod(program, 0o755)
        process = self.start_run('--', program)
        self.assertEqual(process.wait(), 0, process.stderr)
        self.assertEqual(process.stdout, "['program']")

    def test_what_holds_the_daemons_socket_cannot_be_bound(self):
        for option in ('--bind', '--ro-bind'):
            for path in (self.directory, self.socket, '/tmp', '/'):
                with self.subTest(option=option, path=path):
                    result = self.ctl('run', option, path, '--', '/bin/true')
                    self.assertEqual(result.code, 2, result.stderr)
                    self.assert_one_line(result.stderr, '^runloopctl: .*the daemon.s own socket')

    # What can be.

    def test_operations_work_inside_and_diagnostics_are_refused(self):
        for arguments in (SHOW, ['--no-sandbox', '--setenv', f'PYTHONPATH={STUBS}']):
            with self.subTest(arguments):
                process = self.start_run(*arguments, *self.worker('exit', '0'))
                self.assertEqual(process.wait(), 0, process.stderr)
                result = json.loads(process.stdout)
                self.assertEqual(result['echo'], 'from inside')
                self.assertEqual(result['status'], 'PERMISSION_DENIED')
                self.assertEqual(result['operations'], 'PERMISSION_DENIED')

    def test_a_worker_that_uses_the_client_library_works_inside(self):
        process = self.start_run('--ro-bind', os.path.join(harness.BUILD, 'lib'), '--',
                                 harness.program('runloop_test_producer'), '3', '1000', stdin=subprocess.PIPE)
        process.await_line('^ready$', 'stdout')
        process.write('go\n')
        self.assertEqual(process.wait(), 0, process.stderr)
        items, _ = self.daemon.watch.record()
        self.assertEqual(items, [(3, index) for index in range(1000)])

    def test_the_role_shows_in_the_status_with_the_pid_that_the_kernel_knows(self):
        process = self.start_run('--role', 'recorder', *SHOW, *self.worker('wait'), stdin=subprocess.PIPE)
        process.await_line('echo', 'stdout')
        session = next(session for session in self.daemon.status().sessions if session.role)
        self.assertEqual(session.role, 'recorder')
        self.assertEqual(session.peer_uid, os.geteuid())
        with open(f'/proc/{session.peer_pid}/cmdline', encoding='utf-8') as file:
            self.assertIn('sandbox_worker.py', file.read())
        process.popen.stdin.close()
        self.assertEqual(process.wait(), 0, process.stderr)
        self.daemon.await_status(lambda status: not any(session.role for session in status.sessions),
                                 'the session has ended')

    def test_a_role_that_is_no_name_is_refused(self):
        for role in ('', 'Recorder', '1st', 'a' * 65, 'a b'):
            with self.subTest(role):
                result = self.ctl('run', f'--role={role}', '--', '/bin/true')
                self.assertNotEqual(result.code, 0)
                self.assert_one_line(result.stderr, '^runloopctl: .*role')

    def test_the_commands_exit_code_comes_through(self):
        for arguments in (SHOW, ['--no-sandbox', '--setenv', f'PYTHONPATH={STUBS}']):
            for code in (0, 1, 7, 255):
                with self.subTest(arguments=arguments[0], code=code):
                    process = self.start_run(*arguments, *self.worker('exit', str(code)))
                    self.assertEqual(process.wait(), code, process.stderr)
            with self.subTest(arguments=arguments[0], code='signal'):
                process = self.start_run(*arguments, *self.worker('signal'))
                self.assertEqual(process.wait(), 128 + signal.SIGKILL, process.stderr)

    def test_a_command_that_cannot_be_run_is_told_as_a_shell_would(self):
        result = self.ctl('run', '--', 'no-such-command-here')
        self.assertEqual(result.code, 127, result.stderr)
        self.assert_one_line(result.stderr, '^runloopctl: .*no-such-command-here')
        plain = os.path.join(self.directory, 'plain')
        with open(plain, 'w', encoding='utf-8'):
            pass
        result = self.ctl('run', '--', plain)
        self.assertEqual(result.code, 126, result.stderr)
        self.assert_one_line(result.stderr, f'^runloopctl: .*{plain}')

    def test_a_command_whose_libraries_the_sandbox_lacks_is_told_what_to_bind(self):
        libraries = os.path.join(harness.BUILD, 'lib')
        process = self.start_run('--', harness.program('runloop_test_producer'), '3', '1')
        self.assertEqual(process.wait(), 127, process.stderr)
        self.assert_one_line(process.stderr.splitlines()[-1], '^runloopctl: .*sandbox', f'--ro-bind {libraries} ')
        for arguments in (['--', PYTHON, '-c', 'raise SystemExit(126)'],
                          ['--no-sandbox', '--', PYTHON, '-c', 'raise SystemExit(127)']):
            process = self.start_run(*arguments)
            process.wait()
            self.assertEqual(process.stderr, '')

    def test_without_a_daemon_it_ends_with_69_and_says_what_to_do(self):
        result = self.ctl('run', '--', '/bin/true', address=f'unix:{self.directory}/nobody')
        self.assertEqual(result.code, 69, result.stderr)
        self.assert_one_line(result.stderr, '^runloopctl: ', f'{self.directory}/nobody', 'runloopd')

    def test_a_signal_reaches_the_command_and_its_directory_is_removed(self):
        process = self.start_run('--', PYTHON, '-c', '''
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print(os.environ["RUNLOOP_ADDRESS"], flush=True)
signal.pause()
''')
        process.await_line('^unix:', 'stdout')
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 9, process.stderr)

    def test_the_role_socket_is_there_again_after_the_daemon_restarts(self):
        process = self.start_run('--role', 'recorder', *SHOW, *self.worker('wait'), stdin=subprocess.PIPE)
        process.await_line('echo', 'stdout')
        process.write('again\n')
        process.await_line('^from inside$', 'stdout')
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 0, self.daemon.stderr)
        self.daemon = self.start_daemon()
        lines = len(process.stdout.splitlines())
        process.write('once more\n')
        harness.wait_until(lambda: len(process.stdout.splitlines()) > lines, 'the worker was answered')
        self.assertEqual(process.stdout.splitlines()[-1], 'from inside', process.stderr)
        self.assertIn('recorder', [session.role for session in self.daemon.status().sessions])
        process.popen.stdin.close()
        self.assertEqual(process.wait(), 0, process.stderr)

    def test_a_workers_end_takes_its_role_socket_with_it(self):
        self.start_run(*SHOW, *self.worker('exit', '0')).wait()  # what the daemon makes once
        before = self.daemon.usage()
        for _ in range(3):
            process = self.start_run(*SHOW, *self.worker('exit', '0'))
            self.assertEqual(process.wait(), 0, process.stderr)
        self.daemon.await_usage(before)


if __name__ == '__main__':
    unittest.main()
