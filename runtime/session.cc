#include "runloop/runtime/session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"

namespace runloop {

std::string HolderOf(const PeerIdentity& peer) {
  return peer.role.empty() ? absl::StrCat("uid ", peer.uid) : absl::StrCat("role ", peer.role);
}

Session::Session(std::weak_ptr<internal::RuntimeCore> core, Info info,
                 std::shared_ptr<internal::Account> user, const Bound& bound)
    : core_(std::move(core)),
      info_(std::move(info)),
      user_(std::move(user)),
      account_(info_.in_process ? nullptr
                                : std::make_unique<internal::Account>(
                                      absl::StrCat("session ", info_.id), bound)),
      lane_{.priority = info_.priority},
      handles_(*this) {}

Session::Transport Session::transport() const {
  absl::MutexLock lock(&mutex_);
  return transport_.name.empty() ? Transport{.name = info_.transport, .why = ""} : transport_;
}

void Session::SetTransport(Transport transport) {
  absl::MutexLock lock(&mutex_);
  transport_ = std::move(transport);
}

void Session::HoldOutcomes(int64_t bytes) const {
  if (user_ != nullptr) user_->AddOutcomes(bytes);
}

bool Session::MayHoldOutcomes(size_t own, size_t bound) const {
  if (user_ == nullptr || user_->outcome_bytes() <= static_cast<int64_t>(bound)) return true;
  return own <= bound / static_cast<size_t>(std::max<int64_t>(user_->sessions(), 1));
}

absl::Status Session::Release(Handle handle, absl::AnyInvocable<void(absl::Status) &&> done) {
  const std::shared_ptr<internal::RuntimeCore> core = core_.lock();
  if (core == nullptr) {
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_RUNTIME_STOPPED,
                     "the runtime has stopped");
  }
  return handles_.Release(*core, handle, std::move(done));
}

void Session::End() {
  if (ended_.exchange(true, std::memory_order_acq_rel)) return;
  if (const std::shared_ptr<internal::RuntimeCore> core = core_.lock()) {
    core->SessionEnded(shared_from_this());
  }
}

absl::Status Session::PublishMessage(
    std::string_view topic, std::shared_ptr<const google::protobuf::Message> message) const {
  const std::shared_ptr<internal::RuntimeCore> core = core_.lock();
  if (core == nullptr) {
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_RUNTIME_STOPPED,
                     "the runtime has stopped");
  }
  return core->hub().Publish(topic, std::move(message), this);
}

Session::Counts Session::counts() const {
  // Each is counted before what is read after it.
  const uint64_t finished = finished_.load();
  const uint64_t unstarted = unstarted_.load();
  const uint64_t started = started_.load();
  return {.queued = admitted_.load() - started - unstarted,
          .running = started - finished,
          .finished = finished + unstarted,
          .bytes = account_ == nullptr ? 0 : static_cast<uint64_t>(account_->held().bytes),
          .handles = handles_.size()};
}

std::shared_ptr<internal::OperationTask> Session::FindKeyed(const std::string& key) {
  absl::MutexLock lock(&mutex_);
  const auto known = keyed_.find(key);
  return known == keyed_.end() ? nullptr : known->second.lock();
}

std::shared_ptr<internal::OperationTask> Session::ExchangeKeyed(
    const std::string& key, const std::shared_ptr<internal::OperationTask>& task) {
  absl::MutexLock lock(&mutex_);
  std::weak_ptr<internal::OperationTask>& known = keyed_[key];
  std::shared_ptr<internal::OperationTask> before = known.lock();
  known = task;
  return before;
}

void Session::ForgetKeyed(const std::string& key, const internal::OperationTask& task) {
  std::shared_ptr<internal::OperationTask> kept;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  const auto known = keyed_.find(key);
  if (known == keyed_.end()) return;
  kept = known->second.lock();
  if (kept == nullptr || kept.get() == &task) keyed_.erase(known);
}

}  // namespace runloop
