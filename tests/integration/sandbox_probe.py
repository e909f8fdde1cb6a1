"""Tries what a sandboxed worker must not be able to do, and prints what became of each attempt as one line of JSON.

To be run with a JSON object: `home` (a directory), `home_identity` (its device and inode), `home_secret` (a file
in it), `victim` (a process), `victim_secret` (part of its environment), `port` (a TCP port on loopback that listens), `abstract` (the name of an abstract unix
socket that listens), `main_socket` (of the daemon).
"""

import ctypes
import json
import os
import signal
import socket
import sys

PTRACE_SEIZE = 0x4206
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
LIBC = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if function(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f'{function.__name__}: {os.strerror(error)}')


def mount(target, flags, source='none'):
    call(LIBC.mount, source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)


def read_home(targets):
    with open(targets['home_secret'], encoding='utf-8') as file:
        return file.read()


def same_home(targets):
    """The directory itself, not one that merely has its name."""
    found = os.stat(targets['home'])
    if [found.st_dev, found.st_ino] != targets['home_identity']:
        raise FileNotFoundError('another directory')
    return os.listdir(targets['home'])


def read_process(targets):
    with open(f'/proc/{targets["victim"]}/environ', encoding='utf-8') as file:
        if targets['victim_secret'] not in file.read():
            raise ProcessLookupError('another process')


def trace_process(targets):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(PTRACE_SEIZE, targets['victim'], None, None) != 0:
        raise OSError(ctypes.get_errno(), 'ptrace')


def kill_process(targets):
    os.kill(targets['victim'], signal.SIGTERM)


def connect_network(targets):
    with socket.create_connection(('127.0.0.1', targets['port']), timeout=30) as connection:
        return connection.recv(100).decode()


def connect_abstract(targets):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect('\0' + targets['abstract'])


def connect_main_socket(targets):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(targets['main_socket'])


def socket_directory():
    return os.path.dirname(os.environ['RUNLOOP_ADDRESS'].removeprefix('unix:'))


def write_socket_directory(targets):
    path = os.path.join(socket_directory(), 'made-by-the-probe')
    with open(path, 'w', encoding='utf-8'):
        pass
    os.unlink(path)


def change_socket(targets):
    os.chmod(os.environ['RUNLOOP_ADDRESS'].removeprefix('unix:'), 0o600)


def remount_writable(targets):
    """Turns what is bound read-only writable. Where it is not bound so, that is done first, in a namespace of its own."""
    directory = socket_directory()
    if not os.statvfs(directory).f_flag & os.ST_RDONLY:
        call(LIBC.unshare, CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER)
        mount('/', MS_REC | MS_PRIVATE)
        mount(directory, MS_BIND, source=directory)
        mount(directory, MS_REMOUNT | MS_BIND | MS_RDONLY)
    mount(directory, MS_REMOUNT | MS_BIND)
    write_socket_directory(targets)


# In this order: the process does not survive its end, and the last one may leave its namespace.
ATTEMPTS = [read_home, same_home, read_process, trace_process, kill_process, connect_network, connect_abstract,
            connect_main_socket, write_socket_directory, change_socket, remount_writable]


def main():
    targets = json.loads(sys.argv[1])
    outcomes = {}
    for attempt in ATTEMPTS:
        try:
            attempt(targets)
            outcomes[attempt.__name__] = 'ok'
        except OSError as error:
            outcomes[attempt.__name__] = type(error).__name__ + f': {error}'
    print(json.dumps(outcomes), flush=True)


main()
