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
    : callers_(options.core, *options.connections),
      replies_(std::make_shared<ReplyThread>()),
      sessions_({.core = options.core,
                 .callers = &callers_,
                 .max_message_bytes = options.max_message_bytes,
                 .max_unfinished = options.max_unfinished,
                 .on_idle = options.on_idle,
                 .log = options.log}),
      operation_service_(options.core, callers_, replies_, options.max_message_bytes),
      dispatcher_service_(options.core, callers_, replies_, options.max_message_bytes),
      control_service_(callers_, std::move(options.drain)),
      diagnostics_service_({.core = options.core,
                            .callers = &callers_,
                            .connections = options.connections,
                            .addresses = options.addresses,
                            .max_message_bytes = options.max_message_bytes,
                            .max_unfinished = options.max_unfinished}),
      health_service_(options.core),
      reflection_v1_(NewReflectionV1(options.core, callers_)),
      reflection_v1alpha_(NewReflectionV1Alpha(options.core, callers_)) {}

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
  builder.RegisterService(&dispatcher_service_);
  builder.RegisterService(&control_service_);
  builder.RegisterService(&diagnostics_service_);
  builder.RegisterService(&health_service_);
  builder.RegisterService(reflection_v1_.get());
  builder.RegisterService(reflection_v1alpha_.get());
  builder.RegisterCallbackGenericService(&operation_service_);
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("gRPC did not start the server");
  sessions_.Start(&dispatcher_service_, std::move(queue));
  return absl::OkStatus();
}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

void Server::AddConnection(int fd) { grpc::AddInsecureChannelFromFd(server_.get(), fd); }

void Server::ConnectionEnded() { sessions_.ConnectionEnded(); }

void Server::BeginDrain(absl::Duration timeout) { sessions_.BeginDrain(timeout); }

void Server::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  health_service_.Stop();
  server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  sessions_.Shutdown();
  replies_->Stop();
  server_.reset();
}

}  // namespace runloop::daemon
