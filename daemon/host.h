#ifndef RUNLOOP_DAEMON_HOST_H_
#define RUNLOOP_DAEMON_HOST_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/runtime/log.h"
#include "runloop/runtime/runtime.h"

namespace runloop {

struct HostOptions {
  // Where to listen: `unix:/path` or `/path`. Empty: the default socket (ipc/address.h). Missing
  // directories are made with mode 0700, the socket with 0600. A socket that nobody listens on any
  // more is replaced.
  std::string listen;
  // Listening unix sockets to use instead of `listen`, as systemd passes them. The host owns them
  // from here on.
  std::vector<int> listen_fds;
  // Bytes of one gRPC message, in both directions. Raise it where frames travel in messages.
  int64_t max_message_bytes = int64_t{64} << 20;
  // Invocations of one session that may be unfinished.
  int64_t max_unfinished = 100'000;
  // Bytes of each of the two rings that carry the messages of a session on this machine: a power of
  // two from 4096 to 16 MiB. They count in the session's bounds for buffers, and take memory only
  // as far as they are used. 0: there are none, and messages go by the stream.
  int64_t ring_bytes = int64_t{256} << 10;
  // How long a session goes on when its connection is lost but its worker lives, so that the worker
  // can resume it (docs/protocol.md): its work runs, its handles and buffers stay, its outcomes are
  // kept, up to 32 MiB of them, and no outcome is lost. Then, or when the worker's process dies,
  // it ends. With 256 such sessions, or 256 MiB of such outcomes, others end at once. 0: it ends
  // with its connection. At most an hour.
  static constexpr absl::Duration kMaxResumeGrace = absl::Hours(1);
  absl::Duration resume_grace = absl::Seconds(10);
  // How long a drain may take.
  absl::Duration drain_timeout = absl::Seconds(10);
  // Called about a second after a session or a connection has ended, if no worker by the main
  // sockets has an open session then, or none with a role, on a thread of gRPC's, where it may take
  // some milliseconds: a place for a program to give memory back. May be null.
  std::function<void()> on_idle;
  // Called on a thread of the host's, one line at a time: one that blocks holds up no session, and
  // what finds no room meanwhile is dropped and counted. Null: stderr.
  LogSink log;
};

// Serves a runtime to other processes: the daemon's whole service, for a program of one's own.
// runloopd is a main function around it.
//
//   auto runtime = runloop::Runtime::Create({.operations = std::move(operations)});
//   auto host = runloop::Host::Start(**runtime, {.listen = "/run/acme/acme.sock"});
//   return (*host)->ServeUntilSignal();
//
// Threads: an accept thread, one completion-queue thread for all RPCs, one that writes
// the log, and gRPC's own. None of them is the runtime thread and none waits for it. Start,
// ServeUntilSignal, Drain and the destructor belong to the thread that owns the runtime, and
// `runtime` must outlive the host.
//
// Security: only processes of this process's uid get in (SO_PEERCRED); see docs/architecture.md.
class Host {
 public:
  // The socket accepts when this returns; work that comes in is queued until the loop runs.
  //
  // ALREADY_EXISTS: a daemon listens there. PERMISSION_DENIED: the directory or socket is not ours
  // to use. INVALID_ARGUMENT: not an address, or a descriptor that is no listening unix socket.
  static absl::StatusOr<std::unique_ptr<Host>> Start(Runtime& runtime, HostOptions options = {});

  // Closes the sockets and all connections; sessions end. Does not wait for queued work: Drain
  // does.
  ~Host();

  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Runs the loop until SIGTERM, SIGINT or runloop.v1.Control/Drain (`runloopctl drain`), drains,
  // and returns the exit code: 0 drained, 3 cut off at the deadline. If the runtime thread is stuck
  // then, the process ends itself with code 3 at the deadline. The ledger is logged.
  //
  // Whoever asks first sets the deadline: a signal gives the drain `drain_timeout`, a call what it
  // asks for. A call during a drain changes nothing and is told how long is left. A signal during a
  // drain, whatever began it, ends the process at once with code 3.
  //
  // Control/Drain is FAILED_PRECONDITION for a host that does not run this function: it ends in a
  // way of its own.
  int ServeUntilSignal();

  // Refuses new work with UNAVAILABLE (DRAINING), keeps the loop running until what was admitted
  // has its outcome or the deadline comes, delivers outcomes to workers that read them within a
  // second more, and closes. The runtime is stopped afterwards.
  Runtime::DrainResult Drain(absl::Duration timeout);

  // `unix:/path`, one for each socket; a socket without a path is shown as `fd:N`.
  const std::vector<std::string>& addresses() const;

 private:
  class Impl;
  explicit Host(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace runloop

#endif  // RUNLOOP_DAEMON_HOST_H_
