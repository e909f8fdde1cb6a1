#include "runloop/client/session_client.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr uint32_t kVersion = 1;
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(20);
constexpr absl::Duration kLongestBackoff = absl::Milliseconds(500);
// A message gathers no more than this, so that a flood keeps both ends busy.
constexpr size_t kBatchBytes = size_t{1} << 20;
// What the smallest dispatch counts against the bound on unfinished bytes.
constexpr size_t kLeastCharge = 64;
constexpr size_t kLongestName = 512;

thread_local const SessionClient* current_client = nullptr;

// What can be a method's full name. Nothing else may get into a message, where text has to be
// UTF-8.
bool IsOperationName(const std::string& name) {
  return name.size() <= kLongestName && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '.' || c == '/';
         });
}

absl::Status Expired() {
  return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_EXPIRED,
                   "the deadline passed before the operation started; it never runs");
}

absl::Status Cancelled() {
  return MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED,
                   "cancelled before it was sent; it never runs");
}

// What the operation takes, if its generated code is linked in here too; else null, and the daemon
// has to tell.
const google::protobuf::Descriptor* RequestType(const std::string& operation) {
  struct Known {
    std::string operation;
    const google::protobuf::Descriptor* type = nullptr;
  };
  thread_local Known last;  // a flood asks for the same one again and again
  if (last.type != nullptr && last.operation == operation) return last.type;
  std::string name = operation;
  std::replace(name.begin(), name.end(), '/', '.');
  const google::protobuf::MethodDescriptor* method =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name);
  if (method == nullptr) return nullptr;
  last = {operation, method->input_type()};
  return last.type;
}

absl::Status CheckCall(const DispatchTarget::Call& call) {
  if (!IsOperationName(call.operation)) {
    return MakeError(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
                     "no operation can have this name; write package.Service/Method");
  }
  const google::protobuf::Descriptor* type = RequestType(call.operation);
  if (type != nullptr && type != call.request->GetDescriptor() &&
      type->full_name() != call.request->GetTypeName()) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     absl::StrCat(call.operation, " takes a ", type->full_name(), ", not a ",
                                  call.request->GetTypeName()));
  }
  if (!call.request->IsInitialized()) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     absl::StrCat("required fields of the request are not set: ",
                                  call.request->InitializationErrorString()));
  }
  if (call.timeout <= absl::ZeroDuration()) return Expired();
  return absl::OkStatus();
}

// What an outcome says; OK with a status in it is not one.
absl::StatusOr<absl::StatusOr<Reply>> ReadOutcome(v1::Outcome& outcome) {
  switch (outcome.result_case()) {
    case v1::Outcome::kReply:
      return Reply{.bytes = std::move(*outcome.mutable_reply())};
    case v1::Outcome::kStatus: {
      absl::Status status = FromProto(outcome.status());
      if (!status.ok()) return absl::StatusOr<Reply>(std::move(status));
      break;
    }
    case v1::Outcome::RESULT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("an outcome without result");
}

}  // namespace

std::shared_ptr<SessionClient> SessionClient::Start(Options options) {
  std::shared_ptr<SessionClient> client(new SessionClient(std::move(options)));
  // Signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  client->thread_ = std::thread([client] { client->Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return client;
}

SessionClient::SessionClient(Options options) : options_(std::move(options)) {}

absl::Status SessionClient::WaitUntilConnected() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &SessionClient::left_connecting));
  return connect_status_;
}

bool SessionClient::OnClientThread() const { return current_client == this; }

std::shared_ptr<RemoteInvocation> SessionClient::Dispatch(DispatchTarget::Call call) {
  auto invocation = std::make_shared<RemoteInvocation>(weak_from_this(), call.reply_wanted);
  absl::Status refusal = CheckCall(call);
  Outgoing outgoing;
  if (refusal.ok()) {
    RequestBatch::Dispatch dispatch{.operation_name = std::move(call.operation),
                                    .timeout = call.timeout,
                                    .reply_wanted = call.reply_wanted,
                                    .request = SerializeToSlice(*call.request)};
    absl::MutexLock lock(&mutex_);
    refusal = Admit(invocation, std::move(dispatch));
    outgoing = NextOutgoing();
  }
  outgoing.Send();
  if (!refusal.ok()) invocation->Finish(std::move(refusal));
  return invocation;
}

absl::Status SessionClient::Admit(const std::shared_ptr<RemoteInvocation>& invocation,
                                  RequestBatch::Dispatch dispatch) {
  const size_t charge = std::max(dispatch.request.size(), kLeastCharge);
  if (unfinished_.bytes() + static_cast<int64_t>(charge) > options_.max_unfinished_bytes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
        absl::StrCat("this client has ", unfinished_.bytes(),
                     " bytes of requests unfinished, the bound is ", options_.max_unfinished_bytes,
                     ": await some, or raise max_unfinished_bytes"),
        {{"limit", absl::StrCat(options_.max_unfinished_bytes)}});
  }
  const uint64_t id = last_id_ + 1;
  dispatch.invocation_id = id;
  switch (state_) {
    case State::kOpen:
      if (absl::Status status = Append(dispatch, unfinished_.size()); !status.ok()) return status;
      break;
    case State::kDraining:
      return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                       "the daemon is draining and takes no new work; try again once it is back");
    case State::kIdle:
      state_ = State::kConnecting;
      [[fallthrough]];
    case State::kConnecting: {
      const absl::Time deadline = Clock::Monotonic()->Now() + dispatch.timeout;
      waiting_.push_back({.dispatch = std::move(dispatch), .deadline = deadline});
      break;
    }
    case State::kStopped:
      return NotConnected("the session was closed");
  }
  last_id_ = id;
  invocation->id = id;
  invocation->charge = charge;
  unfinished_.Add(invocation);
  return absl::OkStatus();
}

absl::Status SessionClient::Append(RequestBatch::Dispatch& dispatch, size_t unfinished) {
  const auto known = operation_ids_.find(dispatch.operation_name);
  dispatch.operation_id = known == operation_ids_.end() ? 0 : known->second;
  const size_t size = RequestBatch::SizeOf(dispatch);
  if (limits_.max_message_bytes() != 0 && size > limits_.max_message_bytes()) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                     absl::StrCat("a message of ", size, " bytes; the daemon takes at most ",
                                  limits_.max_message_bytes()),
                     {{"limit", absl::StrCat(limits_.max_message_bytes())}});
  }
  if (limits_.max_unfinished() != 0 && unfinished >= limits_.max_unfinished()) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
        absl::StrCat("this session has ", unfinished,
                     " invocations unfinished, as many as the daemon allows: await some"),
        {{"limit", absl::StrCat(limits_.max_unfinished())}});
  }
  BatchFor(size).AddDispatch(dispatch);
  return absl::OkStatus();
}

RequestBatch& SessionClient::BatchFor(size_t bytes) {
  size_t bound = kBatchBytes;
  if (limits_.max_message_bytes() != 0) {
    bound = std::min<uint64_t>(bound, limits_.max_message_bytes());
  }
  if (batches_.empty() || batches_.back().size() + bytes > bound) batches_.emplace_back();
  return batches_.back();
}

SessionClient::Outgoing SessionClient::NextOutgoing() {
  Outgoing outgoing;
  if (writing_ || (state_ != State::kOpen && state_ != State::kDraining)) return outgoing;
  if (!batches_.empty()) {
    RequestBatch batch = std::move(batches_.front());
    batches_.pop_front();
    last_sent_id_ = std::max(last_sent_id_, batch.last_id());
    outgoing.message = std::move(batch).Take();
  } else if (closing_ && !half_closed_) {
    half_closed_ = true;
    outgoing.half_close = true;
  } else {
    return outgoing;
  }
  writing_ = true;
  outgoing.stream = stream_;
  return outgoing;
}

void SessionClient::Outgoing::Send() {
  if (stream == nullptr) return;
  if (half_close) {
    stream->HalfClose();
  } else {
    stream->Write(message);
  }
}

void SessionClient::Cancel(RemoteInvocation& invocation) {
  Outgoing outgoing;
  std::shared_ptr<RemoteInvocation> unsent;
  {
    absl::MutexLock lock(&mutex_);
    if (invocation.cancel_sent || !unfinished_.Contains(invocation.id)) return;
    if (state_ == State::kConnecting) {
      unsent = unfinished_.Take(invocation.id);
    } else if ((state_ == State::kOpen || state_ == State::kDraining) && !half_closed_) {
      invocation.cancel_sent = true;
      BatchFor(0).AddCancel(invocation.id);
      outgoing = NextOutgoing();
    }
  }
  outgoing.Send();
  if (unsent != nullptr) unsent->Finish(Cancelled());
}

void SessionClient::Close(absl::Duration timeout) {
  Outgoing outgoing;
  std::shared_ptr<SessionStream> to_cancel;
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    close_deadline_ = Clock::Monotonic()->Now() + timeout;
    outgoing = NextOutgoing();
    if (state_ == State::kConnecting && abandoned()) to_cancel = stream_;
  }
  outgoing.Send();
  if (to_cancel != nullptr) to_cancel->Cancel();
  if (OnClientThread()) {
    thread_.detach();
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(this, &SessionClient::stopped), timeout)) {
      close_timed_out_ = true;
      to_cancel = stream_;
    }
  }
  if (to_cancel != nullptr) to_cancel->Cancel();
  thread_.join();
}

void SessionClient::Run() {
  current_client = this;
  while (WaitForWork()) {
    if (absl::Status status = Connect(); status.ok()) {
      Serve();
    } else {
      EndSession(status, status);
    }
  }
  absl::MutexLock lock(&mutex_);
  state_ = State::kStopped;
}

bool SessionClient::WaitForWork() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &SessionClient::has_work));
  return state_ == State::kConnecting && !abandoned();
}

absl::Status SessionClient::Connect() {
  const absl::Time deadline = Clock::Monotonic()->Now() + options_.connect_timeout;
  absl::Duration backoff = kFirstBackoff;
  while (true) {
    absl::Status status = TryConnect(deadline);
    if (!absl::IsUnavailable(status)) return status;
    ExpireWaiting();
    const absl::Duration left = deadline - Clock::Monotonic()->Now();
    if (left <= absl::ZeroDuration()) return status;
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(this, &SessionClient::abandoned),
                                std::min(backoff, left))) {
      return status;
    }
    // Tried once more, it would say that the daemon does not answer.
    if (Clock::Monotonic()->Now() >= deadline) return status;
    backoff = std::min(2 * backoff, kLongestBackoff);
  }
}

absl::Status SessionClient::TryConnect(absl::Time deadline) {
  v1::Hello hello;
  hello.mutable_versions()->set_min(kVersion);
  hello.mutable_versions()->set_max(kVersion);
  hello.set_client_name(options_.client_name);
  hello.add_transports(v1::TRANSPORT_STREAM);
  absl::StatusOr<std::shared_ptr<SessionStream>> stream =
      SessionStream::Start(options_.address, std::move(hello));
  if (!stream.ok()) return stream.status();
  {
    absl::MutexLock lock(&mutex_);
    if (abandoned()) return NotConnected("the session was closed");
    stream_ = *stream;
  }
  absl::Status status = (*stream)->Handshake(deadline);
  if (status.ok()) {
    BeginSession();
  } else {
    absl::MutexLock lock(&mutex_);
    stream_.reset();
  }
  return status;
}

void SessionClient::BeginSession() {
  Finished refused;
  Outgoing outgoing;
  {
    absl::MutexLock lock(&mutex_);
    const v1::Welcome& welcome = stream_->welcome();
    state_ = State::kOpen;
    connect_status_ = absl::OkStatus();
    half_closed_ = false;
    limits_ = welcome.limits();
    operation_ids_.clear();
    for (const v1::OperationId& operation : welcome.operations()) {
      operation_ids_[operation.name()] = operation.id();
    }
    const absl::Time now = Clock::Monotonic()->Now();
    size_t sent = 0;
    for (Waiting& waiting : waiting_) {
      RequestBatch::Dispatch& dispatch = waiting.dispatch;
      if (!unfinished_.Contains(dispatch.invocation_id)) continue;  // cancelled meanwhile
      dispatch.timeout = waiting.deadline - now;
      absl::Status status =
          dispatch.timeout <= absl::ZeroDuration() ? Expired() : Append(dispatch, sent);
      if (status.ok()) {
        ++sent;
      } else {
        refused.emplace_back(unfinished_.Take(dispatch.invocation_id), std::move(status));
      }
    }
    waiting_.clear();
    outgoing = NextOutgoing();
  }
  outgoing.Send();
  FinishAll(std::move(refused));
}

void SessionClient::Serve() {
  std::shared_ptr<SessionStream> stream;
  {
    absl::MutexLock lock(&mutex_);
    stream = stream_;
  }
  absl::Status violation;
  bool ended = false;
  while (true) {
    absl::Time deadline;
    {
      absl::MutexLock lock(&mutex_);
      if (ended && !writing_) return;
      deadline = ended ? absl::InfiniteFuture() : close_deadline_;
    }
    switch (stream->Next(deadline)) {
      case SessionStream::Event::kMessage:
        if (absl::Status status = Receive(stream->message()); !status.ok() && violation.ok()) {
          violation = std::move(status);
          stream->Cancel();
        }
        break;
      case SessionStream::Event::kWritten:
        Written();
        break;
      case SessionStream::Event::kTimeout: {
        stream->Cancel();
        absl::MutexLock lock(&mutex_);
        close_deadline_ = absl::InfiniteFuture();
        break;
      }
      case SessionStream::Event::kEnded: {
        ended = true;
        const absl::Status& why = violation.ok() ? stream->end_status() : violation;
        const std::string detail = why.ok() ? "" : absl::StrCat(" (", why.message(), ")");
        const std::string address = options_.address.ToString();
        EndSession(
            MakeError(absl::StatusCode::kUnknown, v1::ERROR_REASON_SESSION_LOST,
                      absl::StrCat("the session with the daemon at ", address, " was lost", detail,
                                   ": the operation may or may not have run")),
            NotConnected(absl::StrCat("the session with the daemon at ", address, " was lost",
                                      detail, " before the operation was sent: try again")));
        break;
      }
    }
  }
}

void SessionClient::Written() {
  Outgoing outgoing;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    outgoing = NextOutgoing();
  }
  outgoing.Send();
}

absl::Status SessionClient::Receive(v1::SessionResponse& message) {
  absl::Status violation;
  Finished finished;
  {
    absl::MutexLock lock(&mutex_);
    for (v1::Outcome& outcome : *message.mutable_outcomes()) {
      absl::StatusOr<absl::StatusOr<Reply>> result = ReadOutcome(outcome);
      if (!result.ok()) {
        violation = result.status();
      } else if (outcome.invocation_id() == 0 || outcome.invocation_id() > last_sent_id_) {
        violation = absl::InvalidArgumentError(absl::StrCat(
            "an outcome for invocation ", outcome.invocation_id(), ", which was not sent"));
      } else if (auto invocation = unfinished_.Take(outcome.invocation_id());
                 invocation != nullptr) {
        finished.emplace_back(std::move(invocation), *std::move(result));
      }
    }
    Unfinished::Invocations succeeded;
    if (absl::Status status = unfinished_.TakeRanges(message.succeeded(), last_sent_id_, succeeded);
        !status.ok()) {
      violation = std::move(status);
    }
    for (std::shared_ptr<RemoteInvocation>& invocation : succeeded) {
      if (invocation->reply_wanted) {
        violation = absl::InvalidArgumentError("a reply that was asked for did not come");
        finished.emplace_back(std::move(invocation), violation);
      } else {
        finished.emplace_back(std::move(invocation), Reply{});
      }
    }
    if (message.has_draining() && state_ == State::kOpen) state_ = State::kDraining;
  }
  FinishAll(std::move(finished));
  return violation;
}

void SessionClient::EndSession(const absl::Status& sent, const absl::Status& unsent) {
  Unfinished::Invocations lost;
  uint64_t last_sent_id;
  // Destroyed without the lock.
  std::shared_ptr<SessionStream> stream;
  std::deque<RequestBatch> batches;
  std::deque<Waiting> waiting;
  {
    absl::MutexLock lock(&mutex_);
    if (state_ == State::kConnecting) connect_status_ = unsent;
    state_ = State::kIdle;
    lost = unfinished_.TakeAll();
    last_sent_id = last_sent_id_;
    stream.swap(stream_);
    batches.swap(batches_);
    waiting.swap(waiting_);
  }
  for (const std::shared_ptr<RemoteInvocation>& invocation : lost) {
    invocation->Finish(invocation->id <= last_sent_id ? sent : unsent);
  }
}

void SessionClient::ExpireWaiting() {
  Finished expired;
  {
    absl::MutexLock lock(&mutex_);
    const absl::Time now = Clock::Monotonic()->Now();
    for (const Waiting& waiting : waiting_) {
      const uint64_t id = waiting.dispatch.invocation_id;
      if (waiting.deadline > now || !unfinished_.Contains(id)) continue;
      expired.emplace_back(unfinished_.Take(id), Expired());
    }
  }
  FinishAll(std::move(expired));
}

void SessionClient::FinishAll(Finished finished) {
  for (auto& [invocation, outcome] : finished) invocation->Finish(std::move(outcome));
}

}  // namespace runloop::internal
