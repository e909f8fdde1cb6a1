// How a SessionClient gets a session: when it tries, what it says, and what waits meanwhile.

#include <algorithm>
#include <utility>

#include "runloop/client/check_call.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/client/session_client.h"
#include "runloop/client/socket_watch.h"
#include "runloop/ipc/priority_codec.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr uint32_t kVersion = 1;
// How often a wait for a daemon that does not answer looks at what has become due.
constexpr absl::Duration kHandshakeSlice = absl::Milliseconds(100);

absl::Time Now() { return Clock::Monotonic()->Now(); }

// A daemon that had sessions and is still there listens.
bool NobodyListens(const Address& address) {
  const absl::StatusCode code = ConnectUnix(address).status().code();
  return code == absl::StatusCode::kNotFound || code == absl::StatusCode::kUnavailable;
}

}  // namespace

bool SessionClient::Connect() {
  SocketWatch watch(options_.address.path, wake_);
  while (WaitToTry(watch)) {
    const absl::Status status = TryConnect();
    if (status.ok()) return true;
    NoteFailure(status, watch);
  }
  return false;
}

bool SessionClient::WaitToTry(SocketWatch& watch) {
  while (true) {
    absl::Time until;
    {
      MutexLock lock(&mutex_);
      if (abandoned()) return false;
      if (std::exchange(wanted_, false)) schedule_.Wanted();
      if (schedule_.next() <= Now()) return true;
      until = std::min({schedule_.next(), backlog_.next_due(), close_deadline_});
      if (suspended_ != nullptr) until = std::min(until, resume_until_);
      if (!first_result_.has_value()) until = std::min(until, first_deadline_);
      sleeps_until_ = until;
    }
    if (watch.Wait(until) == SocketWatch::Event::kChanged) schedule_.Changed();
    {
      MutexLock lock(&mutex_);
      sleeps_until_ = absl::InfinitePast();
    }
    ExpireWaiting();
  }
}

v1::Hello SessionClient::NewHello() {
  v1::Hello hello;
  hello.mutable_versions()->set_min(kVersion);
  hello.mutable_versions()->set_max(kVersion);
  hello.set_client_name(options_.client_name);
  hello.set_resumable(options_.resumes);
  if (options_.priority != Priority::kDefault) hello.set_priority(ToProto(options_.priority));
  MutexLock lock(&mutex_);
  bool offers_ring = options_.offers_ring;
  if (suspended_ != nullptr) {
    hello.set_resume_token(suspended_->resume_token());
    hello.set_outcomes_received(suspended_->outcomes_received());
    // A ring would not take the messages of a stream, which are larger.
    offers_ring = offers_ring && suspended_->for_ring();
  }
  if (offers_ring) hello.add_transports(v1::TRANSPORT_RING);
  hello.add_transports(v1::TRANSPORT_STREAM);
  return hello;
}

absl::Status SessionClient::TryConnect() {
  v1::Hello hello = NewHello();
  const bool resumes = !hello.resume_token().empty();
  absl::StatusOr<std::shared_ptr<SessionStream>> stream =
      SessionStream::Start(options_.address, std::move(hello));
  if (!stream.ok()) return stream.status();
  {
    MutexLock lock(&mutex_);
    if (abandoned()) return NotConnected("the session was closed");
    stream_ = *stream;
  }
  const absl::Time deadline = Now() + options_.connect_timeout;
  std::optional<absl::Status> status;
  while (!(status = (*stream)->Handshake(std::min(deadline, Now() + kHandshakeSlice)))) {
    ExpireWaiting();
    MutexLock lock(&mutex_);
    if (Now() >= deadline || abandoned()) {
      status = NoAnswer(options_.address);
      break;
    }
  }
  if (status->ok() && !(*stream)->welcome().resumed()) LoseSuspended();
  if (status->ok()) {
    status = (*stream)->AttachRing(options_.attach_timeout, AttachUntil(deadline), mutex_);
  }
  if (status->ok()) status = BeginSession(resumes);
  if (!status->ok()) {
    MutexLock lock(&mutex_);
    stream_.reset();
  }
  return *std::move(status);
}

absl::Time SessionClient::AttachUntil(absl::Time deadline) {
  MutexLock lock(&mutex_);
  if (!first_result_.has_value()) deadline = std::min(deadline, first_deadline_);
  return std::min(deadline, backlog_.connect_until());
}

void SessionClient::NoteFailure(const absl::Status& status, SocketWatch& watch) {
  // It is tried at least once more when it is watched, for what came before.
  if (watch.Arm()) schedule_.Changed();
  const bool refused = !absl::IsUnavailable(status);
  schedule_.Failed(Now(), refused, watch.armed());
  // What is short here, such as descriptors, says nothing of the session.
  if ((refused && !absl::IsResourceExhausted(status)) || NobodyListens(options_.address)) {
    LoseSuspended();
  }
  Outcomes finished;
  {
    MutexLock lock(&mutex_);
    failure_ = status;
    if (refused) {
      if (!first_result_.has_value()) first_result_ = status;
      for (Backlog::Entry& entry : backlog_.TakeAll()) {
        finished.emplace_back(std::move(entry.invocation), status);
      }
    }
  }
  FinishAll(std::move(finished));
}

void SessionClient::ExpireWaiting() {
  bool late;
  {
    MutexLock lock(&mutex_);
    late = suspended_ != nullptr && resume_until_ <= Now();
  }
  if (late) LoseSuspended();
  Outcomes finished;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = Now();
    if (!first_result_.has_value() && first_deadline_ <= now) first_result_ = failure_;
    for (Backlog::Entry& entry : backlog_.TakeDue(now)) {
      absl::Status status = Expired();
      if (entry.deadline > now) {
        status = absl::IsUnavailable(failure_) ? NotConnected(std::string(failure_.message()))
                                               : failure_;
      }
      finished.emplace_back(std::move(entry.invocation), std::move(status));
    }
  }
  FinishAll(std::move(finished));
}

bool SessionClient::MayResume(const absl::Status& why) {
  // Others say that it would be the same again, such as a message that is too large.
  const v1::ErrorReason reason = ReasonOf(why);
  const bool cut = absl::IsUnavailable(why) && (reason == v1::ERROR_REASON_UNSPECIFIED ||
                                                reason == v1::ERROR_REASON_NOT_CONNECTED);
  MutexLock lock(&mutex_);
  return cut && violation_.ok() && !broken_off_ && session_->resumable() && !session_->draining();
}

bool SessionClient::SuspendSession(const absl::Status& why) {
  std::shared_ptr<SessionStream> stream;  // destroyed without the lock
  MutexLock lock(&mutex_);
  const bool writing = session_->writing();
  stream.swap(stream_);
  suspended_ = std::move(session_);
  subscriptions_.EndSession();
  // A connection that brought nothing has prolonged nothing.
  if (received_ || resume_until_ == absl::InfiniteFuture()) {
    resume_until_ = Now() + suspended_->resume_grace();
  }
  why_suspended_ = why;
  stream_ended_ = false;
  failure_ = NoAnswer(options_.address);
  return writing;
}

void SessionClient::LoseSuspended() {
  absl::Status why;
  {
    MutexLock lock(&mutex_);
    if (suspended_ == nullptr) return;
    why = why_suspended_;
  }
  bool writing;
  const std::optional<SessionLost> lost = EndSession(why, writing);
  {
    MutexLock lock(&mutex_);
    if (!lost.has_value() || !report_losses_) return;
  }
  options_.on_session_lost(*lost);
}

void SessionClient::AddFromBacklog(absl::Span<Backlog::Entry> entries, Outcomes& refused) {
  std::vector<std::shared_ptr<RemoteInvocation>> invocations;
  std::vector<RequestWriter::Dispatch> dispatches;
  for (Backlog::Entry& entry : entries) {
    invocations.push_back(entry.invocation);
    dispatches.push_back(std::move(entry.dispatch));
    dispatches.back().timeout = entry.deadline - session_began_;
  }
  const absl::Status status = dispatches.front().timeout <= absl::ZeroDuration()
                                  ? Expired()
                                  : session_->Add(invocations, absl::MakeSpan(dispatches));
  for (std::shared_ptr<RemoteInvocation>& invocation : invocations) {
    if (auto& extra = invocation->extra; extra != nullptr) {
      for (const Chain& chain : std::exchange(extra->waiting, {})) {
        session_->AddWaiting(*invocation, chain);
      }
    }
    if (!status.ok()) refused.emplace_back(std::move(invocation), status);
  }
}

absl::Status SessionClient::BeginSession(bool resumes) {
  Outcomes refused;
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    if (suspended_ != nullptr) {
      if (absl::Status resumed = suspended_->Resume(stream_->welcome()); !resumed.ok()) {
        return resumed;
      }
      session_ = std::move(suspended_);
      if (stream_->welcome().transport() == v1::TRANSPORT_RING && !stream_->has_ring()) {
        session_->SayWithoutRing();
      }
    } else if (stream_->welcome().resumed()) {
      // It was given up while the daemon did not answer.
      return resumes ? NotConnected("the session was given up before it was resumed")
                     : absl::InvalidArgumentError("the daemon resumes what was not asked for");
    } else {
      session_ = std::make_unique<OpenSession>(
          stream_->welcome(),
          stream_->has_ring() ? OpenSession::kRingMessageBytes : OpenSession::kMessageBytes);
      buffers_ = std::make_shared<SessionBuffers>(options_.address, stream_->welcome());
    }
    turn_taken_ = true;  // until Serve: what is refused here is not done before
    violation_ = absl::OkStatus();
    session_began_ = Now();
    received_ = false;
    if (!first_result_.has_value()) first_result_ = absl::OkStatus();
    wanted_ = false;
    // First, so that they hear of what the dispatches bring about.
    subscriptions_.BeginSession(stream_->welcome(), *session_);
    std::vector<Backlog::Entry> waiting = backlog_.TakeAll();
    for (absl::Span<Backlog::Entry> rest = absl::MakeSpan(waiting); !rest.empty();) {
      size_t count = 1;
      while (rest[0].batch != 0 && count < rest.size() && rest[count].batch == rest[0].batch) {
        ++count;
      }
      AddFromBacklog(rest.first(count), refused);
      rest.remove_prefix(count);
    }
    if (closing_) session_->Close();
    outgoing = NextOutgoing();
  }
  outgoing.Send();
  FinishAll(std::move(refused));
  return absl::OkStatus();
}

}  // namespace runloop::internal
