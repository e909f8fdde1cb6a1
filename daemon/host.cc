#include "runloop/daemon/host.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "runloop/daemon/connection_table.h"
#include "runloop/daemon/exit_watchdog.h"
#include "runloop/daemon/listener.h"
#include "runloop/daemon/listening_socket.h"
#include "runloop/daemon/log_queue.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/server.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/hosted_addresses.h"
#include "runloop/runtime/signal_watch.h"

namespace runloop {
namespace {

using daemon::ListeningSocket;

constexpr int kExitDrained = 0;
constexpr int kExitFailed = 1;
constexpr int kExitCutOff = 3;

// Calls of one connection.
constexpr int kMaxCalls = 1000, kMaxRoleCalls = 250;
// What gRPC may hold of what arrives, beside as much as may be unfinished: connections and calls,
// and some of the largest messages, which are always on their way.
constexpr int64_t kArrivingBytes = int64_t{64} << 20;
constexpr int64_t kArrivingMessages = 4;

// How long outcomes may take to reach the workers after a drain.
constexpr absl::Duration kFlushTime = absl::Seconds(1);
// After the drain's deadline a process is ended whose runtime thread has been in one task for so
// long.
constexpr absl::Duration kWatchdogGrace = absl::Milliseconds(500);
// And in any case so long after it.
const absl::Duration kLongestEnd = Runtime::kCloseGrace + kFlushTime + kWatchdogGrace;
// How long a process that is cut off may take to say so.
constexpr std::chrono::seconds kLastWords(1);

absl::StatusOr<std::vector<ListeningSocket>> OpenSockets(const HostOptions& options) {
  std::vector<ListeningSocket> sockets;
  absl::Status failed;
  for (const int fd : options.listen_fds) {
    // All are taken over, and so closed, even if one is refused.
    absl::StatusOr<ListeningSocket> adopted = ListeningSocket::Adopt(fd);
    if (adopted.ok()) {
      sockets.push_back(*std::move(adopted));
    } else {
      failed.Update(adopted.status());
    }
  }
  if (!failed.ok()) return failed;
  if (!sockets.empty()) return sockets;
  const absl::StatusOr<Address> address =
      options.listen.empty() ? DefaultAddress() : ParseAddress(options.listen);
  if (!address.ok()) return address.status();
  absl::StatusOr<ListeningSocket> socket = ListeningSocket::Listen(*address);
  if (!socket.ok()) return socket.status();
  sockets.push_back(*std::move(socket));
  return sockets;
}

}  // namespace

// Members are in the order of their dependence: the listener, which uses the servers, goes first;
// the connections, which both use, last.
class Host::Impl {
 public:
  Impl(Runtime& runtime, HostOptions options)
      : runtime_(runtime),
        core_(runtime.core()),
        options_(std::move(options)),
        log_queue_(options_.log ? options_.log : StderrLog()),
        bound_(core_->OnRuntimeThread()) {}
  ~Impl() {
    Close(absl::ZeroDuration());
    if (rings_ != nullptr) core_->RemoveIntake(*rings_);
  }

  absl::Status Start();
  int ServeUntilSignal();
  Runtime::DrainResult Drain(absl::Duration timeout);
  const std::vector<std::string>& addresses() const { return listener_addresses_; }

 private:
  // Why there are none.
  absl::Status StartRings();
  // What messages that have not arrived may hold beside `unfinished`.
  int64_t MaxArrivingBytes(const Bound& unfinished) const;
  // For connections by the main sockets, or by roles' sockets.
  absl::StatusOr<std::unique_ptr<daemon::Server>> NewServer(int max_calls, const Bound& unfinished);
  void BeginDrain(absl::Duration timeout);
  // Closes everything, and lets calls that are being answered end until `grace` has passed.
  void Close(absl::Duration grace);
  // Runs the loop until a drain was asked for, or waits while another thread runs the loop.
  absl::Status RunUntilDrain();
  // Begins the drain that ServeUntilSignal ends with, on any thread. False: it had begun.
  // FAILED_PRECONDITION: ServeUntilSignal does not run.
  absl::StatusOr<bool> RequestDrain(absl::Duration timeout);
  absl::Duration DrainLeft();
  void OnSignal(int signal);
  absl::StatusOr<absl::Duration> OnDrainCall(const PeerIdentity& peer, absl::Duration timeout);
  // The deadline of the drain has passed: ends the process if the runtime thread is stuck, or has
  // had its time to close things; else says when to look again. The watchdog's thread.
  absl::Duration OnOverdue();
  // Ends the process; the runtime thread may be anywhere.
  [[noreturn]] void CutOff(std::string_view why);

  Runtime& runtime_;
  const std::shared_ptr<internal::RuntimeCore> core_;
  const HostOptions options_;
  daemon::LogQueue log_queue_;
  const LogSink log_ = [this](LogSeverity severity, std::string_view line) {
    log_queue_.Write(severity, line);
  };
  const bool bound_;  // the owner's thread is the runtime thread

  // Constant after Start.
  std::vector<std::string> listener_addresses_;
  std::vector<std::string> hosted_;  // in the process's table

  daemon::ConnectionTable connections_;
  daemon::SessionTokens sessions_;
  // Set by Start, and there until the end: a drain may be asked for while the owner closes it.
  std::unique_ptr<daemon::Server> server_, role_server_;
  const std::shared_ptr<daemon::CompletionThread> completion_ =
      std::make_shared<daemon::CompletionThread>();
  std::shared_ptr<daemon::RingServer> rings_;  // null: there are none
  std::string why_no_rings_;
  std::unique_ptr<daemon::Listener> listener_;

  bool closed_ = false;  // the owner's thread

  absl::Mutex mutex_;
  // Null unless ServeUntilSignal runs.
  daemon::ExitWatchdog* watchdog_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // Set by the first who asks for the drain. Clock::Monotonic.
  std::optional<absl::Time> drain_deadline_ ABSL_GUARDED_BY(mutex_);
  bool stop_waiting_ ABSL_GUARDED_BY(mutex_) = false;  // RunUntilDrain
};

absl::Status Host::Impl::Start() {
  absl::StatusOr<std::vector<ListeningSocket>> sockets = OpenSockets(options_);
  if (!sockets.ok()) return sockets.status();
  if (options_.max_message_bytes < 1 || options_.max_unfinished < 1) {
    return absl::InvalidArgumentError("max_message_bytes and max_unfinished are at least 1");
  }
  if (options_.resume_grace < absl::ZeroDuration() ||
      options_.resume_grace > HostOptions::kMaxResumeGrace) {
    return absl::InvalidArgumentError(
        absl::StrCat("resume_grace is ", absl::FormatDuration(options_.resume_grace),
                     "; it is at most ", absl::FormatDuration(HostOptions::kMaxResumeGrace)));
  }
  for (const ListeningSocket& socket : *sockets) {
    listener_addresses_.push_back(socket.name());
    if (socket.address()) hosted_.push_back(socket.address()->ToString());
  }
  if (options_.ring_bytes != 0 && !IsRingSize(static_cast<uint64_t>(options_.ring_bytes))) {
    return absl::InvalidArgumentError(
        absl::StrCat("ring_bytes is ", options_.ring_bytes,
                     "; it is 0, or a power of two from 4096 to 16777216"));
  }
  if (absl::Status rings = StartRings(); !rings.ok()) why_no_rings_ = std::string(rings.message());
  absl::StatusOr<std::unique_ptr<daemon::Server>> server =
      NewServer(kMaxCalls, core_->bounds().total);
  if (!server.ok()) return server.status();
  absl::StatusOr<std::unique_ptr<daemon::Server>> role_server =
      NewServer(kMaxRoleCalls, core_->bounds().user);
  if (!role_server.ok()) return role_server.status();
  server_ = *std::move(server);
  role_server_ = *std::move(role_server);
  completion_->Start();
  server_->Serve();
  role_server_->Serve();
  absl::StatusOr<std::unique_ptr<daemon::Listener>> listener =
      daemon::Listener::Create({.sockets = *std::move(sockets),
                                .serve =
                                    [this](int fd, const std::string& role) {
                                      (role.empty() ? server_ : role_server_)->AddConnection(fd);
                                    },
                                .ended =
                                    [this](const std::string& role) {
                                      (role.empty() ? server_ : role_server_)->ConnectionEnded();
                                    },
                                .connections = &connections_,
                                .buffers = &core_->buffers(),
                                .sessions = &sessions_,
                                .rings = rings_.get(),
                                .log = log_});
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  for (const std::string& address : hosted_) AddHostedAddress(address, runtime_.context());
  // Has the loop call the runtime once even without work, so that health knows that it runs.
  core_->loop().Wake();
  return absl::OkStatus();
}

int64_t Host::Impl::MaxArrivingBytes(const Bound& unfinished) const {
  const int64_t beside = kArrivingBytes + kArrivingMessages * options_.max_message_bytes;
  return std::min(unfinished.bytes, std::numeric_limits<int64_t>::max() - beside) + beside;
}

absl::Status Host::Impl::StartRings() {
  if (options_.ring_bytes == 0)
    return absl::UnavailableError("the daemon is told to have no rings");
  daemon::SessionTerms terms{.core = core_,
                             .operations = core_->operations().List(),
                             .max_message_bytes = options_.max_message_bytes,
                             .max_unfinished = options_.max_unfinished};
  absl::StatusOr<std::shared_ptr<daemon::RingServer>> rings = daemon::RingServer::Create(
      {.terms = std::move(terms),
       .ring_bytes = static_cast<size_t>(options_.ring_bytes),
       .completion = completion_,
       .max_arriving_bytes = static_cast<size_t>(MaxArrivingBytes(core_->bounds().total)),
       .max_role_arriving_bytes = static_cast<size_t>(MaxArrivingBytes(core_->bounds().user))});
  if (!rings.ok()) return rings.status();
  if (absl::Status added = core_->AddIntake(*rings); !added.ok()) return added;
  rings_ = *std::move(rings);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<daemon::Server>> Host::Impl::NewServer(int max_calls,
                                                                      const Bound& unfinished) {
  return daemon::Server::Create(
      {.core = core_,
       .completion = completion_,
       .connections = &connections_,
       .sessions = &sessions_,
       .addresses = listener_addresses_,
       .max_message_bytes = options_.max_message_bytes,
       .max_unfinished = options_.max_unfinished,
       .max_calls = max_calls,
       .max_arriving_bytes = MaxArrivingBytes(unfinished),
       .resume_grace = options_.resume_grace,
       .rings = rings_,
       .why_no_rings = why_no_rings_,
       .on_idle = options_.on_idle,
       .drain = [this](const PeerIdentity& peer,
                       absl::Duration timeout) { return OnDrainCall(peer, timeout); },
       .log = log_});
}

void Host::Impl::Close(absl::Duration grace) {
  if (server_ == nullptr || closed_) return;
  closed_ = true;
  for (const std::string& address : hosted_) RemoveHostedAddress(address);
  const absl::Time end = Clock::Monotonic()->Now() + grace;
  // Side channels belong to the listener, and rings to them.
  if (rings_ != nullptr && core_->stopped()) rings_->Finish(end);
  listener_.reset();  // the servers get no connection after this
  for (daemon::Server* server : {server_.get(), role_server_.get()}) {
    server->Shutdown(std::max(end - Clock::Monotonic()->Now(), absl::ZeroDuration()));
  }
  completion_->Stop();
}

void Host::Impl::BeginDrain(absl::Duration timeout) {
  core_->BeginDrain();
  server_->BeginDrain(timeout);
  role_server_->BeginDrain(timeout);
}

Runtime::DrainResult Host::Impl::Drain(absl::Duration timeout) {
  BeginDrain(timeout);
  const Runtime::DrainResult result = runtime_.Drain(timeout);
  v1::DrainResult told;
  told.set_drained(result.drained);
  told.set_not_closed(result.not_closed);
  server_->TellDrained(told);
  Close(kFlushTime);
  return result;
}

absl::StatusOr<bool> Host::Impl::RequestDrain(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    if (watchdog_ == nullptr) {
      return absl::FailedPreconditionError(
          "this host does not drain when it is asked to: the program around it serves in a way of "
          "its own and ends in one, too; end that program as its manual says");
    }
    if (drain_deadline_) return false;
    drain_deadline_ = Clock::Monotonic()->Now() + timeout;
    watchdog_->Arm(timeout + kWatchdogGrace);
  }
  BeginDrain(timeout);
  // From here on the owner may drain and close. A thread of the runtime's own goes on until then.
  if (bound_) {
    runtime_.Stop();
  } else {
    absl::MutexLock lock(&mutex_);
    stop_waiting_ = true;
  }
  return true;
}

absl::Duration Host::Impl::DrainLeft() {
  absl::MutexLock lock(&mutex_);
  return std::max(*drain_deadline_ - Clock::Monotonic()->Now(), absl::ZeroDuration());
}

void Host::Impl::OnSignal(int signal) {
  const absl::StatusOr<bool> begun = RequestDrain(options_.drain_timeout);
  if (begun.ok() && !*begun) CutOff("a signal during the drain");
  log_(LogSeverity::kInfo, absl::StrCat("signal ", signal, ": draining for at most ",
                                        absl::FormatDuration(options_.drain_timeout)));
}

// On the completion-queue thread. The server ends, and this object after it, when this has
// returned.
absl::StatusOr<absl::Duration> Host::Impl::OnDrainCall(const PeerIdentity& peer,
                                                       absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) timeout = options_.drain_timeout;
  const absl::StatusOr<bool> begun = RequestDrain(timeout);
  if (!begun.ok()) return begun.status();
  const absl::Duration left = DrainLeft();
  if (*begun) {
    log_(LogSeverity::kInfo,
         absl::StrCat("process ", peer.pid, " asked for it: draining for at most ",
                      absl::FormatDuration(timeout)));
  }
  return left;
}

void Host::Impl::CutOff(std::string_view why) {
  // Neither the sink nor the snapshot's locks keep the process from ending.
  std::thread([] {
    std::this_thread::sleep_for(kLastWords);
    _exit(kExitCutOff);
  }).detach();
  const Runtime::Snapshot snapshot = core_->GetSnapshot();
  std::string line = absl::StrCat("cut off by ", std::string(why));
  if (!snapshot.current_operation.empty()) {
    absl::StrAppend(&line, ": the runtime thread has been in ", snapshot.current_operation);
    if (snapshot.current_session != nullptr) {
      const Session::Info& info = snapshot.current_session->info();
      absl::StrAppend(&line, " of session ", info.id, " of '", info.client_name, "' (process ",
                      info.peer.pid, ")");
    }
    if (!snapshot.current_call_site.empty()) {
      absl::StrAppend(&line, ", called at ", snapshot.current_call_site, ",");
    }
    absl::StrAppend(&line, " for ", absl::FormatDuration(snapshot.current_age));
  }
  log_(LogSeverity::kError, line);
  log_(LogSeverity::kError, absl::StrCat("ledger: ", snapshot.ledger.ToString()));
  log_queue_.Flush();
  _exit(kExitCutOff);
}

absl::Duration Host::Impl::OnOverdue() {
  absl::Time last;
  {
    absl::MutexLock lock(&mutex_);
    last = *drain_deadline_ + kLongestEnd;
  }
  const bool stuck = core_->GetSnapshot().current_age >= kWatchdogGrace;
  if (stuck || Clock::Monotonic()->Now() >= last) CutOff("the deadline of the drain");
  return kWatchdogGrace;
}

absl::Status Host::Impl::RunUntilDrain() {
  if (bound_) return runtime_.Run();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&stop_waiting_));
  return absl::OkStatus();
}

int Host::Impl::ServeUntilSignal() {
  Runtime::DrainResult result;
  {
    daemon::ExitWatchdog watchdog([this] { return OnOverdue(); });
    const auto set_watchdog = [this](daemon::ExitWatchdog* now) {
      absl::MutexLock lock(&mutex_);
      watchdog_ = now;
    };
    set_watchdog(&watchdog);
    const absl::Cleanup unset = [&] { set_watchdog(nullptr); };
    const absl::StatusOr<std::unique_ptr<SignalWatch>> signals =
        SignalWatch::Create([this](int signal) { OnSignal(signal); });
    if (!signals.ok()) {
      log_(LogSeverity::kError, signals.status().ToString());
      return kExitFailed;
    }
    if (absl::Status ran = RunUntilDrain(); !ran.ok()) {
      log_(LogSeverity::kError, ran.ToString());
      return kExitFailed;
    }
    // Who stopped the runtime by hand has not asked yet.
    (void)RequestDrain(options_.drain_timeout);
    result = Drain(DrainLeft());
  }
  log_(result.drained ? LogSeverity::kInfo : LogSeverity::kWarning,
       absl::StrCat(result.drained ? "drained" : "cut off at the deadline of the drain",
                    result.not_closed == 0
                        ? ""
                        : absl::StrCat(", ", result.not_closed, " objects were not closed"),
                    "; ledger: ", result.ledger.ToString()));
  log_queue_.Flush();
  return result.drained ? kExitDrained : kExitCutOff;
}

Host::Host(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Host::~Host() = default;

absl::StatusOr<std::unique_ptr<Host>> Host::Start(Runtime& runtime, HostOptions options) {
  auto impl = std::make_unique<Impl>(runtime, std::move(options));
  if (absl::Status started = impl->Start(); !started.ok()) return started;
  return std::unique_ptr<Host>(new Host(std::move(impl)));
}

int Host::ServeUntilSignal() { return impl_->ServeUntilSignal(); }

Runtime::DrainResult Host::Drain(absl::Duration timeout) { return impl_->Drain(timeout); }

const std::vector<std::string>& Host::addresses() const { return impl_->addresses(); }

}  // namespace runloop
