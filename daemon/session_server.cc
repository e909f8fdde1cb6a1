#include "runloop/daemon/session_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/daemon/session_stream.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

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
      tools_(options_.max_unfinished),
      grace_watch_([this](const std::string& id, const absl::Status& why) {
        options_.completion->Post([this, id, why] { EndDetached(id, why); });
      }) {}

SessionServer::~SessionServer() {
  for (const auto& [id, detached] : detached_) detached.protocol->End();
}

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

// Has outcomes of a detached session gathered. The server may be gone by then.
class SessionServer::Waker final : public SessionOutbox::Waker {
 public:
  Waker(SessionServer* server, std::shared_ptr<CompletionThread> completion, std::string session_id)
      : server_(server), completion_(std::move(completion)), session_id_(std::move(session_id)) {}

  void OnOutcomes() override {
    completion_->Post([server = server_, id = session_id_] { server->Gather(id); });
  }

 private:
  SessionServer* const server_;  // what is posted is not run any more when it has gone
  const std::shared_ptr<CompletionThread> completion_;
  const std::string session_id_;
};

void SessionServer::Detach(std::unique_ptr<SessionProtocol> protocol,
                           std::shared_ptr<const UniqueFd> process) {
  const std::string id = protocol->session()->info().id;
  protocol->session()->SetTransport(
      {.name = "none",
       .why = absl::StrCat("its connection was lost; it can be resumed within ",
                           absl::FormatDuration(options_.resume_grace))});
  protocol->outbox().SetWaker(std::make_shared<Waker>(this, options_.completion, id));
  detached_[id] = {.protocol = std::move(protocol), .process = process};
  if (!grace_watch_.Add(id, std::move(process),
                        Clock::Monotonic()->Now() + options_.resume_grace)) {
    return EndDetached(id, absl::ResourceExhaustedError("no thread is left to watch over it"));
  }
  Gather(id);
}

void SessionServer::Gather(const std::string& session_id) {
  const auto found = detached_.find(session_id);
  if (found == detached_.end()) return;
  SessionProtocol& protocol = *found->second.protocol;
  do {
    protocol.Gather(tools_);
    if (protocol.unsent_bytes() > SessionProtocol::kMaxUnsentBytes) {
      return EndDetached(session_id, absl::ResourceExhaustedError(absl::StrCat(
                                         "more than ", SessionProtocol::kMaxUnsentBytes,
                                         " bytes of outcomes wait for it")));
    }
    EndLargest(HolderOf(protocol.session()->info().peer));
    if (!detached_.contains(session_id)) return;
  } while (!protocol.outbox().Sleep());
}

void SessionServer::EndLargest(const std::string& holder) {
  size_t all = 0, most = 0;
  std::string largest;
  for (const auto& [id, each] : detached_) {
    if (HolderOf(each.protocol->session()->info().peer) != holder) continue;
    const size_t held = each.protocol->held_bytes();
    all += held;
    if (held <= most) continue;
    most = held;
    largest = id;
  }
  if (all <= kMostDetachedBytes) return;
  EndDetached(largest,
              absl::ResourceExhaustedError(absl::StrCat("of the sessions of ", holder,
                                                        " that wait for their workers, which hold ",
                                                        all, " bytes of outcomes, it holds most")));
}

bool SessionServer::MayDetach(const Session& session) const {
  const std::string holder = HolderOf(session.info().peer);
  const auto of_holder = std::count_if(detached_.begin(), detached_.end(), [&](const auto& each) {
    return HolderOf(each.second.protocol->session()->info().peer) == holder;
  });
  return static_cast<size_t>(of_holder) < kMostDetached;
}

Resumed SessionServer::TakeOver(const Session& session) {
  if (const auto found = detached_.find(session.info().id); found != detached_.end()) {
    Resumed resumed = std::move(found->second);
    detached_.erase(found);
    grace_watch_.Remove(session.info().id);
    return resumed;
  }
  for (SessionStream* const stream : streams_) {
    if (stream->session() == &session) return stream->HandOver();
  }
  return {};
}

void SessionServer::EndDetached(const std::string& session_id, const absl::Status& why) {
  const auto found = detached_.find(session_id);
  if (found == detached_.end()) return;  // it was resumed just now
  const std::unique_ptr<SessionProtocol> protocol = std::move(found->second.protocol);
  detached_.erase(found);
  grace_watch_.Remove(session_id);
  log_.Warn(absl::StrCat("ended session ", session_id, " of process ",
                         protocol->session()->info().peer.pid,
                         ", whose connection was lost: ", why.message()));
  EndSession(*protocol);
}

void SessionServer::EndSession(SessionProtocol& protocol) {
  options_.callers->RemoveSession(*protocol.session());
  protocol.End();
  SessionEnded();
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
