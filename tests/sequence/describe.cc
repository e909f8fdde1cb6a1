#include "runloop/tests/sequence/describe.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using Object = Reference::Object;

absl::string_view InWords(Closes closes) {
  switch (closes) {
    case Closes::kNoMethod:
      return "has no Close";
    case Closes::kAtOnce:
      return "closes at once";
    case Closes::kThrows:
      return "throws when it closes";
    case Closes::kLater:
      return "closes later";
    case Closes::kNever:
      return "never says that it is closed";
  }
  return "";
}

}  // namespace

const char* KindOf(const Invocation& invocation) {
  if (invocation.session == kNone) return "a closure";
  switch (invocation.step.behaviour) {
    case Behaviour::kSucceed:
      return "an operation that succeeds";
    case Behaviour::kFail:
      return "an operation that fails";
    case Behaviour::kThrow:
      return "an operation that throws";
    case Behaviour::kDropCompletion:
      return "an operation that drops its completion";
    case Behaviour::kMake:
      return "an operation that makes an object";
    case Behaviour::kUse:
      return "an operation that uses an object";
    case Behaviour::kRelease:
      return "an operation that releases a handle";
    case Behaviour::kDefer:
      return "an operation that defers";
    case Behaviour::kMakeAndDefer:
      return "an operation that makes an object and defers";
  }
  return "";
}

std::string Describe(const Action& action, const Reference& reference) {
  const std::string session = absl::StrCat("s", action.session + 1);
  const std::string invocation = absl::StrCat("#", action.invocation);
  const auto object_in_words = [&](int object) {
    if (object == kNone) return std::string("a handle never given");
    const Object& of = reference.object(object);
    return absl::StrCat("o", object, " of s", of.session + 1);
  };
  std::string text;
  switch (action.kind) {
    case StepKind::kOpen: {
      const int user = reference.session(action.session).user;
      text = absl::StrCat("open ", session, " of ", user == kInProcess ? "the host" : kUsers[user]);
      break;
    }
    case StepKind::kDispatch:
    case StepKind::kClosure: {
      const Invocation& of = reference.invocation(action.invocation);
      text = absl::StrCat("hand over ", invocation, ", ", KindOf(of),
                          of.session == kNone ? "" : absl::StrCat(", in ", session));
      if (of.step.delay != 0) absl::StrAppend(&text, ", delay ", of.step.delay);
      if (of.session == kNone) {
        if (of.step.behaviour == Behaviour::kThrow) absl::StrAppend(&text, " that throws");
        break;
      }
      absl::StrAppend(&text, ", ", of.step.bytes, " bytes");
      if (of.deadline != kNever) absl::StrAppend(&text, ", deadline ", of.deadline);
      if (of.step.key != 0) absl::StrAppend(&text, ", key ", of.step.key);
      if (of.step.behaviour == Behaviour::kUse || of.step.behaviour == Behaviour::kRelease) {
        absl::StrAppend(&text, ", ", object_in_words(of.object),
                        of.step.whose == Whose::kOfOtherType ? " taken for another type" : "");
      } else if (of.step.behaviour == Behaviour::kMake ||
                 of.step.behaviour == Behaviour::kMakeAndDefer) {
        absl::StrAppend(&text, " which ", InWords(of.step.closes));
      }
      break;
    }
    case StepKind::kCancelTimer:
      text = absl::StrCat("cancel the timer of ", invocation);
      break;
    case StepKind::kCancel:
      text = absl::StrCat("cancel ", invocation);
      break;
    case StepKind::kGiveUp:
      text = absl::StrCat("give up ", invocation);
      break;
    case StepKind::kForget:
      text = absl::StrCat("forget the result of ", invocation);
      break;
    case StepKind::kKill:
      text = absl::StrCat(action.worker_goes ? "the worker goes: end " : "end ", session);
      break;
    case StepKind::kComplete: {
      constexpr const char* kHow[] = {"finish", "finish with an error", "drop the completion of",
                                      "make an object and finish"};
      text = absl::StrCat(kHow[static_cast<int>(action.completing)], " ", invocation);
      if (action.object != kNone) {
        absl::StrAppend(&text, "; o", action.object, " ",
                        InWords(reference.object(action.object).closes));
      }
      break;
    }
    case StepKind::kFinishClosing:
      text = absl::StrCat("say that ", object_in_words(action.object), " is closed");
      break;
    case StepKind::kAdvance:
      text = absl::StrCat("advance the clock by ", action.time);
      break;
    case StepKind::kRun:
      text = absl::StrCat("run ", action.count, " tasks");
      break;
    case StepKind::kBeginDrain:
      text = "begin to drain";
      break;
    case StepKind::kDrain:
      text = absl::StrCat("drain for ", action.time);
      break;
    case StepKind::kStop:
      text = "stop";
      break;
    case StepKind::kCut:
      text = absl::StrCat("cut the connection of ", session,
                          action.count == 0   ? " with the next request"
                          : action.count == 1 ? " with the answer to the next request"
                                              : " with what it was to hear");
      break;
    case StepKind::kDisconnect:
      text = absl::StrCat("the worker sends no more in ", session);
      break;
    case StepKind::kFill:
      break;  // made of others
  }
  if (action.elsewhere) absl::StrAppend(&text, ", from another thread");
  if (!action.answer.empty()) absl::StrAppend(&text, " -> ", action.answer);
  return text;
}

std::string Describe(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kStart:
      return absl::StrCat("#", event.id, " starts");
    case Event::Kind::kClose:
      return absl::StrCat("o", event.id, " closes");
    case Event::Kind::kDestroy:
      return absl::StrCat("o", event.id, " is destroyed");
  }
  return "";
}

std::string Describe(const std::vector<Event>& events) {
  return events.empty() ? "nothing"
                        : absl::StrJoin(events, ", ", [](std::string* out, const Event& event) {
                            absl::StrAppend(out, Describe(event));
                          });
}

}  // namespace runloop::sequence
