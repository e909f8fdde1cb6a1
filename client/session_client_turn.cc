// Whose turn it is to read what the daemon sends, and what the thread does that has it.

#include <algorithm>
#include <utility>

#include "runloop/client/session_client.h"
#include "runloop/runtime/clock.h"

namespace runloop::internal {
namespace {

// How long the client's thread leaves the turn to threads that wait, after one of them had it. It
// is woken once in so long while they come and go, not once a call.
constexpr absl::Duration kLeftToWaiters = absl::Milliseconds(1);
// How long a thread reads before it looks whether its invocation was finished by something that did
// not come from the daemon, such as a cancel before it was sent.
constexpr absl::Duration kLookAgain = absl::Milliseconds(100);
// How many invocations ahead of the one that is finished are fetched.
constexpr size_t kAhead = 16;

absl::Time Now() { return Clock::Monotonic()->Now(); }

}  // namespace

void SessionClient::Serve() {
  std::shared_ptr<SessionStream> stream;
  {
    MutexLock lock(&mutex_);
    stream = stream_;
    // BeginSession had it.
    turn_taken_ = false;
    if (!sleepers_.empty()) PassTurn();
  }
  while (true) {
    OwnWork work = AwaitOwnWork();
    RunWatchers(std::move(work.watched));
    if (work.late) {
      MutexLock lock(&mutex_);
      broken_off_ = true;
    }
    if (work.late) stream->Cancel();
    if (work.stream_ended) break;  // and the turn is kept
    if (!work.has_turn) continue;
    const SessionStream::Event event = stream->Next(work.deadline, false);
    if (event == SessionStream::Event::kEnded) break;  // and the turn is kept
    Handle(event, *stream);
    MutexLock lock(&mutex_);
    turn_taken_ = false;
    if (!sleepers_.empty()) PassTurn();
  }
  absl::Status why = stream->end_status();
  {
    MutexLock lock(&mutex_);
    if (!violation_.ok()) why = violation_;
  }
  bool received;
  {
    MutexLock lock(&mutex_);
    received = received_;
  }
  // One that has brought something was no attempt that failed.
  schedule_.SessionEnded(Now(), received ? absl::InfinitePast() : session_began_);
  bool writing;
  std::optional<SessionLost> lost;
  if (MayResume(why)) {
    writing = SuspendSession(why);
  } else {
    lost = EndSession(why, writing);
  }
  // A ring has no writes that end by themselves.
  while (writing && !stream->has_ring()) {
    const SessionStream::Event event = stream->Next(absl::InfiniteFuture());
    writing =
        event != SessionStream::Event::kWritten && event != SessionStream::Event::kWriteFailed;
  }
  {
    MutexLock lock(&mutex_);
    turn_taken_ = false;
    if (!lost.has_value() || !report_losses_) return;
  }
  options_.on_session_lost(*lost);
}

SessionClient::OwnWork SessionClient::AwaitOwnWork() {
  OwnWork work;
  MutexLock lock(&mutex_);
  while (true) {
    const absl::Time now = Now();
    work.watched.swap(watched_);
    work.stream_ended = stream_ended_;
    if (close_deadline_ <= now) {
      work.late = true;
      close_deadline_ = absl::InfiniteFuture();
    }
    if (work.stream_ended || work.late || !work.watched.empty()) return work;
    if (std::exchange(turn_used_, false)) turn_left_until_ = now + kLeftToWaiters;
    if (!turn_taken_ && turn_left_until_ <= now) {
      turn_taken_ = true;
      work.has_turn = true;
      work.deadline = close_deadline_;
      return work;
    }
    const absl::Time until =
        turn_taken_ ? close_deadline_ : std::min(close_deadline_, turn_left_until_);
    awaits_turn_ = turn_taken_;
    if (until == absl::InfiniteFuture()) {
      own_thread_.Wait(&mutex_);
    } else {
      own_thread_.WaitWithTimeout(&mutex_, until - now);
    }
    awaits_turn_ = false;
  }
}

void SessionClient::Handle(SessionStream::Event event, SessionStream& stream) {
  switch (event) {
    case SessionStream::Event::kMessage:
      Receive(stream);
      break;
    case SessionStream::Event::kWritten:
      Written();
      break;
    case SessionStream::Event::kRoom:
      if (stream.Flush()) Written();
      break;
    case SessionStream::Event::kWriteFailed: {
      MutexLock lock(&mutex_);
      if (session_ != nullptr) session_->WriteFailed();
      break;
    }
    case SessionStream::Event::kTimeout:
    case SessionStream::Event::kEnded:
      break;
  }
}

void SessionClient::Written() {
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    if (session_ != nullptr) session_->Written();
    outgoing = NextOutgoing();
  }
  outgoing.Send();
}

void SessionClient::Receive(SessionStream& stream) {
  OpenSession::Finished finished;
  Outgoing outgoing;
  RemoteSubscriptions::Queues to_wake;
  bool violated = false;
  {
    MutexLock lock(&mutex_);
    received_ = true;
    absl::Status violation = session_->Receive(stream.message(), finished);
    violation.Update(subscriptions_.Receive(stream.message(), to_wake));
    if (!violation.ok() && violation_.ok()) {
      violation_ = std::move(violation);
      violated = true;
    } else if (violation.ok()) {
      outgoing = NextOutgoing();  // that something was received
    }
  }
  if (violated) stream.Cancel();
  for (const auto& queue : to_wake) queue->Wake();
  outgoing.Send();
  std::vector<Watched> watched;
  for (auto& [invocation, outcome] : finished.outcomes) {
    absl::Status status = outcome.status();
    InvocationState::Watchers watchers = invocation->FinishWithoutWatchers(std::move(outcome));
    if (!watchers.empty()) watched.push_back({std::move(watchers), std::move(status)});
  }
  for (size_t i = 0; i < finished.succeeded.size(); ++i) {
    // Another thread has made them.
    if (i + kAhead < finished.succeeded.size()) {
      __builtin_prefetch(finished.succeeded[i + kAhead].get(), 1);
    }
    InvocationState::Watchers watchers = finished.succeeded[i]->SucceedWithoutWatchers();
    if (!watchers.empty()) watched.push_back({std::move(watchers), absl::OkStatus()});
    finished.succeeded[i].reset();
  }
  if (watched.empty()) return;
  // Callbacks run on the client's thread, all of them.
  if (OnClientThread()) return RunWatchers(std::move(watched));
  MutexLock lock(&mutex_);
  std::move(watched.begin(), watched.end(), std::back_inserter(watched_));
  own_thread_.Signal();
}

void SessionClient::Post(absl::AnyInvocable<void() &&> closure) {
  Watched watched;
  watched.watchers.push_back(
      [closure = std::move(closure)](const absl::Status&) mutable { std::move(closure)(); });
  MutexLock lock(&mutex_);
  watched_.push_back(std::move(watched));
  own_thread_.Signal();
}

void SessionClient::RunWatched() {
  while (true) {
    std::vector<Watched> watched;
    {
      MutexLock lock(&mutex_);
      watched.swap(watched_);
    }
    if (watched.empty()) return;
    RunWatchers(std::move(watched));
  }
}

void SessionClient::RunWatchers(std::vector<Watched> watched) {
  for (Watched& each : watched) {
    for (auto& watcher : each.watchers) std::move(watcher)(each.outcome);
  }
}

void SessionClient::BringOutcome(RemoteInvocation& invocation, absl::Time deadline,
                                 std::shared_ptr<SessionStream> turn, absl::Time now) {
  if (turn == nullptr) {
    if (OnClientThread()) return;
    if (OnARuntimeThread() || deadline == absl::InfinitePast()) {
      MutexLock lock(&mutex_);
      turn_used_ = false;
      turn_left_until_ = absl::InfinitePast();
      if (!turn_taken_) own_thread_.Signal();
      return;
    }
    turn = AwaitTurn(invocation, deadline, std::nullopt);
    now = Now();
  }
  while (turn != nullptr) {
    bool ended = false;
    while (!ended && !invocation.done() && now < deadline) {
      const SessionStream::Event event = turn->Next(std::min(deadline, now + kLookAgain));
      ended = event == SessionStream::Event::kEnded;
      Handle(event, *turn);
      if (!invocation.done()) now = Now();
    }
    turn = AwaitTurn(invocation, deadline, ended);
    if (turn != nullptr) now = Now();
  }
}

std::shared_ptr<SessionStream> SessionClient::TakeTurn() {
  if (turn_taken_ || session_ == nullptr) return nullptr;
  turn_taken_ = true;
  return stream_;
}

void SessionClient::EndTurn(bool stream_ended) {
  if (!stream_ended) {
    turn_taken_ = false;
    return;
  }
  stream_ended_ = true;  // and the turn goes with it
  own_thread_.Signal();
}

std::shared_ptr<SessionStream> SessionClient::AwaitTurn(RemoteInvocation& invocation,
                                                        absl::Time deadline,
                                                        std::optional<bool> ended) {
  MutexLock lock(&mutex_);
  if (ended.has_value()) EndTurn(*ended);
  // Who neither had it nor slept has kept nobody from it: looking again and again must not, either.
  bool pass = ended.has_value();
  absl::Time now;
  while (!invocation.done() && (now = Now()) < deadline) {
    if (std::shared_ptr<SessionStream> turn = TakeTurn()) return turn;
    if (stream_ != nullptr) stream_->Hurry();  // it reads until the outcome has come
    Sleeper sleeper{.invocation = invocation, .wake = {}};
    sleepers_.push_back(&sleeper);
    invocation.awaited = true;
    pass = true;
    if (!invocation.done()) sleeper.wake.WaitWithTimeout(&mutex_, deadline - now);
    sleepers_.erase(std::find(sleepers_.begin(), sleepers_.end(), &sleeper));
  }
  if (pass && !turn_taken_ && session_ != nullptr) PassTurn();
  return nullptr;
}

void SessionClient::PassTurn() {
  turn_used_ = true;
  if (!sleepers_.empty()) {
    sleepers_.front()->wake.Signal();
  } else if (awaits_turn_) {
    own_thread_.Signal();
  }
}

void SessionClient::WakeSleepers(const RemoteInvocation& invocation) {
  MutexLock lock(&mutex_);
  for (Sleeper* const sleeper : sleepers_) {
    if (&sleeper->invocation == &invocation) sleeper->wake.Signal();
  }
}

}  // namespace runloop::internal
