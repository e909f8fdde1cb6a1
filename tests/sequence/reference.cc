#include "runloop/tests/sequence/reference.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop::sequence {
namespace {

using State = Reference::State;

// A slice ends after a task that passes this (DrainBudget::time).
constexpr Millis kSliceTime = 4;
constexpr int kSliceTasks = 4096;
// Runtime::kCloseGrace.
constexpr Millis kCloseGrace = 1000;

constexpr char kOk[] = "OK";
constexpr char kStopped[] = "UNAVAILABLE RUNTIME_STOPPED";
constexpr char kSessionEnded[] = "ABORTED SESSION_ENDED";
constexpr char kUnknownHandle[] = "NOT_FOUND UNKNOWN_HANDLE";
constexpr char kHandlesFull[] = "RESOURCE_EXHAUSTED HANDLES_FULL";
constexpr char kStillRunning[] = "DEADLINE_EXCEEDED STILL_RUNNING";

std::string NeverRan(OutcomeKind kind) {
  switch (kind) {
    case OutcomeKind::kCancelled:
      return "CANCELLED CANCELLED";
    case OutcomeKind::kExpired:
      return "DEADLINE_EXCEEDED EXPIRED";
    case OutcomeKind::kSuperseded:
      return "ABORTED SUPERSEDED";
    default:
      return kStopped;
  }
}

}  // namespace

Reference::Reference(const Setup& setup, std::function<void(int)> meanwhile)
    : setup_(setup), meanwhile_(std::move(meanwhile)) {}

Reference::Expected Reference::TakeExpected() { return std::exchange(expected_, {}); }

// ---- taking in ----

int Reference::Open(int user) {
  sessions_.push_back({.id = static_cast<int>(sessions_.size()), .user = user});
  if (draining_) {
    // Too late to hold anything, or to be waited for.
    sessions_.back().ended = true;
    sessions_.back().listed = false;
  }
  return sessions_.back().id;
}

Bound Reference::held(int user) const {
  Bound held;
  for (const Session& session : sessions_) {
    if (session.in_process() || (user != kNone && session.user != user)) continue;
    held.items += static_cast<int64_t>(session.queued + session.running);
    held.bytes += static_cast<int64_t>(session.bytes);
  }
  if (user == kNone) {
    held.items =
        static_cast<int64_t>(ledger_.delayed + ledger_.queued + ledger_.running + ledger_.deferred);
  }
  return held;
}

std::string Reference::Refusal(int session, const Step& step, const Invocation* instead_of) const {
  const bool closure = session == kNone;
  if (stopped_) return kStopped;
  if (draining_ && !closure) return "UNAVAILABLE DRAINING";
  if (!closure && sessions_[session].ended) return kSessionEnded;

  // What it takes the place of makes room for it.
  const bool counts_bytes = !closure && !sessions_[session].in_process();
  const int64_t items = instead_of != nullptr ? 0 : 1;
  const int64_t bytes =
      counts_bytes ? step.bytes - (instead_of != nullptr ? instead_of->step.bytes : 0) : 0;
  const auto full = [&](const char* who, const Bound& held, const Bound& bound) -> std::string {
    const bool by_bytes = bytes > 0 && held.bytes + bytes > bound.bytes;
    if (!by_bytes && held.items + items <= bound.items) return "";
    return absl::StrCat("RESOURCE_EXHAUSTED QUEUE_FULL: ", who, ", ",
                        by_bytes ? bound.bytes : bound.items, by_bytes ? " bytes" : " invocations");
  };
  if (counts_bytes && step.bytes > std::min({setup_.bounds.total.bytes, setup_.bounds.user.bytes,
                                             setup_.bounds.session.bytes})) {
    return "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE";
  }
  Bound all = held(kNone);
  all.items += stale_;
  std::string why = full("runtime", all, setup_.bounds.total);
  if (!why.empty() || !counts_bytes) return why;
  const Session& of = sessions_[session];
  why = full(kUsers[of.user], held(of.user), setup_.bounds.user);
  if (!why.empty()) return why;
  const Bound held_by_session{.items = static_cast<int64_t>(of.queued + of.running),
                              .bytes = static_cast<int64_t>(of.bytes)};
  return full("session", held_by_session, setup_.bounds.session);
}

int Reference::Keyed(int session, int key) const {
  if (session == kNone || key == 0) return kNone;
  for (const Invocation& known : invocations_) {
    const bool unstarted = known.state == State::kDelayed || known.state == State::kQueued;
    if (known.session == session && unstarted && known.step.key == key) {
      return known.id;
    }
  }
  return kNone;
}

std::string Reference::Dispatch(int session, const Step& step, int object) {
  const int old = Keyed(session, step.key);
  const std::string refusal = Refusal(session, step, old == kNone ? nullptr : &invocations_[old]);
  const int id = static_cast<int>(invocations_.size());
  invocations_.push_back({.id = id,
                          .session = session,
                          .step = step,
                          .deadline = step.deadline == 0 ? kNever : now_ + step.deadline,
                          .object = object});
  if (!refusal.empty()) {
    ++ledger_.refused;
    return refusal;
  }
  invocations_[id].state = State::kQueued;
  ++ledger_.queued;
  Entry entry{.invocation = id, .session = session};
  if (session != kNone) {
    Session& of = sessions_[session];
    ++of.queued;
    if (!of.in_process()) {
      of.bytes += static_cast<uint64_t>(step.bytes);
      entry.lane = session;
    }
  }
  const bool takes_place =
      old != kNone && invocations_[old].state == State::kQueued && step.delay == 0;
  if (takes_place) {
    line_.Replace(old, id);
  } else if (old != kNone) {
    const auto is_old = [&](const Invocation& of) { return of.id == old; };
    if (TakeDelayed(is_old).empty()) TakeOut(is_old);
  }
  if (old != kNone) EndUnstarted(old, OutcomeKind::kSuperseded, "superseded");
  if (step.delay > 0) {
    Delay(id);
  } else if (!takes_place) {
    line_.Push(entry);
  }
  return "queued";
}

// ---- ending ----

void Reference::EndUnstarted(int invocation, OutcomeKind kind, const char* how) {
  Invocation& ended = invocations_[invocation];
  --(ended.state == State::kDelayed ? ledger_.delayed : ledger_.queued);
  ended.state = State::kEnded;
  const bool by_session = kind == OutcomeKind::kAbandoned && !stopped_ && ended.session != kNone &&
                          sessions_[ended.session].ended;
  ended.outcome = by_session ? kSessionEnded : NeverRan(kind);
  ended.how = how;
  ++(kind == OutcomeKind::kCancelled    ? ledger_.cancelled
     : kind == OutcomeKind::kExpired    ? ledger_.expired
     : kind == OutcomeKind::kSuperseded ? ledger_.superseded
                                        : ledger_.abandoned);
  if (ended.session == kNone) return;
  Session& session = sessions_[ended.session];
  --session.queued;
  ++session.finished;
  if (!session.in_process()) session.bytes -= static_cast<uint64_t>(ended.step.bytes);
  if (!session.gone) expected_.outcomes[invocation] = ended.outcome;
}

void Reference::Finish(int invocation, const std::string& outcome, const char* how) {
  Invocation& ended = invocations_[invocation];
  if (ended.state == State::kEnded) return;  // the first outcome counts
  --(ended.state == State::kDeferred ? ledger_.deferred : ledger_.running);
  ++(outcome == kOk ? ledger_.succeeded : ledger_.failed);
  ended.state = State::kEnded;
  ended.outcome = outcome;
  ended.how = how;
  if (ended.session == kNone) return;
  Session& session = sessions_[ended.session];
  --session.running;
  ++session.finished;
  if (!session.in_process()) session.bytes -= static_cast<uint64_t>(ended.step.bytes);
  if (ended.given_up || outcome != kOk) ReleaseMade(invocation);
  // What it made is gone, so a reply that names it must not be seen.
  if (ended.given_up && outcome == kOk) ended.outcome = kStillRunning;
  // By messages that was told when it was given up.
  if (session.gone || (session.by_messages && ended.given_up)) return;
  expected_.outcomes[invocation] = ended.outcome;
}

std::vector<int> Reference::TakeOut(const std::function<bool(const Invocation&)>& wanted) {
  std::vector<int> taken;
  for (const Entry& entry : line_.RemoveIf([&](const Entry& waiting) {
         return waiting.kind == Entry::Kind::kInvocation &&
                wanted(invocations_[waiting.invocation]);
       })) {
    taken.push_back(entry.invocation);
  }
  return taken;
}

void Reference::AbortDeferred(int session, const std::string& outcome, const char* how) {
  for (const Invocation& known : invocations_) {
    if (known.state != State::kDeferred) continue;
    if (session == kNone || known.session == session) Finish(known.id, outcome, how);
  }
}

bool Reference::Cancel(int invocation) {
  const State was = invocations_[invocation].state;
  if (was != State::kDelayed && was != State::kQueued) return false;
  const auto is_it = [&](const Invocation& of) { return of.id == invocation; };
  if (TakeDelayed(is_it).empty()) TakeOut(is_it);
  EndUnstarted(invocation, OutcomeKind::kCancelled, "cancelled");
  return true;
}

State Reference::GiveUp(int invocation, OutcomeKind kind) {
  Invocation& given_up = invocations_[invocation];
  const State was = given_up.state;
  const bool by_messages = sessions_[given_up.session].by_messages;
  if (by_messages && (was == State::kEnded || given_up.given_up)) {
    Forget(invocation);
    return State::kEnded;
  }
  if (was == State::kDelayed || was == State::kQueued) {
    const auto is_it = [&](const Invocation& of) { return of.id == invocation; };
    if (TakeDelayed(is_it).empty()) TakeOut(is_it);
    EndUnstarted(invocation, kind, "given up");
  } else if (was != State::kEnded) {
    given_up.given_up = true;
    ++ledger_.given_up;
    if (by_messages) expected_.outcomes[invocation] = kStillRunning;
  }
  return was;
}

void Reference::Forget(int invocation) {
  // In process nobody can: there an invocation has no number.
  if (!sessions_[invocations_[invocation].session].in_process()) ReleaseMade(invocation);
}

void Reference::End(int session) {
  if (std::exchange(sessions_[session].ended, true)) return;
  const auto is_its = [&](const Invocation& of) { return of.session == session; };
  for (const int delayed : TakeDelayed(is_its)) {
    EndUnstarted(delayed, OutcomeKind::kAbandoned, "session ended");
  }
  for (const int queued : TakeOut(is_its)) {
    EndUnstarted(queued, OutcomeKind::kAbandoned, "session ended");
  }
  AbortDeferred(session, kSessionEnded, "session ended, deferred");
  Push({.kind = Entry::Kind::kCloseSession, .session = session});
}

Reference::Completed Reference::Complete(int invocation, Completing how, Closes closes) {
  Invocation& deferred = invocations_[invocation];
  deferred.has_completion = false;
  switch (how) {
    case Completing::kSucceed:
      Finish(invocation, kOk, "succeeded");
      return {};
    case Completing::kFail:
      Finish(invocation, "PERMISSION_DENIED", "failed");
      return {};
    case Completing::kDrop:
      Finish(invocation, "ABORTED COMPLETION_DROPPED", "dropped");
      return {};
    case Completing::kMake:
      break;
  }
  const int made = NewObject(deferred.session, invocation, closes);
  const std::string kept = Keep(invocation, made);
  Finish(invocation, kept, kept == kOk ? "succeeded" : "handles full");
  return {.answer = kept, .made = made};
}

// ---- time ----

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

// ---- objects ----

int Reference::NewObject(int session, int maker, Closes closes) {
  objects_.push_back({.id = static_cast<int>(objects_.size()),
                      .session = session,
                      .maker = maker,
                      .closes = closes});
  return objects_.back().id;
}

std::string Reference::Keep(int invocation, int object) {
  Object& kept = objects_[object];
  Session& session = sessions_[kept.session];
  if (static_cast<int>(session.objects.size()) >= setup_.max_handles) {
    Happens(Event::Kind::kDestroy, object);
    return kHandlesFull;
  }
  kept.state = Object::State::kHeld;
  session.objects.push_back(object);
  if (invocations_[invocation].state != State::kEnded) {
    kept.has_handle = true;
    return kOk;
  }
  // Too late for anybody to hear of it: it is closed, or, if nobody would wait for that any more,
  // destroyed.
  if (stopped_ || !session.listed) {
    Destroy(object, kOk, "");
  } else {
    BeginClose(object);
  }
  return kSessionEnded;
}

void Reference::BeginClose(int object) {
  Object& closing = objects_[object];
  closing.state = Object::State::kClosing;
  closing.close_by = now_ + setup_.close_timeout;
  if (closing.closes != Closes::kNoMethod) Happens(Event::Kind::kClose, object);
  closing.may_say_closed = closing.closes == Closes::kLater;
  if (closing.closes == Closes::kLater || closing.closes == Closes::kNever) {
    Watch(closing.close_by);
  } else {
    Destroy(object, kOk, "");
  }
}

void Reference::Destroy(int object, const std::string& outcome, const char* how) {
  Object& gone = objects_[object];
  const bool keeps_duty = gone.state == Object::State::kClosing && gone.closes == Closes::kNever;
  gone.state = Object::State::kGone;
  gone.close_by = kNever;
  Session& session = sessions_[gone.session];
  std::erase(session.objects, object);
  const auto of_maker = [&](int other) { return objects_[other].maker == gone.maker; };
  if (std::none_of(session.objects.begin(), session.objects.end(), of_maker)) {
    session.given_up.erase(gone.maker);
  }
  Happens(Event::Kind::kDestroy, object);
  // With the object goes its duty, which says that it is closed.
  if (keeps_duty) {
    Push({.kind = Entry::Kind::kObjectClosed, .session = gone.session, .object = object});
  }
  if (gone.releaser != kNone) {
    Finish(gone.releaser, outcome, outcome == kOk ? "succeeded" : how);
  }
}

void Reference::FinishClosing(int object) {
  objects_[object].may_say_closed = false;
  Push({.kind = Entry::Kind::kObjectClosed, .session = objects_[object].session, .object = object});
}

// Last made first; one that takes time holds up those made before it.
void Reference::CloseNext(int session) {
  Session& closing = sessions_[session];
  while (!closing.objects.empty()) {
    const int last = closing.objects.back();
    if (objects_[last].state != Object::State::kHeld) return;
    BeginClose(last);
    if (objects_[last].state != Object::State::kGone) return;
  }
  closing.listed = false;
}

void Reference::ReleaseMade(int invocation) {
  const int of = invocations_[invocation].session;
  Session& session = sessions_[of];
  const auto made = [&](int object) { return objects_[object].maker == invocation; };
  if (std::none_of(session.objects.begin(), session.objects.end(), made)) return;
  if (!session.given_up.insert(invocation).second) return;
  if (std::exchange(session.releasing, true)) return;  // one look for all of them
  Push({.kind = Entry::Kind::kReleaseGivenUp, .session = of});
}

void Reference::DestroyOverdue() {
  for (Session& session : sessions_) {
    if (!session.listed) continue;
    std::vector<int> overdue;
    for (const int object : session.objects) {
      if (objects_[object].close_by <= now_) overdue.push_back(object);
    }
    for (auto object = overdue.rbegin(); object != overdue.rend(); ++object) {
      Destroy(*object, kStillRunning, "took too long to close");
    }
    if (!overdue.empty() && session.closing) CloseNext(session.id);
    for (const int object : session.objects) Watch(objects_[object].close_by);
  }
}

size_t Reference::DestroyAll(int session) {
  const size_t count = sessions_[session].objects.size();
  while (!sessions_[session].objects.empty()) {
    Destroy(sessions_[session].objects.back(), "ABORTED RUNTIME_STOPPED", "stopped, deferred");
  }
  return count;
}

// ---- the end ----

bool Reference::Reached(bool work) const {
  if (work) {
    return ledger_.queued + ledger_.running + ledger_.deferred == 0 && line_.empty();
  }
  return std::none_of(sessions_.begin(), sessions_.end(),
                      [](const Session& session) { return session.listed; });
}

Reference::Drained Reference::Drain(Millis timeout) {
  draining_ = true;
  const Millis deadline = now_ + timeout;
  const auto run_until = [&](bool work, Millis until) {
    while (!stopped_ && !Reached(work) && now_ < until && RunSlice(kSliceTasks)) {
    }
    return Reached(work);
  };
  bool drained = run_until(true, deadline);
  if (!stopped_) {
    // Timers go on until the runtime stops.
    const auto is_work = [](const Invocation& of) { return !IsTimer(of); };
    for (const int delayed : TakeDelayed(is_work)) {
      EndUnstarted(delayed, OutcomeKind::kAbandoned, "stopped");
    }
    for (const int queued : TakeOut(is_work)) {
      EndUnstarted(queued, OutcomeKind::kAbandoned, "stopped");
    }
    for (auto session = sessions_.rbegin(); session != sessions_.rend(); ++session) {
      if (session->listed) End(session->id);
    }
    run_until(false, std::max(deadline, now_ + kCloseGrace));
  }
  const size_t not_closed = Stop();
  return {.drained = drained && not_closed == 0, .not_closed = not_closed};
}

size_t Reference::Stop() {
  if (std::exchange(stopped_, true)) return 0;
  std::vector<int> listed;
  for (Session& session : sessions_) {
    if (!std::exchange(session.listed, false)) continue;
    listed.push_back(session.id);
    session.ended = true;
  }
  // What is queued never runs; what the runtime had to do itself is done.
  while (!line_.empty()) {
    const Entry entry = line_.Pop();
    if (entry.kind != Entry::Kind::kInvocation) {
      RunEntry(entry);
    } else if (invocations_[entry.invocation].state == State::kQueued) {
      EndUnstarted(entry.invocation, OutcomeKind::kAbandoned, "stopped");
    }
  }
  for (const int delayed : TakeDelayed([](const Invocation&) { return true; })) {
    EndUnstarted(delayed, OutcomeKind::kAbandoned, "stopped");
  }
  AbortDeferred(kNone, "ABORTED RUNTIME_STOPPED", "stopped, deferred");
  size_t not_closed = 0;
  for (auto session = listed.rbegin(); session != listed.rend(); ++session) {
    not_closed += DestroyAll(*session);
  }
  return not_closed;
}

}  // namespace runloop::sequence
