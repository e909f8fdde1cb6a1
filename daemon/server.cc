#include "runloop/daemon/server.h"

#include <grpc/grpc.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "runloop/daemon/reflection_service.h"

namespace runloop::daemon {
namespace {

// A connection without calls is closed after this: a peer that only connects is cheap, but not for
// ever. Its implicit session ends with it, so it is longer than any pause between plain calls.
constexpr absl::Duration kMaxIdle = absl::Hours(2);

int Clamp(int64_t bytes) {
  return static_cast<int>(std::min<int64_t>(bytes, std::numeric_limits<int>::max()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options) {
  const int64_t max_message_bytes = options.max_message_bytes;
  const int64_t max_arriving_bytes = options.max_arriving_bytes;
  const int max_calls = options.max_calls;
  std::unique_ptr<Server> server(new Server(std::move(options)));
  absl::Status started = server->Start(max_message_bytes, max_calls, max_arriving_bytes);
  if (!started.ok()) return started;
  return server;
}

Server::Server(ServerOptions options)
    : core_(options.core),
      completion_(options.completion),
      callers_(options.core, *options.connections, *options.sessions),
      sessions_({.core = options.core,
                 .completion = options.completion,
                 .callers = &callers_,
                 .max_message_bytes = options.max_message_bytes,
                 .max_unfinished = options.max_unfinished,
                 .resume_grace = options.resume_grace,
                 .rings = options.rings,
                 .why_no_rings = options.why_no_rings,
                 .on_idle = options.on_idle,
                 .log = options.log}),
      operation_service_(options.core, callers_, options.max_message_bytes),
      control_service_(callers_, options.completion, std::move(options.drain)),
      diagnostics_service_({.core = options.core,
                            .callers = &callers_,
                            .connections = options.connections,
                            .addresses = options.addresses,
                            .max_message_bytes = options.max_message_bytes,
                            .max_unfinished = options.max_unfinished}),
      health_service_(options.core, options.completion),
      notification_service_(options.core, callers_, options.completion, options.max_message_bytes),
      methods_({
          {"runloop.v1.Dispatcher/Session",
           [this](Call& call) { return sessions_.NewStream(call); }},
          {"runloop.v1.Dispatcher/Dispatch",
           [this](Call& call) { return operation_service_.NewDispatch(call); }},
          {"runloop.v1.Control/Drain",
           [this](Call& call) { return control_service_.NewDrain(call); }},
          {"runloop.v1.Diagnostics/GetStatus",
           [this](Call& call) { return diagnostics_service_.NewGetStatus(call); }},
          {"runloop.v1.Diagnostics/ListOperations",
           [this](Call& call) { return diagnostics_service_.NewListOperations(call); }},
          {"grpc.health.v1.Health/Check",
           [this](Call& call) { return health_service_.NewCheck(call); }},
          {"grpc.health.v1.Health/Watch",
           [this](Call& call) { return health_service_.NewWatch(call); }},
          {"runloop.v1.Notifications/ListTopics",
           [this](Call& call) { return notification_service_.NewListTopics(call); }},
          {"runloop.v1.Notifications/Subscribe",
           [this](Call& call) { return notification_service_.NewSubscribe(call); }},
          {std::string(kReflectionV1Method),
           [this](Call& call) { return NewReflectionV1(*core_, callers_, call); }},
          {std::string(kReflectionV1AlphaMethod),
           [this](Call& call) { return NewReflectionV1Alpha(*core_, callers_, call); }},
      }),
      route_([this](Call& call) { return Route(call); }) {}

std::unique_ptr<CallHandler> Server::Route(Call& call) {
  const auto own = methods_.find(call.method());
  return own != methods_.end() ? own->second(call) : operation_service_.NewOperation(call);
}

absl::Status Server::Start(int64_t max_message_bytes, int max_calls, int64_t max_arriving_bytes) {
  // One reference to the library is kept for the process: giving up the last one can wait up to ten
  // seconds, for a poller that a blocked write has left behind.
  [[maybe_unused]] static const bool kept = (grpc_init(), true);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(Clamp(max_message_bytes));
  builder.SetMaxSendMessageSize(Clamp(max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(kMaxIdle)));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, max_calls);
  grpc::ResourceQuota quota;
  quota.Resize(static_cast<size_t>(max_arriving_bytes));
  builder.SetResourceQuota(quota);
  // On a unix socket the kernel tells of a dead peer. The daemon sends no keepalive pings, and does
  // not mind a client that does.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.RegisterAsyncGenericService(&generic_);
  completion_->AddTo(builder);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("gRPC did not start the server");
  return absl::OkStatus();
}

void Server::Serve() {
  completion_->Post([this] { Call::Accept(*completion_, generic_, route_); });
}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

void Server::AddConnection(int fd) { grpc::AddInsecureChannelFromFd(server_.get(), fd); }

void Server::ConnectionEnded() { sessions_.ConnectionEnded(); }

void Server::BeginDrain(absl::Duration timeout) { sessions_.BeginDrain(timeout); }

void Server::Shutdown(absl::Duration grace) {
  // Kept until the completion-queue thread has ended: what comes out of the queue refers to it.
  if (server_ == nullptr || std::exchange(shut_down_, true)) return;
  health_service_.Stop();
  notification_service_.Stop();
  server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
}

}  // namespace runloop::daemon
