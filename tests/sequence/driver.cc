#include "runloop/tests/sequence/driver.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/describe.h"

namespace runloop::sequence {

using internal::RuntimeCore;

Driver::Driver(const Program& program, Transport transport, OtherThread& other, Coverage& coverage,
               std::vector<std::string>* listing)
    : program_(program),
      other_(other),
      script_(program.setup, transport, coverage),
      listing_(listing) {
  auto loop = std::make_unique<ExternalLoop>();
  loop_ = loop.get();
  RuntimeOptions options;
  options.loop = std::move(loop);
  RegisterOperations(options.operations);
  RegisterTopics(options.operations);
  options.bounds = program.setup.bounds;
  options.max_handles = static_cast<size_t>(program.setup.max_handles);
  options.notification_bounds = program.setup.notifications;
  options.role_priority = Priority::kInteractive;
  options.close_timeout = absl::Milliseconds(program.setup.close_timeout);
  options.clock = &clock_;
  options.log = [](LogSeverity, std::string_view) {};
  runtime_ = *Runtime::Create(std::move(options));
  if (transport != Transport::kLocal) {
    server_ = std::make_unique<MessageServer>(transport, runtime_->core(), observed_);
  }
  loop_->Drain();  // from here on the loop has started, and the service thread looks at deadlines
}

std::optional<Failure> Driver::Run() {
  size_t number = 0;
  for (const Step& step : program_.steps) {
    Play(++number, step);
    if (observed_.failed()) break;
  }
  if (!observed_.failed() && !reference().stopped()) {
    Step stop;
    stop.kind = StepKind::kStop;
    Play(++number, stop);
  }
  if (!observed_.failed()) Do(number, script_.TakeAll());
  if (!observed_.failed()) LeaveNothing();
  if (observed_.failed()) return Failure{.step = number, .what = observed_.failure()};
  script_.CountOutcomes();
  return std::nullopt;
}

void Driver::Play(size_t number, const Step& step) {
  Do(number, script_.Play(step));
  // What a cut takes with it comes after it.
  if (step.kind != StepKind::kCut) HearAll();
  Compare();
}

void Driver::Do(size_t number, const std::vector<Action>& actions) {
  if (listing_ != nullptr) List(number, actions);
  for (size_t done = 0; done < actions.size();) {
    const size_t together = CountTogether(absl::MakeConstSpan(actions).subspan(done));
    Perform(absl::MakeConstSpan(actions).subspan(done, together));
    done += together;
  }
}

size_t Driver::CountTogether(absl::Span<const Action> actions) const {
  const Action& first = actions.front();
  size_t count = 1;
  if (first.kind != StepKind::kDispatch || !messages_.contains(first.session)) return count;
  while (count < actions.size() && actions[count].kind == first.kind &&
         actions[count].session == first.session && actions[count].elsewhere == first.elsewhere) {
    ++count;
  }
  return count;
}

void Driver::ExpectAnswer(const Action& action, const std::string& answer) {
  if (answer == action.answer) return;
  observed_.Fail(
      absl::StrCat(Describe(action, reference()), ", says the model; the runtime: ", answer));
}

void Driver::Perform(absl::Span<const Action> actions) {
  if (observed_.failed()) return;  // what follows would build upon what is not there
  const auto call = [&] {
    const Action& first = actions.front();
    const int session = first.session != kNone      ? first.session
                        : first.invocation != kNone ? SessionOf(first.invocation)
                                                    : kNone;
    const auto messages = messages_.find(session);
    if (messages == messages_.end() || !CallByMessage(actions, *messages->second)) Call(first);
  };
  if (actions.front().elsewhere) {
    other_.Call(call);
  } else {
    call();
  }
}

void Driver::Call(const Action& action) {
  switch (action.kind) {
    case StepKind::kOpen:
      return Open(action);
    case StepKind::kDispatch:
      return Dispatch(action);
    case StepKind::kBatch:
      return DispatchBatch(action);
    case StepKind::kClosure:
      return PostClosure(action);
    case StepKind::kCancel:
      return ExpectAnswer(action, core().Cancel(*tasks_.at(action.invocation)) ? "it never runs"
                                                                               : "it had started");
    case StepKind::kCancelTimer: {
      const bool cancelled = timers_.at(action.invocation).Cancel();
      if (cancelled) observed_.TimerCancelled(action.invocation);
      return ExpectAnswer(action, cancelled ? "it never runs" : "it had started");
    }
    case StepKind::kGiveUp:
      switch (core().GiveUp(*tasks_.at(action.invocation), action.given_up_as)) {
        case RuntimeCore::GivenUp::kNeverRan:
          return ExpectAnswer(action, "it never runs");
        case RuntimeCore::GivenUp::kStillRunning:
          return ExpectAnswer(action, "it still runs");
        case RuntimeCore::GivenUp::kEnded:
          return ExpectAnswer(action, "it has ended");
      }
      return;
    case StepKind::kForget: {
      return core().GiveUpEnded(*sessions_[SessionOf(action.invocation)],
                                NumberOf(action.invocation));
    }
    case StepKind::kKill:
      return sessions_[action.session]->End();
    case StepKind::kComplete:
      return Complete(action);
    case StepKind::kFinishClosing: {
      const auto duty = duties_.find(action.object);
      Expect(duty != duties_.end(), absl::StrCat("o", action.object, " was not told to close"));
      if (duty != duties_.end()) duties_.erase(duty);
      return;
    }
    case StepKind::kAdvance:
      return clock_.Advance(absl::Milliseconds(action.time));
    case StepKind::kRun:
      return ExpectAnswer(action,
                          loop_->Drain({.tasks = action.count}) ? "come back" : "nothing is left");
    case StepKind::kBeginDrain:
      return BeginDrain(absl::ZeroDuration());
    case StepKind::kDrain: {
      BeginDrain(absl::Milliseconds(action.time));
      const Runtime::DrainResult result = runtime_->Drain(absl::Milliseconds(action.time));
      return ExpectAnswer(action, absl::StrCat(result.drained ? "drained" : "not drained", ", ",
                                               result.not_closed, " not closed"));
    }
    case StepKind::kStop:
      return ExpectAnswer(action, absl::StrCat(core().Shutdown(), " not closed"));
    case StepKind::kSubscribe:
      return Subscribe(action);
    case StepKind::kUnsubscribe:
      return Unsubscribe(action);
    case StepKind::kPublish:
      return Publish(action);
    case StepKind::kTake:
      return Take(action);
    case StepKind::kCut:  // of a session without one
    case StepKind::kDisconnect:
    case StepKind::kFill:
      return;  // made of others
  }
}

void Driver::LeaveNothing() {
  const Ledger::Counts& ledger = reference().ledger();
  Expect(ledger.delayed + ledger.queued + ledger.running + ledger.deferred == 0,
         "the model has work left");
  for (const Reference::Object& object : reference().objects()) {
    Expect(object.state == Reference::Object::State::kGone, "the model has objects left");
  }
  Expect(closures_alive_ == 0, absl::StrCat(closures_alive_, " closures are left"));
  CompareDelivered();
  LeaveSubscriptions();
  completions_.clear();
  duties_.clear();
  tasks_.clear();
  timers_.clear();
  for (const auto& [session, messages] : messages_) messages->Leave(false);
  messages_.clear();
  server_.reset();
  std::vector<std::weak_ptr<Session>> sessions(sessions_.begin(), sessions_.end());
  sessions_.clear();
  const std::weak_ptr<RuntimeCore> core = runtime_->core();
  runtime_.reset();
  for (size_t i = 0; i < sessions.size(); ++i) {
    Expect(sessions[i].expired(), absl::StrCat("s", i + 1, " is left after all is over"));
  }
  Expect(core.expired(), "the runtime's core is left after all is over");
  const Reference::Expected late = observed_.Take();
  Expect(late.events.empty(), absl::StrCat("after all is over: ", Describe(late.events)));
  Expect(late.outcomes.empty(), "outcomes are given after all is over");
}

void Driver::List(size_t step, const std::vector<Action>& actions) {
  if (actions.empty()) listing_->push_back(absl::StrCat(step, ": nothing to do"));
  for (const Action& action : actions) {
    listing_->push_back(absl::StrCat(step, ": ", Describe(action, reference())));
    if (action.invocation == kNone) continue;
    const std::vector<Step>& meanwhile = reference().invocation(action.invocation).step.meanwhile;
    const bool handed_over =
        action.kind == StepKind::kDispatch || action.kind == StepKind::kClosure;
    if (handed_over && !meanwhile.empty()) {
      listing_->back() += "; more happens while it runs";
    }
  }
  for (const Event& event : reference().expected().events) {
    listing_->push_back(absl::StrCat("     ", Describe(event)));
    if (event.kind != Event::Kind::kStart) continue;
    for (const Action& action : script_.Meanwhile(event.id)) {
      listing_->push_back(absl::StrCat("       meanwhile: ", Describe(action, reference())));
    }
  }
  for (const auto& [id, outcome] : reference().expected().outcomes) {
    listing_->push_back(absl::StrCat("     #", id, " ends: ", outcome));
  }
}
std::optional<Failure> RunProgram(const Program& program, Transport transport, OtherThread& other,
                                  Coverage& coverage, std::vector<std::string>* listing) {
  return Driver(program, transport, other, coverage, listing).Run();
}

}  // namespace runloop::sequence
