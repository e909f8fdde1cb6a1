#ifndef RUNLOOP_DAEMON_SERVER_H_
#define RUNLOOP_DAEMON_SERVER_H_

#include <grpcpp/server.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/daemon/connection_table.h"
#include "runloop/daemon/control_service.h"
#include "runloop/daemon/diagnostics_service.h"
#include "runloop/daemon/health_service.h"
#include "runloop/daemon/notification_service.h"
#include "runloop/daemon/operation_service.h"
#include "runloop/daemon/session_server.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

struct ServerOptions {
  std::shared_ptr<internal::RuntimeCore> core;
  // Serves the RPCs. It is started and stopped by whoever owns it.
  std::shared_ptr<CompletionThread> completion;
  // Both must outlive the server.
  const ConnectionTable* connections = nullptr;
  SessionTokens* sessions = nullptr;
  // What status shows as listened on.
  std::vector<std::string> addresses;
  int64_t max_message_bytes = 0;
  int64_t max_unfinished = 0;
  // Calls of one connection at a time; its client holds further ones back.
  int max_calls = 0;
  // What gRPC may hold for all connections together, mostly of messages that have not arrived in
  // full. When it holds more it ends streams, whoever's they are.
  int64_t max_arriving_bytes = 0;
  absl::Duration resume_grace;
  std::shared_ptr<RingServer> rings;  // null: there are none
  std::string why_no_rings;           // then
  // HostOptions::on_idle.
  std::function<void()> on_idle;
  // What a worker does that asks for a drain.
  DrainHook drain;
  LogSink log;
};

// The gRPC server with all its services: the one place where they are put together. It listens
// nowhere; connections are handed to it. A host has two, so that no worker with a role can use up
// what gRPC may hold for the main sockets.
//
// Threads: the RPCs are served on the completion-queue thread; Create, Serve, Shutdown and the
// destructor on the owner's; AddConnection and ConnectionEnded on one other, which has ended before
// Shutdown; BeginDrain from any. Outlives what the completion-queue thread still does.
class Server {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Create(ServerOptions options);
  ~Server();

  // Begins to take RPCs, once the completion-queue thread runs.
  void Serve();

  // Serves the connection that `fd`, non-blocking and in the connection table, belongs to. Takes
  // the descriptor.
  void AddConnection(int fd);
  // One of those has ended.
  void ConnectionEnded();

  // Ends the session streams whose work is done, and tells the others.
  void BeginDrain(absl::Duration timeout);

  // How the drain has ended, for those that wait to hear it. Before Shutdown.
  void TellDrained(const v1::DrainResult& result) { control_service_.Tell(result); }

  // Lets calls end until `grace` has passed, cancels the rest, and closes all connections.
  // Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  explicit Server(ServerOptions options);
  absl::Status Start(int64_t max_message_bytes, int max_calls, int64_t max_arriving_bytes);
  // What serves a call, by its method.
  std::unique_ptr<CallHandler> Route(Call& call);

  const std::shared_ptr<internal::RuntimeCore> core_;
  const std::shared_ptr<CompletionThread> completion_;
  Callers callers_;
  SessionServer sessions_;
  OperationService operation_service_;
  ControlService control_service_;
  DiagnosticsService diagnostics_service_;
  HealthService health_service_;
  NotificationService notification_service_;

  // The daemon's own methods; every other one is an operation's.
  const std::map<std::string, Call::Route, std::less<>> methods_;
  const Call::Route route_;
  grpc::AsyncGenericService generic_;
  std::unique_ptr<grpc::Server> server_;  // null if it did not start
  bool shut_down_ = false;                // the owner's thread
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SERVER_H_
