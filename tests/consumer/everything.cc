// A host on a GLib loop that is also its own client.
#include <runloop/client/connect.h>
#include <runloop/daemon/host.h>
#include <runloop/runtime/glib/glib_loop.h>

#include <cstdio>
#include <string>

int main(int argc, char** argv) {
  const std::string socket = argc > 1 ? argv[1] : "consumer.sock";
  auto runtime = runloop::Runtime::Create({.loop = runloop::NewGlibLoop()});
  if (!runtime.ok()) return 1;
  auto host = runloop::Host::Start(**runtime, {.listen = socket});
  if (!host.ok()) {
    std::fprintf(stderr, "%s\n", host.status().ToString().c_str());
    return 1;
  }
  auto context = runloop::Connect({.address = socket});
  if (!context.ok()) return 1;
  return (*host)->Drain(absl::Seconds(10)).drained ? 0 : 1;
}
