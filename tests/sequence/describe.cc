#include "runloop/tests/sequence/describe.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runloop/runtime/strings.h"

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

std::string ObjectInWords(int object, const Reference& reference) {
  if (object == kNone) return "a handle never given";
  return absl::StrCat("o", object, " of s", reference.object(object).session + 1);
}

// What is said of a priority, if it is not the default one.
std::string InWords(Priority priority) {
  return priority == Priority::kDefault ? "" : absl::StrCat(", ", View(NameOf(priority)));
}

// Of a dispatch or closure: what its kind does not tell.
std::string Details(const Invocation& of, const Reference& reference) {
  std::string text;
  if (of.step.delay != 0) absl::StrAppend(&text, ", delay ", of.step.delay);
  if (of.session == kNone) {
    absl::StrAppend(&text, InWords(of.step.priority));
    if (of.step.behaviour == Behaviour::kThrow) absl::StrAppend(&text, " that throws");
    return text;
  }
  absl::StrAppend(&text, ", ", of.step.bytes, " bytes");
  if (of.deadline != kNever) absl::StrAppend(&text, ", deadline ", of.deadline);
  if (of.step.key != 0) absl::StrAppend(&text, ", key ", of.step.key);
  if (of.step.behaviour == Behaviour::kUse || of.step.behaviour == Behaviour::kRelease) {
    absl::StrAppend(&text, ", ", ObjectInWords(of.object, reference),
                    of.step.whose == Whose::kOfOtherType ? " taken for another type" : "");
  } else if (of.step.behaviour == Behaviour::kPublish) {
    absl::StrAppend(&text, ", ", of.step.count, " of ", of.step.item_bytes, " bytes",
                    of.step.latest ? ", the newest" : "",
                    of.step.to_session ? ", to its session" : "");
  } else if (of.step.behaviour == Behaviour::kMake ||
             of.step.behaviour == Behaviour::kMakeAndDefer) {
    absl::StrAppend(&text, " which ", InWords(of.step.closes));
  }
  return text;
}

std::string InWords(const Publication& items) {
  return absl::StrCat(items.count == 1 ? "item " : "items ", items.first,
                      items.count == 1 ? "" : absl::StrCat(" to ", items.first + items.count - 1),
                      items.latest ? " (newest)" : "", " of ", items.item_bytes, " bytes");
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
    case Behaviour::kPublish:
      return "an operation that publishes";
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
  std::string text;
  switch (action.kind) {
    case StepKind::kOpen: {
      const int user = reference.session(action.session).user;
      text = absl::StrCat("open ", session, " of ", user == kInProcess ? "the host" : kUsers[user],
                          InWords(reference.session(action.session).priority));
      break;
    }
    case StepKind::kDispatch:
    case StepKind::kClosure: {
      const Invocation& of = reference.invocation(action.invocation);
      text = absl::StrCat("hand over ", invocation, ", ", KindOf(of),
                          of.session == kNone ? "" : absl::StrCat(", in ", session));
      absl::StrAppend(&text, Details(of, reference));
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
      text = absl::StrCat("say that ", ObjectInWords(action.object, reference), " is closed");
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
                          action.cut == Cut::kRequest    ? " with the next request"
                          : action.cut == Cut::kResponse ? " with the answer to the next request"
                                                         : " with what it was to hear");
      break;
    case StepKind::kDisconnect:
      text = absl::StrCat("the worker sends no more in ", session);
      break;
    case StepKind::kBatch: {
      text = absl::StrCat("hand over a batch in ", session,
                          action.stop_at_failure ? ", which stops at a failure" : "",
                          action.flaw == Flaw::kUnknown ? ", one of it unknown"
                          : action.flaw == Flaw::kKey   ? ", one of it with a key"
                                                        : "",
                          ": ");
      for (int i = 0; i < action.count; ++i) {
        const Invocation& of = reference.invocation(action.invocation + i);
        absl::StrAppend(&text, i == 0 ? "#" : "; #", of.id, ", ", KindOf(of),
                        Details(of, reference),
                        of.step.meanwhile.empty() ? "" : ", while more happens");
      }
      break;
    }
    case StepKind::kSubscribe:
      text = absl::StrCat(
          "subscribe n", action.subscription, " to ",
          reference.subscription(action.subscription).latest ? "the newest" : "every one", ", in ",
          session,
          action.room == Room::kFewItems   ? ", room for few"
          : action.room == Room::kFewBytes ? ", room for few bytes"
                                           : "");
      break;
    case StepKind::kUnsubscribe:
      text = absl::StrCat("end n", action.subscription, " of ", session);
      break;
    case StepKind::kPublish:
      text = absl::StrCat("publish ", InWords(action.publication),
                          action.session == kNone ? "" : absl::StrCat(", to ", session));
      break;
    case StepKind::kTake:
      text = absl::StrCat("take ", action.count, " from n", action.subscription);
      break;
    case StepKind::kFill:
      break;  // made of others
  }
  if (action.elsewhere) absl::StrAppend(&text, ", from another thread");
  if (!action.answer.empty()) absl::StrAppend(&text, " -> ", action.answer);
  return text;
}

std::string DescribeTaken(const std::vector<Note>& taken, uint64_t dropped,
                          const std::string& status) {
  std::string text = absl::StrJoin(taken, ", ", [](std::string* out, const Note& note) {
    absl::StrAppend(out, "item ", note.item, " as ", note.sequence);
    if (note.dropped > 0) absl::StrAppend(out, " after ", note.dropped, " dropped");
    if (note.gap) absl::StrAppend(out, " after a gap");
  });
  if (taken.empty()) text = "nothing";
  if (dropped > 0) absl::StrAppend(&text, "; ", dropped, " dropped in all");
  if (!status.empty()) absl::StrAppend(&text, "; no more: ", status);
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
