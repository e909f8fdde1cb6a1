// Sessions of RuntimeCore: what ends with them, what waits for that, and what there is to see.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// How long it is not looked again who holds most.
constexpr absl::Duration kLargestAge = absl::Milliseconds(10);
// When to try again to open a session.
constexpr absl::Duration kSessionRetry = absl::Seconds(1);

absl::Status SessionEndedError(const Session& session) {
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                   "the session has ended", {{"session", session.info().id}});
}

std::string InWords(const Session& session) {
  const Session::Info& info = session.info();
  return absl::StrCat("session ", info.id, " of '", info.client_name, "'",
                      info.peer.pid != 0 ? absl::StrCat(" (process ", info.peer.pid, ")") : "");
}

}  // namespace

std::shared_ptr<Account> RuntimeCore::UserOf(const Session::Info& info) {
  if (info.in_process) return nullptr;
  return lifecycle_.AccountOf(HolderOf(info.peer));
}

std::shared_ptr<Session> RuntimeCore::OpenSession(Session::Info info) {
  std::shared_ptr<Account> user = UserOf(info);
  absl::MutexLock lock(&sessions_mutex_);
  return AddSession(std::move(info), std::move(user));
}

absl::StatusOr<std::shared_ptr<Session>> RuntimeCore::OpenPeerSession(Session::Info info) {
  std::shared_ptr<Account> user = UserOf(info);
  const int64_t most = info.peer.role.empty() ? kMaxUserSessions : kMaxRoleSessions;
  if (!info.peer.role.empty()) info.priority = std::max(info.priority, role_priority_);
  absl::MutexLock lock(&sessions_mutex_);
  if (user->sessions() < most) return AddSession(std::move(info), std::move(user));
  absl::Status full = MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
      absl::StrCat(user->holder(), " has ", most,
                   " sessions that are open or being closed, as many as it may; try again when "
                   "some have ended"),
      {{"bound", user->holder()}, {"limit", absl::StrCat(most, " sessions")}});
  SetRetryDelay(full, kSessionRetry);
  return full;
}

std::shared_ptr<Session> RuntimeCore::AddSession(Session::Info info,
                                                 std::shared_ptr<Account> user) {
  if (info.id.empty()) info.id = absl::StrCat("s", next_session_++);
  if (info.start_time == absl::UnixEpoch()) info.start_time = absl::Now();
  std::shared_ptr<Session> session(
      new Session(weak_from_this(), std::move(info), user, bounds().session));
  if (draining_.load() || stopped()) {
    // Too late for it to hold anything, or to be waited for.
    session->ended_.store(true, std::memory_order_release);
    session->handles_.DestroyAll();
  } else {
    sessions_.push_back(session);
    if (user != nullptr) user->AddSession(1);
  }
  return session;
}

void RuntimeCore::SessionEnded(std::shared_ptr<Session> session) {
  buffers_->EndSession(*session);
  const bool draining = draining_.load();
  hub_.EndSession(*session,
                  draining ? MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                                       "the runtime is draining")
                           : SessionEndedError(*session),
                  // What waits for a peer counts in no bound once its session has ended.
                  /*drops=*/!draining && !session->info().in_process);
  AbandonQueued(session);
  AbortDeferred(session.get(), MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                                         "the session ended before the operation finished",
                                         {{"session", session->info().id}}));
  // If the queue is closed, Shutdown has taken what the session held.
  RunCleanup([this, session = std::move(session)] { CloseSession(session); });
}

void RuntimeCore::AbandonQueued(const std::shared_ptr<Session>& session) {
  const Lane* const lane = session->info().in_process ? nullptr : &session->lane_;
  const auto is_its = [&](Task& task) { return task.session == session && !task.is_cleanup; };
  EndDelayed(OutcomeKind::kAbandoned, session.get(), is_its);
  EndQueued(OutcomeKind::kAbandoned, lane, is_its);
}

void RuntimeCore::CloseSession(const std::shared_ptr<Session>& session) {
  // What an operation that was running then has deferred since.
  AbortDeferred(session.get(), MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                                         "the session ended before the operation finished",
                                         {{"session", session->info().id}}));
  session->handles_.CloseAll(*this, [this, weak = std::weak_ptr<Session>(session)] {
    const std::shared_ptr<Session> closed = weak.lock();
    {
      absl::MutexLock lock(&sessions_mutex_);
      if (std::erase(sessions_, closed) > 0 && closed->user_ != nullptr) {
        closed->user_->AddSession(-1);
      }
    }
    QuitIfDrained();
  });
}

void RuntimeCore::AbortDeferred(const Session* session, const absl::Status& why) {
  for (const std::shared_ptr<OperationTask>& task :
       deferred_.Find([&](const OperationTask& deferred) {
         return session == nullptr || deferred.session.get() == session;
       })) {
    task->Finish(why);
  }
}

void RuntimeCore::ExpireDeferred(absl::Time now) {
  for (const std::shared_ptr<OperationTask>& task :
       deferred_.Find([&](const OperationTask& deferred) { return deferred.deadline <= now; })) {
    task->Finish(MakeError(
        absl::StatusCode::kAborted, v1::ERROR_REASON_COMPLETION_DROPPED,
        absl::StrCat(task->operation->name(), " was deferred and did not finish by its deadline"),
        {{"operation", task->operation->name()}}));
  }
}

void RuntimeCore::AfterDeferral(const OperationTask& task) {
  if (task.deadline == absl::InfiniteFuture()) return;
  absl::MutexLock lock(&service_mutex_);
  if (task.deadline >= deferred_deadline_) return;
  deferred_deadline_ = task.deadline;
  service_changed_.Signal();
}

void RuntimeCore::AfterDeferred() { QuitIfDrained(); }

void RuntimeCore::WatchClosing(absl::Time deadline) {
  absl::MutexLock lock(&service_mutex_);
  if (deadline >= closing_deadline_) return;
  closing_deadline_ = deadline;
  service_changed_.Signal();
}

void RuntimeCore::DestroyOverdue() {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    absl::MutexLock lock(&sessions_mutex_);
    sessions = sessions_;
  }
  const absl::Time now = clock_->Now();
  for (const auto& session : sessions) {
    const absl::Time next = session->handles_.DestroyOverdue(*this, now);
    if (next != absl::InfiniteFuture()) WatchClosing(next);
  }
}

std::string RuntimeCore::LargestHolder(const Account* among, const Session* asks) const {
  if (among != nullptr && asks != nullptr && asks->account_.get() == among) {
    return absl::StrCat(InWords(*asks), ": ", among->held().items);
  }
  const absl::Time now = clock_->Now();
  std::shared_ptr<Session> largest;  // released outside the lock
  absl::MutexLock lock(&sessions_mutex_);
  const auto is_old = [&](const auto& known) { return now - known.second.looked >= kLargestAge; };
  absl::erase_if(largest_, is_old);
  const auto [known, unknown] = largest_.try_emplace(among == nullptr ? "" : among->holder());
  if (unknown) {
    int64_t most = 0;
    for (const std::shared_ptr<Session>& session : sessions_) {
      if (session->account_ == nullptr) continue;
      if (among != nullptr && session->user_.get() != among) continue;
      const int64_t items = session->account_->held().items;
      if (items > most) {
        most = items;
        largest = session;
      }
    }
    known->second = {.looked = now, .session = largest};
  } else {
    largest = known->second.session.lock();
  }
  const int64_t items = largest == nullptr ? 0 : largest->account_->held().items;
  if (items == 0) return "";
  // Who came in by a role is told nothing of others.
  const bool hide = asks != nullptr && asks != largest.get() && !asks->info().peer.role.empty();
  return absl::StrCat(hide ? "another session" : InWords(*largest), ": ", items);
}

// ---- looking ----

std::string_view RuntimeCore::NameOf(const CurrentTask::Look& look) {
  return look.active && look.operation != nullptr ? std::string_view(look.operation->name())
                                                  : "(closure)";
}

std::shared_ptr<Session> RuntimeCore::SessionOf(const CurrentTask::Look& look) const {
  if (look.session == nullptr) return nullptr;
  absl::MutexLock lock(&sessions_mutex_);
  const auto found = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& session) {
    return session.get() == look.session;
  });
  // Another may have its address by now.
  const bool still = found != sessions_.end() && current_.Read().version == look.version;
  return still ? *found : nullptr;
}

std::string RuntimeCore::CallSiteOf(const CurrentTask::Look& look, const Session* session) const {
  // Whose closure runs now may be another one's by now: near enough, and never gone.
  if (!look.active) return closure_call_site_.load(std::memory_order_acquire).ToString();
  return look.call_site.told() && session == nullptr ? "" : look.call_site.ToString();
}

Runtime::Snapshot RuntimeCore::GetThreadSnapshot() const {
  using State = Runtime::Snapshot::State;
  const absl::Time now = clock_->Now();
  Runtime::Snapshot snapshot;
  snapshot.loop = std::string(loop_->kind());
  snapshot.draining = draining_.load(std::memory_order_acquire);
  if (stopped()) {
    snapshot.state = State::kStopped;
    return snapshot;
  }
  if (!started_.load(std::memory_order_acquire)) {
    snapshot.state = State::kNotStarted;
    snapshot.notice = NotStartedNotice(now);
    return snapshot;
  }
  const CurrentTask::Look look = current_.Read();
  const int64_t closures_since = closures_since_.load();
  if (!look.active && closures_since == kNone) {
    snapshot.state = State::kIdle;
    return snapshot;
  }
  snapshot.state = State::kRunning;
  snapshot.current_age = now - (look.active ? look.since : absl::FromUnixNanos(closures_since));
  snapshot.current_operation = std::string(NameOf(look));
  const std::shared_ptr<Session> session = look.active ? SessionOf(look) : nullptr;
  snapshot.current_session = session;
  snapshot.current_call_site = CallSiteOf(look, session.get());
  if (look.active) snapshot.current_trace_id = UnpackTraceId(look.trace_id);
  if (snapshot.current_age >= stall_threshold_) {
    snapshot.state = State::kStalled;
    snapshot.notice = absl::StrCat(
        "the runtime thread is stalled: ", snapshot.current_operation,
        snapshot.current_session ? " of " + InWords(*snapshot.current_session) : "",
        snapshot.current_call_site.empty() ? "" : ", called at " + snapshot.current_call_site + ",",
        " has been running for ", absl::FormatDuration(snapshot.current_age));
  }
  return snapshot;
}

Runtime::Snapshot RuntimeCore::GetSnapshot() const {
  Runtime::Snapshot snapshot = GetThreadSnapshot();
  const absl::Time now = clock_->Now();
  const absl::Time oldest = queue_.OldestIntake(now);
  if (oldest != absl::InfiniteFuture()) snapshot.oldest_wait = now - oldest;
  constexpr size_t kNext = 8;
  queue_.LookAtFirst(now, kNext, [&](const Task* task, const ClosureNode* closure) {
    if (task == nullptr) {
      snapshot.next.push_back(
          {.operation = "(closure)", .call_site = closure->call_site().ToString()});
    } else if (!task->is_cleanup) {
      snapshot.next.push_back(Describe(*task));
      if (task->operation != nullptr) snapshot.next.back().queue_wait = now - task->posted_at;
    }
  });
  snapshot.waits_for = waits_.for_what();
  snapshot.ledger = lifecycle_.counts();
  snapshot.bounds = lifecycle_.GetBounds();
  snapshot.slow = slow_log_.count();
  snapshot.recent_slow = slow_log_.Recent();
  snapshot.topics = hub_.topics();
  {
    absl::MutexLock lock(&sessions_mutex_);
    snapshot.sessions.assign(sessions_.begin(), sessions_.end());
  }
  return snapshot;
}

}  // namespace runloop::internal
