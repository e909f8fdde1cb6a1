#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/struct.pb.h"
#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/status_text.h"
#include "runloop/client/cli/text.h"
#include "runloop/runtime/clock.h"
#include "runloop/v1/control.grpc.pb.h"
#include "runloop/v1/diagnostics.grpc.pb.h"

namespace runloop::cli {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(200);
constexpr absl::Duration kBeginInterval = absl::Milliseconds(5);
// The daemon ends itself soon after its deadline, whatever holds it.
constexpr absl::Duration kGrace = absl::Seconds(10);

absl::Time Now() { return Clock::Monotonic()->Now(); }

// A call that was under way when the daemon ended may have been cancelled.
bool HasEnded(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsCancelled(status);
}

void Say(const std::string& line) { std::fputs(("runloopctl: " + line + "\n").c_str(), stderr); }

v1::DrainRequest Request(const std::optional<absl::Duration>& timeout) {
  v1::DrainRequest request;
  if (timeout) {
    // Infinity has no place in the message.
    absl::Duration rest = std::min(*timeout, kLongestDrain);
    request.mutable_timeout()->set_seconds(absl::IDivDuration(rest, absl::Seconds(1), &rest));
    request.mutable_timeout()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  }
  return request;
}

absl::StatusOr<v1::DrainResponse> Ask(const Daemon& daemon, const v1::DrainRequest& request) {
  grpc::ClientContext context;
  daemon.Prepare(context);
  v1::DrainResponse response;
  const absl::Status status =
      daemon.Check(v1::Control::NewStub(daemon.channel())->Drain(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

// Asks for the drain, and hears how it ended on a thread of its own: only the daemon knows.
class DrainResult {
 public:
  DrainResult(const Daemon& daemon, v1::DrainRequest request) {
    request.set_wait(true);
    thread_ = std::thread([this, request, stub = v1::Control::NewStub(daemon.channel())] {
      status_ = stub->Drain(&context_, request, &response_);
      answered_.store(true);
    });
  }
  ~DrainResult() {
    if (!thread_.joinable()) return;
    context_.TryCancel();
    thread_.join();
  }

  bool answered() const { return answered_.load(); }
  // Once the daemon has ended, or is known to have refused. Null: it ended without a word.
  const v1::DrainResult* Get() {
    if (thread_.joinable()) thread_.join();
    return status_.ok() && response_.has_result() ? &response_.result() : nullptr;
  }
  // An older daemon, which answers at once. After Get.
  bool unknown() const { return status_.ok() && !response_.has_result(); }

 private:
  grpc::ClientContext context_;
  v1::DrainResponse response_;
  grpc::Status status_;
  std::atomic<bool> answered_{false};
  std::thread thread_;
};

void SetBool(google::protobuf::Struct& object, const std::string& name, bool value) {
  (*object.mutable_fields())[name].set_bool_value(value);
}

void SetNumber(google::protobuf::Struct& object, const std::string& name, double value) {
  (*object.mutable_fields())[name].set_number_value(value);
}

void SetText(google::protobuf::Struct& object, const std::string& name, const std::string& value) {
  (*object.mutable_fields())[name].set_string_value(value);
}

// What was seen of a drain, look by look.
class DrainWatch {
 public:
  DrainWatch(const Daemon& daemon, bool progress)
      : stub_(v1::Diagnostics::NewStub(daemon.channel())), daemon_(daemon), progress_(progress) {}

  // What there is before the drain, so that there is something to tell of however soon it ends.
  absl::Status LookBefore() {
    absl::StatusOr<v1::GetStatusResponse> status = Look();
    if (status.ok()) last_ = *std::move(status);
    abandoned_before_ = last_.ledger().abandoned();
    return status.status();
  }

  // Blocks until the daemon drains, has ended, or has answered.
  void AwaitBegin(const DrainResult& result) const {
    while (!result.answered()) {
      const absl::StatusOr<v1::GetStatusResponse> status = Look();
      if (!status.ok() || status->draining()) return;
      absl::SleepFor(kBeginInterval);
    }
  }

  // Blocks until the daemon has ended. DEADLINE_EXCEEDED: it has not, long after it should have.
  // `deadline` is not later than the daemon's own.
  absl::Status AwaitEnd(absl::Time deadline) {
    deadline_ = deadline;
    for (;;) {
      absl::StatusOr<v1::GetStatusResponse> status = Look();
      if (HasEnded(status.status())) break;
      if (status.ok()) {
        Show(*status);
        last_ = *std::move(status);
      } else if (!absl::IsDeadlineExceeded(status.status())) {
        return status.status();
      }
      if (Now() >= deadline_ + kGrace) {
        return absl::DeadlineExceededError(
            absl::StrCat("the daemon still runs ", HumanDuration(Now() - deadline_),
                         " after the deadline of its drain", Held(), ": end it with SIGKILL"));
      }
      absl::SleepFor(kPollInterval);
    }
    return absl::OkStatus();
  }

  // After AwaitEnd.
  void SetResult(DrainResult& result) {
    if (const v1::DrainResult* const told = result.Get()) {
      cut_off_ = !told->drained();
      why_ =
          told->not_closed() == 0
              ? "the daemon was cut off at the deadline of its drain"
              : absl::StrCat("the daemon was cut off at the deadline of its drain, and destroyed ",
                             told->not_closed(), " objects of sessions without having closed them");
    } else if (result.unknown()) {
      // Work may have ended after the last look; not where the deadline came first.
      cut_off_ = Now() >= deadline_ &&
                 (HasWork(last_.ledger()) || last_.ledger().abandoned() > abandoned_before_);
      why_ = "the daemon ended at the deadline of its drain";
    } else {
      cut_off_ = true;
      why_ =
          Now() >= deadline_
              ? "the daemon ended at the deadline of its drain"
              : "the daemon ended in its drain without having drained: a signal cut it off, or it "
                "was killed or crashed";
    }
  }

  // After SetResult.
  bool cut_off() const { return cut_off_; }

  std::string CutOffText() const {
    return absl::StrCat(why_, "; when last seen, ", UnfinishedText(last_.ledger()), Held());
  }

  google::protobuf::Struct ToJson() const {
    google::protobuf::Struct object;
    SetBool(object, "ended", true);
    SetBool(object, "cutOff", cut_off_);
    if (!cut_off_) return object;
    SetNumber(object, "queued", last_.ledger().queued());
    SetNumber(object, "running", last_.ledger().running());
    SetNumber(object, "deferred", last_.ledger().deferred());
    SetText(object, "currentOperation", last_.thread().current_operation());
    SetText(object, "currentSession", last_.thread().current_session());
    SetText(object, "currentClient", last_.thread().current_client());
    SetNumber(object, "currentPid", last_.thread().current_pid());
    return object;
  }

 private:
  static bool HasWork(const v1::Ledger& ledger) {
    return ledger.queued() + ledger.running() + ledger.deferred() != 0;
  }

  absl::StatusOr<v1::GetStatusResponse> Look() const {
    grpc::ClientContext context;
    daemon_.Prepare(context);
    v1::GetStatusResponse status;
    const absl::Status looked = daemon_.Check(stub_->GetStatus(&context, {}, &status));
    if (!looked.ok()) return looked;
    return status;
  }

  std::string Held() const {
    const std::string current = CurrentText(last_.thread());
    return current.empty() ? "" : absl::StrCat("; the runtime thread was in ", current);
  }

  void Show(const v1::GetStatusResponse& status) {
    const std::string unfinished = UnfinishedText(status.ledger());
    if (progress_ && unfinished != shown_) {
      shown_ = unfinished;
      Say(absl::StrCat("draining: ", unfinished, "; at most ",
                       HumanDuration(std::max(deadline_ - Now(), absl::ZeroDuration())), " left"));
    }
    const v1::RuntimeThread& thread = status.thread();
    const std::string holder =
        thread.state() == v1::RuntimeThread::STATE_STALLED
            ? absl::StrCat(thread.current_session(), "\n", thread.current_operation())
            : "";
    if (holder != holder_ && !holder.empty()) {
      Say(absl::StrCat("the runtime thread is stuck in ", CurrentText(thread)));
    }
    holder_ = holder;
  }

  const std::unique_ptr<v1::Diagnostics::Stub> stub_;
  const Daemon& daemon_;
  const bool progress_;

  absl::Time deadline_;
  v1::GetStatusResponse last_;
  std::string shown_;
  std::string holder_;
  uint64_t abandoned_before_ = 0;
  bool cut_off_ = false;
  std::string why_;
};

}  // namespace

int RunDrain(const GlobalOptions& global, const DrainOptions& options) {
  const absl::StatusOr<Daemon> daemon = Daemon::Open(global);
  if (!daemon.ok()) return Fail(daemon.status());
  DrainWatch watch(*daemon, options.progress || isatty(STDERR_FILENO) != 0);
  if (options.wait) {
    if (const absl::Status looked = watch.LookBefore(); !looked.ok()) return Fail(looked);
  }
  const absl::Time asked = Now();
  const v1::DrainRequest request = Request(options.timeout);
  std::optional<DrainResult> result;
  if (options.wait) {
    result.emplace(*daemon, request);
    // What waits has to be there first: an idle daemon ends at once.
    watch.AwaitBegin(*result);
  }
  absl::StatusOr<v1::DrainResponse> response = Ask(*daemon, request);
  // It may have ended by then, and how much was left does not matter any more.
  if (options.wait && HasEnded(response.status())) response = v1::DrainResponse();
  if (!response.ok()) return Fail(response.status());
  const absl::Duration left = response->has_left() ? absl::Seconds(response->left().seconds()) +
                                                         absl::Nanoseconds(response->left().nanos())
                                                   : absl::InfiniteDuration();
  if (!options.wait) {
    if (global.json) {
      const absl::Status printed = PrintJson(*response);
      return printed.ok() ? kOk : Fail(printed);
    }
    std::printf("draining, for at most %s\n", HumanDuration(left).c_str());
    return kOk;
  }
  if (const absl::Status ended = watch.AwaitEnd(asked + left); !ended.ok()) return Fail(ended);
  watch.SetResult(*result);
  if (global.json) {
    if (const absl::Status printed = PrintJson(watch.ToJson()); !printed.ok()) return Fail(printed);
  }
  if (watch.cut_off()) return Fail(absl::DeadlineExceededError(watch.CutOffText()));
  if (!global.json) std::puts("the daemon has ended");
  return kOk;
}

}  // namespace runloop::cli
