#include "runloop/daemon/grace_watch.h"

#include <poll.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

// How often it looks where nothing can wake it.
constexpr absl::Duration kBlind = absl::Milliseconds(100);

absl::Status Ends(const char* why) {
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED, why);
}

}  // namespace

GraceWatch::~GraceWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.Signal();
  if (thread_.joinable()) thread_.join();
}

void GraceWatch::Add(const std::string& session_id, std::shared_ptr<const UniqueFd> process,
                     absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    watched_[session_id] = {.process = std::move(process), .deadline = deadline};
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  changed_.Signal();
}

void GraceWatch::Remove(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  watched_.erase(session_id);  // the thread may look once more for nothing
}

void GraceWatch::Run() {
  std::vector<pollfd> polled;
  std::vector<std::string> ids;
  while (true) {
    std::vector<std::shared_ptr<const UniqueFd>> kept;  // open while it polls
    polled = {{.fd = changed_.fd(), .events = POLLIN, .revents = 0}};
    ids.clear();
    absl::Time next = absl::InfiniteFuture();
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      for (const auto& [id, watched] : watched_) {
        polled.push_back({.fd = watched.process->get(), .events = POLLIN, .revents = 0});
        ids.push_back(id);
        kept.push_back(watched.process);
        next = std::min(next, watched.deadline);
      }
    }
    if (!changed_.status().ok()) next = std::min(next, Clock::Monotonic()->Now() + kBlind);
    const absl::Duration left = std::max(next - Clock::Monotonic()->Now(), absl::ZeroDuration());
    const timespec timeout = absl::ToTimespec(left);
    (void)ppoll(polled.data(), polled.size(), next == absl::InfiniteFuture() ? nullptr : &timeout,
                nullptr);
    if (polled[0].revents != 0) changed_.Clear();
    const absl::Time now = Clock::Monotonic()->Now();
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool died = polled[i + 1].revents != 0;
      {
        absl::MutexLock lock(&mutex_);
        const auto found = watched_.find(ids[i]);
        // It may have been resumed, and lost again, meanwhile.
        if (found == watched_.end() || (!died && found->second.deadline > now)) continue;
        watched_.erase(found);
      }
      ended_(ids[i],
             died ? Ends("its process has ended") : Ends("it was not resumed within its grace"));
    }
  }
}

}  // namespace runloop::daemon
