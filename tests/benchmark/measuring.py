"""What the scripts share that build programs, run them in interleaved rounds and read what they print."""
import collections
import os
import pathlib
import statistics
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[2]


SMOKE = ("--time=2ms", "--flood=200")


class Program(collections.namedtuple("Program", "target workloads arguments packages once smoke",
                                     defaults=((), (), False, ()))):
    """Prints lines `system workload[@pinning] metric value unit`; is built if the Debian `packages` are there.

    `once`: in the first round alone. `smoke`: what makes it brief, besides SMOKE."""


def fail(text):
    print(f"{pathlib.Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    sys.exit(2)


def build(directory, programs):
    def cmake(*arguments):
        return subprocess.run(["cmake", "--build", directory, "--target", *arguments], stdout=subprocess.PIPE, text=True)
    known = cmake("help")
    if known.returncode != 0:
        fail("nothing to build: `deploy/install-packages build test`, then `cmake --preset release "
             "-DRUNLOOP_BENCHMARKS=ON`, then try again")
    known = {line.split(":")[0] for line in known.stdout.splitlines()}
    for program in programs:
        if program.target not in known:
            fail(f"{program.target} is not built. Install {' '.join(program.packages) or 'what it needs'} "
                 "(`deploy/install-packages test`), then `cmake --preset release -DRUNLOOP_BENCHMARKS=ON`")
    if (built := cmake(*(program.target for program in programs))).returncode != 0:
        print(built.stdout[-4000:], file=sys.stderr)
        fail("the build failed")


def run(directory, program, workload, smoke):
    """What one program prints for one workload: ((system, workload, metric), value)."""
    name, _, pinning = workload.partition("@")
    command = [directory / "bin" / program.target, *program.arguments, f"--only={name}"]
    if smoke:
        command += [*SMOKE, *program.smoke]
    try:
        printed = subprocess.run(command, env={**os.environ, "RUNLOOP_PIN": pinning}, check=True,
                                 stdout=subprocess.PIPE, text=True, timeout=180).stdout
    except (OSError, subprocess.SubprocessError) as error:
        fail(f"{program.target}: {error}")
    for line in printed.splitlines():
        system, where, metric, value, _ = line.split()
        yield (system, where, metric), float(value)


def measure(directory, programs, workloads, rounds, smoke):
    figures = collections.defaultdict(list)
    loads = []
    end = "\r" if sys.stderr.isatty() else "\n"
    for number in range(1, rounds + 1):
        loads.append(float(pathlib.Path("/proc/loadavg").read_text().split()[0]))
        for workload in workloads:
            print(f"round {number} of {rounds}, load {loads[-1]}: {workload:10}", end=end, file=sys.stderr, flush=True)
            for program in programs:
                if workload.partition("@")[0] not in program.workloads or program.once and number > 1:
                    continue
                for key, value in run(directory, program, workload, smoke):
                    figures[key].append(value)
    if end == "\r":
        print(" " * 60, end=end, file=sys.stderr)
    return figures, loads


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(values):
    return f"{number(statistics.median(values))} ({number(min(values))}-{number(max(values))})"
