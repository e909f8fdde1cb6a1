// Objects that sessions hold, in the reference model.

#include <algorithm>
#include <utility>

#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {

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

}  // namespace runloop::sequence
