#include "runloop/daemon/session_server.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "runloop/daemon/dispatcher_service.h"
#include "runloop/daemon/session_stream.h"

namespace runloop::daemon {
namespace {

constexpr absl::Duration kIdleDelay = absl::Seconds(1);

}  // namespace

SessionServer::SessionServer(SessionServerOptions options)
    : options_(std::move(options)),
      operations_(options_.core->operations().List()),
      log_(options_.log) {}

SessionServer::~SessionServer() { Shutdown(); }

void SessionServer::Start(DispatcherService* service,
                          std::unique_ptr<grpc::ServerCompletionQueue> queue) {
  service_ = service;
  queue_ = std::move(queue);
  waker_ = std::make_shared<SessionWaker>(queue_.get(), static_cast<CompletionTag*>(&wake_tag_));
  thread_ = std::thread([this] {
    Listen();
    Serve();
  });
}

void SessionServer::Serve() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) static_cast<CompletionTag*>(tag)->Complete(ok);
}

void SessionServer::Listen() {
  absl::MutexLock lock(&mutex_);
  if (stopped_) return;
  auto stream = std::make_unique<SessionStream>(*this);
  stream->Listen();
  SessionStream* const key = stream.get();
  streams_[key] = std::move(stream);
}

void SessionServer::Delete(SessionStream* stream) { streams_.erase(stream); }

void SessionServer::SessionEnded() {
  --open_sessions_;
  AwaitIdle();
}

void SessionServer::ConnectionEnded() {
  if (!options_.on_idle || connection_ended_.exchange(true)) return;
  waker_->Wake(nullptr);
}

void SessionServer::AwaitIdle() {
  if (open_sessions_ > 0 || !options_.on_idle) return;
  // gRPC has not freed yet what the connection had. An alarm that is still set is cancelled.
  idle_alarm_ = std::make_unique<grpc::Alarm>();
  idle_alarm_->Set(absl::ToChronoTime(absl::Now() + kIdleDelay),
                   [idle = options_.on_idle](bool due) {
                     if (due) idle();
                   });
}

void SessionServer::OnWake() {
  for (const std::shared_ptr<SessionOutbox>& outbox : waker_->Take()) {
    if (outbox->stream() != nullptr) outbox->stream()->OnOutcomes();
  }
  // After Take: what is set from then on wakes again.
  if (connection_ended_.exchange(false)) AwaitIdle();
  if (!drain_seen_ && drain_left()) {
    drain_seen_ = true;
    for (const auto& [stream, owned] : streams_) stream->BeginDrain();
  }
  {
    absl::MutexLock lock(&mutex_);
    if (!stopped_) return;
  }
  // On this thread, the only one that starts operations on the queue: none may be started after.
  waker_->Stop();
  for (const auto& [stream, owned] : streams_) stream->Abandon();
  queue_->Shutdown();
}

std::optional<absl::Duration> SessionServer::drain_left() const {
  absl::MutexLock lock(&mutex_);
  if (!drain_deadline_) return std::nullopt;
  return std::max(*drain_deadline_ - core().clock().Now(), absl::ZeroDuration());
}

void SessionServer::BeginDrain(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    if (drain_deadline_ || stopped_) return;
    drain_deadline_ = core().clock().Now() + timeout;
  }
  waker_->Wake(nullptr);
}

void SessionServer::Shutdown() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  waker_->Wake(nullptr);
  thread_.join();
}

}  // namespace runloop::daemon
