// What came of a step, compared with what the model says.

#include <poll.h>

#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/describe.h"
#include "runloop/tests/sequence/driver.h"

namespace runloop::sequence {

void Driver::Compare() {
  Reference::Expected expected = reference().TakeExpected();
  // The runtime's own operation does not tell when it starts.
  std::erase_if(expected.events, [&](const Event& event) {
    if (event.kind != Event::Kind::kStart) return false;
    const Reference::Invocation& started = reference().invocation(event.id);
    return started.session != kNone && started.step.behaviour == Behaviour::kRelease;
  });
  const Reference::Expected seen = observed_.Take();
  if (seen.events != expected.events) {
    observed_.Fail(absl::StrCat("on the runtime thread happens, says the model: ",
                                Describe(expected.events), "; happened: ", Describe(seen.events)));
  }
  CompareOutcomes(expected.outcomes, seen.outcomes);
  CompareCounts();
}

void Driver::CompareOutcomes(const std::map<int, std::string>& expected,
                             const std::map<int, std::string>& seen) {
  if (expected == seen) return;
  for (const auto& [id, outcome] : expected) {
    const auto found = seen.find(id);
    if (found == seen.end()) {
      observed_.Fail(
          absl::StrCat("#", id, " ends with ", outcome, ", says the model; it has no outcome"));
    } else if (found->second != outcome) {
      observed_.Fail(absl::StrCat("#", id, " ends with ", outcome,
                                  ", says the model; the runtime: ", found->second));
    }
  }
  for (const auto& [id, outcome] : seen) {
    if (expected.count(id) == 0) {
      observed_.Fail(absl::StrCat("#", id, " has the outcome ", outcome,
                                  ", which the model does not expect now"));
    }
  }
}

void Driver::CompareCounts() {
  const Runtime::Snapshot snapshot = runtime_->GetSnapshot();
  Ledger::Counts ledger = reference().ledger();
  ledger.admitted =
      ledger.ended() + ledger.delayed + ledger.queued + ledger.running + ledger.deferred;
  Same("the ledger", ledger.ToString(), snapshot.ledger.ToString());

  std::string listed, seen;
  for (const Reference::Session& session : reference().sessions()) {
    if (session.listed) absl::StrAppend(&listed, " s", session.id + 1);
    const Session::Counts counts = sessions_[static_cast<size_t>(session.id)]->counts();
    if (counts.queued == session.queued && counts.running == session.running &&
        counts.finished == session.finished && counts.bytes == session.bytes &&
        counts.handles == session.objects.size() &&
        sessions_[static_cast<size_t>(session.id)]->ended() == session.ended) {
      continue;
    }
    Same(absl::StrCat("s", session.id + 1),
         absl::StrCat(session.queued, " queued, ", session.running, " running, ", session.finished,
                      " finished, ", session.bytes, " bytes, ", session.objects.size(), " handles",
                      session.ended ? ", ended" : ""),
         absl::StrCat(counts.queued, " queued, ", counts.running, " running, ", counts.finished,
                      " finished, ", counts.bytes, " bytes, ", counts.handles, " handles",
                      sessions_[static_cast<size_t>(session.id)]->ended() ? ", ended" : ""));
  }
  for (const auto& session : snapshot.sessions) absl::StrAppend(&seen, " ", session->info().id);
  Same("the sessions are", listed, seen);

  CompareNotifications(snapshot);

  for (const BoundStatus& bound : snapshot.bounds) {
    int user = kNone;
    for (int known = 0; known < kInProcess; ++known) {
      if (bound.holder == kUsers[known]) user = known;
    }
    const Bound held = reference().held(user);
    if (held.items == bound.held.items && held.bytes == bound.held.bytes) continue;
    Same(bound.holder, absl::StrCat(held.items, " invocations, ", held.bytes, " bytes"),
         absl::StrCat(bound.held.items, " invocations, ", bound.held.bytes, " bytes"));
  }

  pollfd readable{.fd = loop_->fd(), .events = POLLIN, .revents = 0};
  if (!reference().stopped() && reference().anything_waits() && poll(&readable, 1, 0) != 1) {
    observed_.Fail("work waits, and the loop was not woken");
  }
}

void Driver::Same(const std::string& what, const std::string& model, const std::string& runtime) {
  if (model == runtime) return;
  observed_.Fail(absl::StrCat(what, ": ", model, ", says the model; the runtime: ", runtime));
}
}  // namespace runloop::sequence
