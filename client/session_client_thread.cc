// A SessionClient's own thread, from its start to its end, and how a session ends on it.

#include <pthread.h>
#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/client/session_client.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

thread_local const SessionClient* current_client = nullptr;

absl::Time Now() { return Clock::Monotonic()->Now(); }

}  // namespace

absl::StatusOr<std::shared_ptr<SessionClient>> SessionClient::Start(Options options) {
  std::shared_ptr<SessionClient> client(new SessionClient(std::move(options)));
  if (absl::Status status = client->wake_.status(); !status.ok()) return status;
  // Signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  client->thread_ = std::thread([client] { client->Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return client;
}

bool SessionClient::OnClientThread() const { return current_client == this; }

void SessionClient::Run() {
  current_client = this;
  while (Connect()) {
    Serve();
    RunWatched();
  }
  LoseSuspended();
  Outcomes rest;
  std::vector<std::shared_ptr<RemoteSubscription>> subscriptions;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    subscriptions = subscriptions_.TakeAll();
    for (Backlog::Entry& entry : backlog_.TakeAll()) {
      rest.emplace_back(std::move(entry.invocation), NotConnected("the session was closed"));
    }
  }
  FinishAll(std::move(rest));
  for (const auto& subscription : subscriptions) {
    if (subscription->queue()->End(NotConnected("the session was closed"))) {
      subscription->queue()->Wake();
    }
  }
}

bool SessionClient::abandoned() const {
  const bool done =
      backlog_.size() == 0 && (suspended_ == nullptr || suspended_->unfinished().size() == 0);
  return closing_ && (done || broken_off_ || Now() >= close_deadline_);
}

std::optional<SessionLost> SessionClient::EndSession(const absl::Status& why, bool& writing) {
  const std::string what =
      absl::StrCat("the session with the daemon at ", options_.address.ToString(), " was lost",
                   why.ok() ? "" : absl::StrCat(" (", std::string(why.message()), ")"));
  // A daemon that drains ends the stream only when all that it took has its outcome: what was on
  // its way to it never ran.
  const bool drained = ReasonOf(why) == v1::ERROR_REASON_DRAINING;
  SessionLost lost;
  OpenSession::Rest rest;
  bool to_report;
  // Destroyed without the lock.
  std::unique_ptr<OpenSession> session;
  std::shared_ptr<SessionStream> stream;
  std::shared_ptr<SessionBuffers> buffers;
  {
    MutexLock lock(&mutex_);
    if (session_ != nullptr) stream.swap(stream_);
    session.swap(session_ != nullptr ? session_ : suspended_);
    resume_until_ = absl::InfiniteFuture();
    buffers.swap(buffers_);
    stream_ended_ = false;
    subscriptions_.EndSession();
    rest = session->TakeRest();
    writing = session->writing();
    const bool settled = rest.sent.empty() && rest.unsent.empty();
    lost.session_id = session->id();
    lost.why =
        drained || (settled && session->draining())
            ? MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                        absl::StrCat("the daemon at ", options_.address.ToString(), " drained"))
            : MakeError(absl::StatusCode::kUnknown, v1::ERROR_REASON_SESSION_LOST, what);
    failure_ = NoAnswer(options_.address);
    to_report = options_.on_session_lost != nullptr && !(closing_ && settled);
    if (!drained) lost.unknown.reserve(rest.sent.size());
    for (std::shared_ptr<RemoteInvocation>& invocation : rest.sent) {
      if (drained) break;
      lost.unknown.push_back(
          {.id = invocation->id, .operation = session->OperationOf(*invocation)});
    }
  }
  buffers->End();
  const absl::Status sent =
      drained ? MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                          absl::StrCat(what,
                                       " before it took the operation, which never ran: try "
                                       "again once it is back"))
              : MakeError(absl::StatusCode::kUnknown, v1::ERROR_REASON_SESSION_LOST,
                          absl::StrCat(what, ": the operation may or may not have run"));
  const absl::Status unsent =
      NotConnected(absl::StrCat(what, " before the operation was sent: try again"));
  if (to_report && options_.before_session_lost) options_.before_session_lost();
  for (const auto& invocation : rest.sent) invocation->Finish(sent);
  for (const auto& invocation : rest.unsent) invocation->Finish(unsent);
  if (!to_report) return std::nullopt;
  return lost;
}

void SessionClient::FinishAll(Outcomes outcomes) {
  for (auto& [invocation, outcome] : outcomes) invocation->Finish(std::move(outcome));
}

void SessionClient::Close(absl::Duration timeout) {
  Outgoing outgoing;
  std::shared_ptr<SessionStream> to_cancel;
  {
    MutexLock lock(&mutex_);
    closing_ = true;
    close_deadline_ = Now() + timeout;
    own_thread_.Signal();
    if (OnClientThread()) report_losses_ = false;
    if (session_ != nullptr) {
      session_->Close();
      outgoing = NextOutgoing();
    } else if (abandoned()) {
      to_cancel = stream_;
    }
  }
  wake_.Signal();
  outgoing.Send();
  if (to_cancel != nullptr) std::exchange(to_cancel, nullptr)->Cancel();
  if (OnClientThread()) {
    thread_.detach();
    return;
  }
  {
    MutexLock lock(&mutex_);
    const auto stopped = [this] {
      mutex_.AssertHeld();
      return stopped_;
    };
    if (!mutex_.AwaitWithTimeout(stopped, timeout)) {
      close_deadline_ = Now();
      broken_off_ = true;
      own_thread_.Signal();
      to_cancel = stream_;
    }
  }
  wake_.Signal();
  if (to_cancel != nullptr) to_cancel->Cancel();
  thread_.join();
}

}  // namespace runloop::internal
