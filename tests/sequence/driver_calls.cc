// Steps as calls of the runtime, as a transport or the host makes them.

#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"
#include "runloop/tests/sequence/driver.h"
#include "runloop/tests/sequence/operations.h"
#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/v1/handles.pb.h"

namespace runloop::sequence {

using internal::RuntimeCore;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::RecordReply;
using test::v1::RecordRequest;

void Driver::Open(const Action& action) {
  const int user = reference().session(action.session).user;
  Session::Info info{.client_name = "sequence", .transport = "test"};
  info.priority = reference().session(action.session).priority;
  if (user == kInProcess) {
    info.in_process = true;
  } else if (user == 2) {
    info.peer.role = "camera";
  } else {
    info.peer.uid = 1000 + static_cast<uint32_t>(user);
  }
  if (server_ == nullptr || user == kInProcess) {
    sessions_.push_back(core().OpenSession(std::move(info)));
    return;
  }
  sessions_.push_back(*core().OpenPeerSession(std::move(info)));
  std::unique_ptr<MessageSession> messages = server_->Open(sessions_.back());
  Expect((messages == nullptr) == reference().session(action.session).ended,
         "a session opens that has ended, or does not though it could");
  if (messages != nullptr) messages_.emplace(action.session, std::move(messages));
}

void Driver::BeginDrain(absl::Duration left) {
  core().BeginDrain();
  for (const auto& [session, messages] : messages_) messages->BeginDrain(left);
}

uint64_t Driver::NumberOf(int invocation) {
  return reference().session(SessionOf(invocation)).in_process()
             ? 0
             : static_cast<uint64_t>(invocation) + 1;
}

std::string_view Driver::NameOf(const Reference::Invocation& invocation) {
  switch (invocation.step.behaviour) {
    case Behaviour::kRelease:
      return kRelease;
    case Behaviour::kDefer:
    case Behaviour::kMakeAndDefer:
    case Behaviour::kDropCompletion:
      return kDeferring;
    default:
      return kAtOnce;
  }
}

std::unique_ptr<google::protobuf::Message> Driver::NewRequest(
    const Reference::Invocation& invocation) const {
  const std::string_view name = NameOf(invocation);
  if (name == kRelease) {
    auto request = std::make_unique<v1::ReleaseRequest>();
    request->set_handle(HandleOf(invocation.object));
    return request;
  }
  if (name == kDeferring) {
    auto request = std::make_unique<RecordRequest>();
    request->set_index(static_cast<uint64_t>(invocation.id));
    return request;
  }
  auto request = std::make_unique<EchoRequest>();
  request->set_text(absl::StrCat(invocation.id));
  return request;
}

RuntimeCore::Call Driver::CallOf(int id) {
  const Reference::Invocation& invocation = reference().invocation(id);
  RuntimeCore::Call call;
  call.operation = core().operations().Find(NameOf(invocation));
  call.request = NewRequest(invocation);
  call.request_bytes = static_cast<size_t>(invocation.step.bytes);
  call.session = sessions_[invocation.session];
  if (invocation.deadline != kNever) {
    call.deadline = clock_.Now() + absl::Milliseconds(invocation.step.deadline);
  }
  if (invocation.step.key != 0) call.coalesce_key = absl::StrCat(invocation.step.key);
  call.number = NumberOf(id);
  call.sink = sink_;
  call.ticket = static_cast<uint64_t>(id);
  call.delay = absl::Milliseconds(invocation.step.delay);
  return call;
}

void Driver::Dispatch(const Action& action) {
  const int id = action.invocation;
  RuntimeCore::Call call = CallOf(id);
  absl::StatusOr<std::shared_ptr<internal::OperationTask>> task;
  if (call.coalesce_key.empty() && call.delay == absl::ZeroDuration() && id % 2 == 0) {
    RuntimeCore::Group group(core(), call.session, core().clock().Now());
    task = group.Dispatch(std::move(call));
  } else {
    task = core().Dispatch(std::move(call));
  }
  if (task.ok()) tasks_[id] = *task;
  ExpectAnswer(action, task.ok() ? "queued" : InWords(task.status()));
}

void Driver::PostClosure(const Action& action) {
  const int id = action.invocation;
  auto captured = std::make_unique<Captured>(observed_, closures_alive_);
  Captured* const watched = captured.get();
  // Refused, it is destroyed here, wherever this is.
  watched->admitted = action.answer == "queued";
  auto closure = [this, id, captured = std::move(captured)] {
    const Running running(*this, id);
    if (reference().invocation(id).step.behaviour == Behaviour::kThrow) {
      throw std::runtime_error("as it was told");
    }
  };
  absl::Status posted;
  const Step& step = reference().invocation(id).step;
  const LocalRuntimeContext context = runtime_->context().WithPriority(step.priority);
  if (step.delay == 0) {
    posted = context.RunOnRuntimeThreadAsync(std::move(closure));
  } else {
    absl::StatusOr<Timer> timer =
        context.RunAfter(absl::Milliseconds(step.delay), std::move(closure));
    posted = timer.status();
    if (timer.ok()) timers_.emplace(id, *std::move(timer));
  }
  ExpectAnswer(action, posted.ok() ? "queued" : InWords(posted));
}

void Driver::Deliver(internal::OperationTask& task) {
  const int id = static_cast<int>(task.ticket());
  const absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply = task.TakeOutcome();
  observed_.Outcome(id, InWords(reply.status()));
  if (reply.ok()) ExpectReply(id, **reply);
}

void Driver::ExpectReply(int id, const google::protobuf::Message& reply) {
  std::string of = absl::StrCat(id);
  if (const auto* at_once = dynamic_cast<const EchoReply*>(&reply)) {
    of = at_once->text();
  } else if (const auto* deferred = dynamic_cast<const RecordReply*>(&reply)) {
    of = absl::StrCat(deferred->position());
  }
  Expect(of == absl::StrCat(id), absl::StrCat("#", id, " got the reply of #", of));
}
}  // namespace runloop::sequence
