#include "runloop/tests/sequence/driver.h"

#include <poll.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "runloop/daemon/durations.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/test/v1/test_operations.pb.h"
#include "runloop/tests/sequence/describe.h"
#include "runloop/tests/sequence/message_session.h"
#include "runloop/tests/sequence/observed.h"
#include "runloop/tests/sequence/script.h"
#include "runloop/tests/sequence/settling_clock.h"
#include "runloop/v1/handles.pb.h"

namespace runloop::sequence {
namespace {

using internal::RuntimeCore;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::RecordReply;
using test::v1::RecordRequest;

// Those whose handler has an outcome when it returns, those that may have it later, and the
// runtime's own.
constexpr char kAtOnce[] = "runloop.test.v1.TestOperations/Echo";
constexpr char kDeferring[] = "runloop.test.v1.TestOperations/Record";
constexpr char kRelease[] = "runloop.v1.Handles/Release";

// What a cancel is told by.
constexpr char kCancelled[] = "CANCELLED CANCELLED";
constexpr char kStillRunning[] = "DEADLINE_EXCEEDED STILL_RUNNING";

// As the model writes it: code and reason, and with QUEUE_FULL whose bound and which.
std::string InWords(const absl::Status& status) {
  std::string text = absl::StatusCodeToString(status.code());
  if (status.ok()) return text;
  const v1::ErrorReason reason = ReasonOf(status);
  if (reason == v1::ERROR_REASON_UNSPECIFIED) return text;
  const std::string name = v1::ErrorReason_Name(reason);
  absl::StrAppend(&text, " ", absl::StripPrefix(name, "ERROR_REASON_"));
  if (reason != v1::ERROR_REASON_QUEUE_FULL) return text;
  v1::ErrorInfo info;
  const absl::optional<absl::Cord> payload =
      status.GetPayload("type.googleapis.com/google.rpc.ErrorInfo");
  if (payload.has_value() && info.ParseFromString(std::string(*payload))) {
    absl::StrAppend(&text, ": ", info.metadata().at("bound"), ", ", info.metadata().at("limit"));
  }
  return text;
}

// A field that nobody knows, of so many bytes in all, at least 3 and less than 16,000.
std::string Padding(size_t bytes) {
  constexpr char kTag = (15 << 3) | 2;
  const size_t left = bytes - 3;
  // A length of two bytes, whether it needs both or not.
  std::string field = {kTag, static_cast<char>(left % 128 + 128), static_cast<char>(left / 128)};
  return field + std::string(left, 'x');
}

class Driver {
 public:
  Driver(const Program& program, Transport transport, OtherThread& other, Coverage& coverage,
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
    options.bounds = program.setup.bounds;
    options.max_handles = static_cast<size_t>(program.setup.max_handles);
    options.close_timeout = absl::Milliseconds(program.setup.close_timeout);
    options.clock = &clock_;
    options.log = [](LogSeverity, std::string_view) {};
    runtime_ = *Runtime::Create(std::move(options));
    if (transport != Transport::kLocal) {
      server_ = std::make_unique<MessageServer>(transport, runtime_->core(), observed_);
    }
    loop_->Drain();  // from here on the loop has started, and the service thread looks at deadlines
  }

  std::optional<Failure> Run() {
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
    if (!observed_.failed()) LeaveNothing();
    if (observed_.failed()) return Failure{.step = number, .what = observed_.failure()};
    script_.CountOutcomes();
    return std::nullopt;
  }

 private:
  void Play(size_t number, const Step& step) {
    const std::vector<Action> actions = script_.Play(step);
    if (listing_ != nullptr) List(number, actions);
    for (size_t done = 0; done < actions.size();) {
      const size_t together = CountTogether(absl::MakeConstSpan(actions).subspan(done));
      Perform(absl::MakeConstSpan(actions).subspan(done, together));
      done += together;
    }
    HearAll();
    Compare();
  }

  // How many of the first ones go in one message.
  size_t CountTogether(absl::Span<const Action> actions) const {
    const Action& first = actions.front();
    size_t count = 1;
    if (first.kind != StepKind::kDispatch || !messages_.contains(first.session)) return count;
    while (count < actions.size() && actions[count].kind == first.kind &&
           actions[count].session == first.session && actions[count].elsewhere == first.elsewhere) {
      ++count;
    }
    return count;
  }

  RuntimeCore& core() { return *runtime_->core(); }
  Reference& reference() { return script_.reference(); }

  void Expect(bool holds, const std::string& what) {
    if (!holds) observed_.Fail(what);
  }
  void ExpectAnswer(const Action& action, const std::string& answer) {
    if (answer == action.answer) return;
    observed_.Fail(
        absl::StrCat(Describe(action, reference()), ", says the model; the runtime: ", answer));
  }

  // ---- what operations and closures do ----

  void RegisterOperations(OperationRegistry& registry) {
    const absl::Status at_once = registry.Register<EchoRequest, EchoReply>(
        kAtOnce,
        [this](OperationContext& context, EchoRequest request) -> absl::StatusOr<EchoReply> {
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

  // While a handler or closure runs: first what others do meanwhile.
  struct Running {
    Running(Driver& driver, int id) : driver(driver) {
      driver.observed_.Starts(id);
      for (const Action& action : driver.script_.Meanwhile(id)) {
        driver.Perform(absl::MakeConstSpan(&action, 1));
      }
    }
    ~Running() { driver.observed_.Returns(); }
    Driver& driver;
  };

  absl::Status Behave(OperationContext& context, int id) {
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
      case Behaviour::kMake:
      case Behaviour::kMakeAndDefer:
        // The model is ahead: it knows what this makes. Not so if this should not run at all.
        return invocation.object == kNone ? absl::OkStatus() : Keep(context, invocation.object);
      default:
        return absl::OkStatus();
    }
  }

  // `keeper` is an OperationContext or a Completion.
  template <typename Keeper>
  absl::Status Keep(Keeper& keeper, int object) {
    const Closes closes = reference().object(object).closes;
    const absl::StatusOr<Handle> handle =
        closes == Closes::kNoMethod
            ? keeper.Keep(std::make_unique<PlainObject>(observed_, object))
            : keeper.Keep(std::make_unique<ClosingObject>(observed_, duties_, object, closes));
    if (handle.ok()) handles_[object] = *handle;
    return handle.status();
  }

  Handle HandleOf(int object) const {
    const auto found = handles_.find(object);
    return found == handles_.end() ? Handle{1} << 40 : found->second;
  }

  // ---- calls ----

  // One, or several that go in one message.
  void Perform(absl::Span<const Action> actions) {
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

  void Call(const Action& action) {
    switch (action.kind) {
      case StepKind::kOpen:
        return Open(action);
      case StepKind::kDispatch:
        return Dispatch(action);
      case StepKind::kClosure:
        return PostClosure(action);
      case StepKind::kCancel:
        return ExpectAnswer(action, core().Cancel(*tasks_.at(action.invocation))
                                        ? "it never runs"
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
        return ExpectAnswer(
            action, loop_->Drain({.tasks = action.count}) ? "come back" : "nothing is left");
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
      case StepKind::kCut:  // of a session without one
      case StepKind::kDisconnect:
      case StepKind::kFill:
        return;  // made of others
    }
  }

  void Open(const Action& action) {
    const int user = reference().session(action.session).user;
    Session::Info info{.client_name = "sequence", .transport = "test"};
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

  // As the host does it.
  void BeginDrain(absl::Duration left) {
    core().BeginDrain();
    for (const auto& [session, messages] : messages_) messages->BeginDrain(left);
  }

  int SessionOf(int invocation) { return reference().invocation(invocation).session; }

  // As a transport numbers them: in process it does not.
  uint64_t NumberOf(int invocation) {
    return reference().session(SessionOf(invocation)).in_process()
               ? 0
               : static_cast<uint64_t>(invocation) + 1;
  }

  static std::string_view NameOf(const Reference::Invocation& invocation) {
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

  std::unique_ptr<google::protobuf::Message> NewRequest(
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

  void Dispatch(const Action& action) {
    const int id = action.invocation;
    const Reference::Invocation& invocation = reference().invocation(id);
    RuntimeCore::Call call;
    call.operation = core().operations().Find(NameOf(invocation));
    call.request = NewRequest(invocation);
    call.request_bytes = static_cast<size_t>(invocation.step.bytes);
    call.session = sessions_[action.session];
    if (invocation.deadline != kNever) {
      call.deadline = clock_.Now() + absl::Milliseconds(invocation.step.deadline);
    }
    if (invocation.step.key != 0) call.coalesce_key = absl::StrCat(invocation.step.key);
    call.number = NumberOf(id);
    call.sink = sink_;
    call.ticket = static_cast<uint64_t>(id);
    absl::StatusOr<std::shared_ptr<internal::OperationTask>> task;
    call.delay = absl::Milliseconds(invocation.step.delay);
    if (call.coalesce_key.empty() && invocation.step.delay == 0 && id % 2 == 0) {
      RuntimeCore::Group group(core(), call.session);
      task = group.Dispatch(std::move(call));
    } else {
      task = core().Dispatch(std::move(call));
    }
    if (task.ok()) tasks_[id] = *task;
    ExpectAnswer(action, task.ok() ? "queued" : InWords(task.status()));
  }

  // ---- by messages ----

  // False: it is no message.
  bool CallByMessage(absl::Span<const Action> actions, MessageSession& messages) {
    const Action& action = actions.front();
    switch (action.kind) {
      case StepKind::kDispatch:
        DispatchByMessage(actions, messages);
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
        messages.CutNext(action.count == 0   ? MessageSession::Cut::kRequest
                         : action.count == 1 ? MessageSession::Cut::kResponse
                                             : MessageSession::Cut::kHeard);
        return true;
      case StepKind::kDisconnect:
        HearOf(messages);
        messages.EndRequests();
        return true;
      case StepKind::kKill: {
        if (!action.worker_goes) return false;
        HearOf(messages);
        messages.Leave(!action.work_is_done);
        messages_.erase(action.session);
        return true;
      }
      default:
        return false;
    }
  }

  void DispatchByMessage(absl::Span<const Action> actions, MessageSession& messages) {
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

  void FillDispatch(int id, v1::Dispatch& dispatch) {
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

  // The outcome that it has because of that; empty: none.
  std::string CancelByMessage(int id, bool give_up, MessageSession& messages) {
    v1::SessionRequest request;
    v1::Cancel& cancel = *request.add_cancels();
    cancel.set_invocation_id(NumberOf(id));
    cancel.set_give_up(give_up);
    const std::map<int, std::string> told = Say(messages, request);
    for (const auto& [of, outcome] : told) observed_.Outcome(of, outcome);
    const auto found = told.find(id);
    return found == told.end() ? "" : found->second;
  }

  // What is told because of `request`, by invocation.
  std::map<int, std::string> Say(MessageSession& messages, const v1::SessionRequest& request) {
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

  void HearOf(MessageSession& messages) {
    for (const MessageSession::Outcome& outcome : messages.Hear()) {
      const int id = static_cast<int>(outcome.id) - 1;
      observed_.Outcome(id, InWords(outcome.status));
      ExpectReply(id, outcome);
    }
  }

  void HearAll() {
    for (const auto& [session, messages] : messages_) HearOf(*messages);
  }

  void ExpectReply(int id, const MessageSession::Outcome& outcome) {
    if (!outcome.reply.has_value()) return;
    const Operation* const operation = core().operations().Find(NameOf(reference().invocation(id)));
    const std::unique_ptr<google::protobuf::Message> reply(
        google::protobuf::MessageFactory::generated_factory()
            ->GetPrototype(operation->method().output_type())
            ->New());
    Expect(reply->ParseFromString(*outcome.reply), absl::StrCat("#", id, " got no valid reply"));
    ExpectReply(id, *reply);
  }

  // ---- outcomes of calls ----

  void Deliver(internal::OperationTask& task) {
    const int id = static_cast<int>(task.ticket());
    const absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply = task.TakeOutcome();
    observed_.Outcome(id, InWords(reply.status()));
    if (reply.ok()) ExpectReply(id, **reply);
  }

  void ExpectReply(int id, const google::protobuf::Message& reply) {
    std::string of = absl::StrCat(id);
    if (const auto* at_once = dynamic_cast<const EchoReply*>(&reply)) {
      of = at_once->text();
    } else if (const auto* deferred = dynamic_cast<const RecordReply*>(&reply)) {
      of = absl::StrCat(deferred->position());
    }
    Expect(of == absl::StrCat(id), absl::StrCat("#", id, " got the reply of #", of));
  }

  void PostClosure(const Action& action) {
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
    if (const Millis delay = reference().invocation(id).step.delay; delay == 0) {
      posted = runtime_->context().RunOnRuntimeThreadAsync(std::move(closure));
    } else {
      absl::StatusOr<Timer> timer =
          runtime_->context().RunAfter(absl::Milliseconds(delay), std::move(closure));
      posted = timer.status();
      if (timer.ok()) timers_.emplace(id, *std::move(timer));
    }
    ExpectAnswer(action, posted.ok() ? "queued" : InWords(posted));
  }

  void Complete(const Action& action) {
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

  // ---- comparing ----

  void Compare() {
    Reference::Expected expected = reference().TakeExpected();
    // The runtime's own operation does not tell when it starts.
    std::erase_if(expected.events, [&](const Event& event) {
      if (event.kind != Event::Kind::kStart) return false;
      const Reference::Invocation& started = reference().invocation(event.id);
      return started.session != kNone && started.step.behaviour == Behaviour::kRelease;
    });
    const Reference::Expected seen = observed_.Take();
    if (seen.events != expected.events) {
      observed_.Fail(
          absl::StrCat("on the runtime thread happens, says the model: ", Describe(expected.events),
                       "; happened: ", Describe(seen.events)));
    }
    CompareOutcomes(expected.outcomes, seen.outcomes);
    CompareCounts();
  }

  void CompareOutcomes(const std::map<int, std::string>& expected,
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

  void CompareCounts() {
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
           absl::StrCat(session.queued, " queued, ", session.running, " running, ",
                        session.finished, " finished, ", session.bytes, " bytes, ",
                        session.objects.size(), " handles", session.ended ? ", ended" : ""),
           absl::StrCat(counts.queued, " queued, ", counts.running, " running, ", counts.finished,
                        " finished, ", counts.bytes, " bytes, ", counts.handles, " handles",
                        sessions_[static_cast<size_t>(session.id)]->ended() ? ", ended" : ""));
    }
    for (const auto& session : snapshot.sessions) absl::StrAppend(&seen, " ", session->info().id);
    Same("the sessions are", listed, seen);

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

  void Same(const std::string& what, const std::string& model, const std::string& runtime) {
    if (model == runtime) return;
    observed_.Fail(absl::StrCat(what, ": ", model, ", says the model; the runtime: ", runtime));
  }

  // The runtime has stopped: lets go of everything.
  void LeaveNothing() {
    const Ledger::Counts& ledger = reference().ledger();
    Expect(ledger.delayed + ledger.queued + ledger.running + ledger.deferred == 0,
           "the model has work left");
    for (const Reference::Object& object : reference().objects()) {
      Expect(object.state == Reference::Object::State::kGone, "the model has objects left");
    }
    Expect(closures_alive_ == 0, absl::StrCat(closures_alive_, " closures are left"));
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

  void List(size_t step, const std::vector<Action>& actions) {
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

  const Program& program_;
  OtherThread& other_;
  Script script_;
  std::vector<std::string>* const listing_;

  // Outlive the runtime, which tells them to the last.
  Observed observed_;
  SettlingClock clock_;
  int closures_alive_ = 0;
  Duties duties_;
  std::map<int, Completion<RecordReply>> completions_;
  std::map<int, Handle> handles_;
  // Of all invocations: by their tickets.
  class Sink final : public internal::OutcomeSink {
   public:
    explicit Sink(Driver& driver) : driver_(driver) {}
    void Deliver(std::shared_ptr<internal::OperationTask> task) override { driver_.Deliver(*task); }

   private:
    Driver& driver_;
  };
  const std::shared_ptr<Sink> sink_ = std::make_shared<Sink>(*this);
  std::map<int, std::shared_ptr<internal::OperationTask>> tasks_;
  std::map<int, Timer> timers_;
  std::vector<std::shared_ptr<Session>> sessions_;

  ExternalLoop* loop_;  // the runtime's
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<MessageServer> server_;  // null: all is by calls
  // By session, of those that have a worker.
  std::map<int, std::unique_ptr<MessageSession>> messages_;
};

}  // namespace

std::optional<Failure> RunProgram(const Program& program, Transport transport, OtherThread& other,
                                  Coverage& coverage, std::vector<std::string>* listing) {
  return Driver(program, transport, other, coverage, listing).Run();
}

}  // namespace runloop::sequence
