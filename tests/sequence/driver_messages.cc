// Steps as messages of a worker, and what it hears.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/durations.h"
#include "runloop/tests/sequence/driver.h"
#include "runloop/tests/sequence/outcome_text.h"

namespace runloop::sequence {
namespace {

// A field that nobody knows, of so many bytes in all, at least 3 and less than 16,000.
std::string Padding(size_t bytes) {
  constexpr char kTag = (15 << 3) | 2;
  const size_t left = bytes - 3;
  // A length of two bytes, whether it needs both or not.
  std::string field = {kTag, static_cast<char>(left % 128 + 128), static_cast<char>(left / 128)};
  return field + std::string(left, 'x');
}

}  // namespace

bool Driver::CallByMessage(absl::Span<const Action> actions, MessageSession& messages) {
  const Action& action = actions.front();
  switch (action.kind) {
    case StepKind::kDispatch:
      DispatchByMessage(actions, messages);
      return true;
    case StepKind::kBatch:
      DispatchBatchByMessage(action, messages);
      return true;
    case StepKind::kCancel:
      ExpectAnswer(action, CancelByMessage(action.invocation, false, messages) == kCancelled
                               ? "it never runs"
                               : "it had started");
      return true;
    case StepKind::kGiveUp: {
      const std::string told = CancelByMessage(action.invocation, true, messages);
      ExpectAnswer(action, told == kCancelled      ? "it never runs"
                           : told == kStillRunning ? "it still runs"
                                                   : "it has ended");
      return true;
    }
    case StepKind::kForget:
      Expect(CancelByMessage(action.invocation, true, messages).empty(),
             absl::StrCat("#", action.invocation, " has ended, and is told once more"));
      return true;
    case StepKind::kCut:
      messages.CutNext(action.cut);
      return true;
    case StepKind::kSubscribe:
      SubscribeByMessage(action, messages);
      return true;
    case StepKind::kUnsubscribe:
      UnsubscribeByMessage(action, messages);
      return true;
    case StepKind::kDisconnect:
      HearOf(messages);
      messages.EndRequests();
      return true;
    case StepKind::kKill: {
      HearOf(messages);
      if (!action.worker_goes) return false;
      messages.Leave(!action.work_is_done);
      messages_.erase(action.session);
      return true;
    }
    default:
      return false;
  }
}

void Driver::DispatchByMessage(absl::Span<const Action> actions, MessageSession& messages) {
  v1::SessionRequest request;
  for (const Action& action : actions) FillDispatch(action.invocation, *request.add_dispatches());
  // Now and then somebody else waits for the first of them, too, wherever that is.
  if (const int first = actions.front().invocation; first % 7 == 3) {
    v1::Waiting& waiting = *request.add_waiting();
    waiting.set_invocation_id(NumberOf(first));
    v1::ChainLink& link = *waiting.add_chain();
    link.set_runtime_id("elsewhere");
    link.set_operation("some.Service/Waits");
  }
  std::map<int, std::string> told = Say(messages, request);
  for (const Action& action : actions) {
    // What it was refused for is heard as its outcome.
    const auto refused = told.extract(action.invocation);
    ExpectAnswer(action, refused.empty() ? "queued" : refused.mapped());
  }
  for (const auto& [id, outcome] : told) observed_.Outcome(id, outcome);
}

void Driver::FillDispatch(int id, v1::Dispatch& dispatch) {
  const Reference::Invocation& invocation = reference().invocation(id);
  const Operation* const operation = core().operations().Find(NameOf(invocation));
  dispatch.set_invocation_id(NumberOf(id));
  const std::vector<const Operation*>& known = server_->terms().operations;
  if (id % 5 == 0) {
    dispatch.set_operation_name(operation->name());
  } else {
    dispatch.set_operation_id(
        static_cast<uint32_t>(std::find(known.begin(), known.end(), operation) - known.begin()) +
        1);
  }
  std::string& request = *dispatch.mutable_request();
  request = NewRequest(invocation)->SerializeAsString();
  request += Padding(static_cast<size_t>(invocation.step.bytes) - request.size());
  if (invocation.deadline != kNever) {
    *dispatch.mutable_timeout() = daemon::ToProto(absl::Milliseconds(invocation.step.deadline));
  }
  if (invocation.step.key != 0) dispatch.set_coalesce_key(absl::StrCat(invocation.step.key));
  if (invocation.step.delay != 0) {
    *dispatch.mutable_delay() = daemon::ToProto(absl::Milliseconds(invocation.step.delay));
  }
  dispatch.set_reply_wanted(id % 3 != 0);
}

std::string Driver::CancelByMessage(int id, bool give_up, MessageSession& messages) {
  v1::SessionRequest request;
  v1::Cancel& cancel = *request.add_cancels();
  cancel.set_invocation_id(NumberOf(id));
  cancel.set_give_up(give_up);
  const std::map<int, std::string> told = Say(messages, request);
  for (const auto& [of, outcome] : told) observed_.Outcome(of, outcome);
  const auto found = told.find(id);
  return found == told.end() ? "" : found->second;
}

std::map<int, std::string> Driver::Say(MessageSession& messages,
                                       const v1::SessionRequest& request) {
  HearOf(messages);
  std::map<int, std::string> told;
  for (const MessageSession::Outcome& outcome : messages.Say(request)) {
    const int id = static_cast<int>(outcome.id) - 1;
    ExpectReply(id, outcome);
    const auto [first, is_first] = told.emplace(id, InWords(outcome.status));
    Expect(is_first, absl::StrCat("#", id, " has two outcomes, ", first->second, " and ",
                                  InWords(outcome.status)));
  }
  return told;
}

void Driver::Heard(const std::vector<MessageSession::Outcome>& outcomes) {
  for (const MessageSession::Outcome& outcome : outcomes) {
    const int id = static_cast<int>(outcome.id) - 1;
    observed_.Outcome(id, InWords(outcome.status));
    ExpectReply(id, outcome);
  }
}

void Driver::HearOf(MessageSession& messages) { Heard(messages.Hear()); }

void Driver::HearAll() {
  for (const auto& [session, messages] : messages_) HearOf(*messages);
}

void Driver::ExpectReply(int id, const MessageSession::Outcome& outcome) {
  if (!outcome.reply.has_value()) return;
  const Operation* const operation = core().operations().Find(NameOf(reference().invocation(id)));
  const std::unique_ptr<google::protobuf::Message> reply(
      google::protobuf::MessageFactory::generated_factory()
          ->GetPrototype(operation->method().output_type())
          ->New());
  Expect(reply->ParseFromString(*outcome.reply), absl::StrCat("#", id, " got no valid reply"));
  ExpectReply(id, *reply);
}
}  // namespace runloop::sequence
