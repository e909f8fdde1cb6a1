// Two and more processes: a daemon and workers on one unix socket. Prints one line a figure.

#include "runloop/tests/benchmark/daemon.h"
#include "runloop/tests/benchmark/processes.h"

int main(int argc, char** argv) {
  using namespace runloop::benchmark;
  return MeasureSystems(argc, argv,
                        {{"runloop_stream", ServeDaemon, ConnectStream, 400'000},
                         {"runloop_ring", ServeDaemon, ConnectRing, 400'000},
                         {"runloop_buffer", ServeDaemon, ConnectBuffer},
                         {"runloop_unary", ServeDaemon, ConnectUnary, 20'000}});
}
