// What operations and closures do when they run, and how those end that were deferred.

#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/driver.h"
#include "runloop/tests/sequence/operations.h"
#include "runloop/tests/sequence/outcome_text.h"

namespace runloop::sequence {

using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::RecordReply;
using test::v1::RecordRequest;

void Driver::RegisterOperations(OperationRegistry& registry) {
  const absl::Status at_once = registry.Register<EchoRequest, EchoReply>(
      kAtOnce, [this](OperationContext& context, EchoRequest request) -> absl::StatusOr<EchoReply> {
        const int id = std::stoi(request.text());
        const Running running(*this, id);
        if (absl::Status status = Behave(context, id); !status.ok()) return status;
        EchoReply reply;
        reply.set_text(request.text());
        return reply;
      });
  const absl::Status deferring = registry.RegisterDeferred<RecordRequest, RecordReply>(
      kDeferring, [this](OperationContext& context, const RecordRequest& request,
                         Completion<RecordReply> completion) {
        const int id = static_cast<int>(request.index());
        const Running running(*this, id);
        if (reference().invocation(id).step.behaviour == Behaviour::kDropCompletion) return;
        if (absl::Status status = Behave(context, id); !status.ok()) {
          completion.Finish(std::move(status));
        } else {
          completions_.emplace(id, std::move(completion));
        }
      });
  Expect(at_once.ok() && deferring.ok(), "an operation could not be registered");
}
Driver::Running::Running(Driver& driver, int id) : driver(driver) {
  driver.observed_.Starts(id);
  for (const Action& action : driver.script_.Meanwhile(id)) {
    driver.Perform(absl::MakeConstSpan(&action, 1));
  }
}

absl::Status Driver::Behave(OperationContext& context, int id) {
  const Reference::Invocation& invocation = reference().invocation(id);
  switch (invocation.step.behaviour) {
    case Behaviour::kFail:
      return absl::PermissionDeniedError("as it was told");
    case Behaviour::kThrow:
      throw std::runtime_error("as it was told");
    case Behaviour::kUse: {
      const Handle handle = HandleOf(invocation.object);
      const bool plain = invocation.object != kNone &&
                         reference().object(invocation.object).closes == Closes::kNoMethod;
      return plain != (invocation.step.whose == Whose::kOfOtherType)
                 ? context.session()->Find<PlainObject>(handle).status()
                 : context.session()->Find<ClosingObject>(handle).status();
    }
    case Behaviour::kPublish:
      // As below.
      if (invocation.item == kNone) return absl::OkStatus();
      return PublishItems({.latest = invocation.step.latest,
                           .first = invocation.item,
                           .count = invocation.step.count,
                           .item_bytes = invocation.step.item_bytes},
                          invocation.step.to_session ? context.session().get() : nullptr);
    case Behaviour::kMake:
    case Behaviour::kMakeAndDefer:
      // The model is ahead: it knows what this makes. Not so if this should not run at all.
      return invocation.object == kNone ? absl::OkStatus() : Keep(context, invocation.object);
    default:
      return absl::OkStatus();
  }
}

template <typename Keeper>
absl::Status Driver::Keep(Keeper& keeper, int object) {
  const Closes closes = reference().object(object).closes;
  const absl::StatusOr<Handle> handle =
      closes == Closes::kNoMethod
          ? keeper.Keep(std::make_unique<PlainObject>(observed_, object))
          : keeper.Keep(std::make_unique<ClosingObject>(observed_, duties_, object, closes));
  if (handle.ok()) handles_[object] = *handle;
  return handle.status();
}

Handle Driver::HandleOf(int object) const {
  const auto found = handles_.find(object);
  return found == handles_.end() ? Handle{1} << 40 : found->second;
}

void Driver::Complete(const Action& action) {
  auto found = completions_.extract(action.invocation);
  if (found.empty()) {
    return Expect(false, absl::StrCat("#", action.invocation, " has not been deferred"));
  }
  Completion<RecordReply>& completion = found.mapped();
  RecordReply reply;
  reply.set_position(static_cast<uint64_t>(action.invocation));
  switch (action.completing) {
    case Completing::kSucceed:
      return completion.Finish(std::move(reply));
    case Completing::kFail:
      return completion.Finish(absl::PermissionDeniedError("as it was told"));
    case Completing::kDrop:
      return;
    case Completing::kMake: {
      absl::Status kept = Keep(completion, action.object);
      ExpectAnswer(action, InWords(kept));
      if (kept.ok()) return completion.Finish(std::move(reply));
      return completion.Finish(std::move(kept));
    }
  }
}
}  // namespace runloop::sequence
