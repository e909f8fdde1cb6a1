#include "runloop/runtime/runtime.h"

#include <atomic>
#include <future>
#include <utility>

#include "runloop/runtime/core.h"
#include "runloop/runtime/signal_watch.h"

namespace runloop {

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(Options options) {
  const bool spawn = options.thread == RuntimeThread::kSpawn;
  if (spawn && options.loop != nullptr && !options.loop->can_run()) {
    return absl::InvalidArgumentError(
        "a loop that somebody else runs cannot have a thread of the runtime's: use kBind on the "
        "thread that runs it");
  }
  auto core = std::make_shared<internal::RuntimeCore>(std::move(options));
  std::unique_ptr<Runtime> runtime(new Runtime(core, spawn));
  if (!spawn) {
    if (absl::Status bound = core->Bind(); !bound.ok()) return bound;
    return runtime;
  }
  std::promise<absl::Status> bound;
  runtime->thread_ = std::thread([&bound, raw = runtime.get()] { raw->ServeThread(bound); });
  if (absl::Status status = bound.get_future().get(); !status.ok()) return status;
  return runtime;
}

Runtime::Runtime(std::shared_ptr<internal::RuntimeCore> core, bool spawned)
    : core_(std::move(core)), spawned_(spawned) {}

Runtime::~Runtime() {
  if (spawned_) {
    EndThread(std::nullopt);
  } else if (!core_->stopped()) {
    core_->Shutdown();
  }
}

void Runtime::EndThread(std::optional<absl::Duration> drain_timeout) {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&drain_mutex_);
    ending_ = true;
    drain_timeout_ = drain_timeout;
    ending_changed_.Signal();
  }
  core_->RequestQuit();
  thread_.join();
}

void Runtime::ServeThread(std::promise<absl::Status>& bound) {
  const absl::Status status = core_->Bind();
  bound.set_value(status);
  if (status.ok()) {
    if (absl::Status ran = core_->RunLoopUntilQuit(); !ran.ok()) {
      core_->Log(LogSeverity::kError, ran.ToString());
    }
  }
  std::optional<absl::Duration> drain_timeout;
  {
    absl::MutexLock lock(&drain_mutex_);
    while (!ending_) ending_changed_.Wait(&drain_mutex_);  // Stop leaves the queue to who ends this
    drain_timeout = drain_timeout_;
  }
  if (!drain_timeout.has_value()) {
    core_->Shutdown();
    return;
  }
  const DrainResult result = core_->Drain(*drain_timeout);
  absl::MutexLock lock(&drain_mutex_);
  drain_result_ = result;
}

LocalRuntimeContext Runtime::context() const { return core_->context(); }

absl::Status Runtime::Run() { return core_->RunLoopUntilQuit(); }

absl::StatusOr<int> Runtime::WaitForSignal() {
  std::atomic<int> received{0};
  absl::StatusOr<std::unique_ptr<SignalWatch>> watch = SignalWatch::Create([&](int signal) {
    received.store(signal);
    core_->RequestQuit();
  });
  if (!watch.ok()) return watch.status();
  if (absl::Status ran = core_->RunLoopUntilQuit(); !ran.ok()) return ran;
  return received.load();
}

void Runtime::Stop() { core_->RequestQuit(); }

void Runtime::BeginDrain() { core_->BeginDrain(); }

Runtime::DrainResult Runtime::Drain(absl::Duration timeout) {
  if (!spawned_) return core_->Drain(timeout);
  EndThread(timeout);
  absl::MutexLock lock(&drain_mutex_);
  return drain_result_;
}

Runtime::Snapshot Runtime::GetSnapshot() const { return core_->GetSnapshot(); }

const std::string& Runtime::id() const { return core_->id(); }

const OperationRegistry& Runtime::operations() const { return core_->operations(); }

}  // namespace runloop
