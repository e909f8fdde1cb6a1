#include "runloop/daemon/session_server.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "runloop/daemon/session_stream.h"

namespace runloop::daemon {
namespace {

constexpr absl::Duration kIdleDelay = absl::Seconds(1);

}  // namespace

SessionServer::SessionServer(SessionServerOptions options)
    : options_(std::move(options)),
      terms_({.core = options_.core,
              .operations = options_.core->operations().List(),
              .max_message_bytes = options_.max_message_bytes,
              .max_unfinished = options_.max_unfinished}),
      log_(options_.log),
      tools_(options_.max_unfinished) {}

std::unique_ptr<CallHandler> SessionServer::NewStream(Call& call) {
  return std::make_unique<SessionStream>(*this, call);
}

void SessionServer::SessionEnded() {
  --open_sessions_;
  AwaitIdle();
}

void SessionServer::ConnectionEnded() {
  if (!options_.on_idle || connection_ended_.exchange(true)) return;
  options_.completion->Post([this] {
    connection_ended_.store(false);
    AwaitIdle();
  });
}

void SessionServer::AwaitIdle() {
  if (open_sessions_ > 0) return;
  tools_.Trim();
  internal::OperationTask::TrimThread();
  if (!options_.on_idle) return;
  // gRPC has not freed yet what the connection had. An alarm that is still set is cancelled.
  idle_alarm_ = std::make_unique<grpc::Alarm>();
  idle_alarm_->Set(absl::ToChronoTime(absl::Now() + kIdleDelay),
                   [idle = options_.on_idle](bool due) {
                     if (due) idle();
                   });
}

std::optional<absl::Duration> SessionServer::drain_left() const {
  absl::MutexLock lock(&mutex_);
  if (!drain_deadline_) return std::nullopt;
  return std::max(*drain_deadline_ - core().clock().Now(), absl::ZeroDuration());
}

void SessionServer::BeginDrain(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    if (drain_deadline_) return;
    drain_deadline_ = core().clock().Now() + timeout;
  }
  options_.completion->Post([this] {
    for (SessionStream* const stream : streams_) stream->BeginDrain();
  });
}

}  // namespace runloop::daemon
