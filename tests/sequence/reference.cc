#include "runloop/tests/sequence/reference.h"

#include <algorithm>
#include <utility>

#include "runloop/tests/sequence/outcome_text.h"

namespace runloop::sequence {
namespace {

using State = Reference::State;

// A slice ends after a task that passes this (DrainBudget::time).
constexpr Millis kSliceTime = 4;

}  // namespace

Reference::Reference(const Setup& setup, std::function<void(int)> meanwhile)
    : setup_(setup), meanwhile_(std::move(meanwhile)) {}

Reference::Expected Reference::TakeExpected() { return std::exchange(expected_, {}); }

int Reference::Open(int user, Priority priority) {
  sessions_.push_back(
      {.id = static_cast<int>(sessions_.size()), .user = user, .priority = priority});
  if (draining_) {
    // Too late to hold anything, or to be waited for.
    sessions_.back().ended = true;
    sessions_.back().listed = false;
  }
  return sessions_.back().id;
}

void Reference::Advance(Millis by) {
  now_ += by;
  JoinDue();
  for (const int expired : TakeOut([&](const Invocation& of) { return of.deadline <= now_; })) {
    EndUnstarted(expired, OutcomeKind::kExpired, "expired");
  }
  for (const Invocation& known : invocations_) {
    if (known.state == State::kDeferred && known.deadline <= now_) {
      Finish(known.id, "ABORTED COMPLETION_DROPPED", "expired, deferred");
    }
  }
  if (watch_closing_ <= now_) {
    watch_closing_ = kNever;
    Push({.kind = Entry::Kind::kDestroyOverdue});
  }
}

// ---- running ----

void Reference::Push(Entry entry) {
  if (!stopped_) line_.Push(entry);
}

bool Reference::Run(int count) {
  if (running_ != kNone) return false;  // nothing runs inside of something else
  return RunSlice(count);
}

bool Reference::RunSlice(int count) {
  const Millis begin = now_;
  for (int ran = 0;; ++ran) {
    if (ran > 0 && (ran >= count || now_ - begin >= kSliceTime)) return true;
    if (line_.empty()) return false;
    RunEntry(line_.Pop());
  }
}

void Reference::RunEntry(const Entry& entry) {
  switch (entry.kind) {
    case Entry::Kind::kInvocation:
      return Start(entry.invocation);
    case Entry::Kind::kCloseSession:
      // What an operation that ran when the session ended has deferred since.
      AbortDeferred(entry.session, kSessionEnded, "session ended, deferred");
      sessions_[entry.session].closing = true;
      return CloseNext(entry.session);
    case Entry::Kind::kObjectClosed:
      if (objects_[entry.object].state != Object::State::kGone) Destroy(entry.object, kOk, "");
      if (sessions_[entry.session].closing) CloseNext(entry.session);
      return;
    case Entry::Kind::kReleaseGivenUp: {
      Session& session = sessions_[entry.session];
      session.releasing = false;
      const std::vector<int> held = session.objects;
      const std::set<int> given_up = std::exchange(session.given_up, {});
      for (auto object = held.rbegin(); object != held.rend(); ++object) {
        const Object& of = objects_[*object];
        if (of.state == Object::State::kHeld && given_up.contains(of.maker)) BeginClose(*object);
      }
      return;
    }
    case Entry::Kind::kDestroyOverdue:
      return DestroyOverdue();
  }
}

void Reference::Start(int invocation) {
  Invocation& started = invocations_[invocation];
  if (started.state == State::kEnded) {
    --stale_;
    return;
  }
  if (StopsWithBatch(invocation)) return;
  started.state = State::kRunning;
  --ledger_.queued;
  ++ledger_.running;
  if (started.session != kNone) {
    --sessions_[started.session].queued;
    ++sessions_[started.session].running;
  }
  Happens(Event::Kind::kStart, invocation);
  running_ = invocation;
  meanwhile_(invocation);
  Behave(started);
  running_ = kNone;
}

void Reference::Behave(Invocation& invocation) {
  const auto defer = [&] {
    invocation.state = State::kDeferred;
    --ledger_.running;
    ++ledger_.deferred;
  };
  switch (invocation.step.behaviour) {
    case Behaviour::kSucceed:
      return Finish(invocation.id, kOk, "succeeded");
    case Behaviour::kFail:
      return Finish(invocation.id, "PERMISSION_DENIED", "failed");
    case Behaviour::kThrow:
      return Finish(invocation.id, "INTERNAL HANDLER_THREW", "failed");
    case Behaviour::kDropCompletion:
      return Finish(invocation.id, "ABORTED COMPLETION_DROPPED", "failed");
    case Behaviour::kMake:
    case Behaviour::kMakeAndDefer: {
      const int object = NewObject(invocation.session, invocation.id, invocation.step.closes);
      invocation.object = object;
      const std::string kept = Keep(invocation.id, object);
      if (kept != kOk) return Finish(invocation.id, kept, "handles full");
      if (invocation.step.behaviour == Behaviour::kMake) {
        return Finish(invocation.id, kOk, "succeeded");
      }
      invocation.has_completion = true;
      return defer();
    }
    case Behaviour::kPublish: {
      invocation.item = next_item_;
      const int only = invocation.step.to_session ? invocation.session : kNone;
      const std::string published = Publish(invocation.step, only);
      return Finish(invocation.id, published, published == kOk ? "succeeded" : "failed");
    }
    case Behaviour::kDefer:
      invocation.has_completion = true;
      return defer();
    case Behaviour::kUse:
    case Behaviour::kRelease:
      break;
  }
  const bool use = invocation.step.behaviour == Behaviour::kUse;
  const bool known = invocation.object != kNone &&
                     objects_[invocation.object].session == invocation.session &&
                     objects_[invocation.object].state == Object::State::kHeld;
  if (!known || (use && invocation.step.whose == Whose::kOfOtherType)) {
    return Finish(invocation.id, kUnknownHandle, "unknown handle");
  }
  if (use) return Finish(invocation.id, kOk, "succeeded");
  objects_[invocation.object].releaser = invocation.id;
  BeginClose(invocation.object);
  if (invocation.state != State::kEnded) defer();
}

}  // namespace runloop::sequence
