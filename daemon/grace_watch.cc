#include "runloop/daemon/grace_watch.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
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

bool GraceWatch::Add(const std::string& session_id, std::shared_ptr<const UniqueFd> process,
                     absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    watched_[session_id] = {.process = std::move(process), .deadline = deadline};
    if (!std::exchange(running_, true)) {
      try {
        if (thread_.joinable()) thread_.join();  // it is at its end
        thread_ = std::thread([this] { Run(); });
      } catch (const std::system_error&) {
        running_ = false;
        watched_.erase(session_id);
        return false;
      }
    }
  }
  changed_.Signal();
  return true;
}

void GraceWatch::Remove(const std::string& session_id) {
  {
    absl::MutexLock lock(&mutex_);
    if (watched_.erase(session_id) == 0 || !watched_.empty()) return;
  }
  changed_.Signal();  // the thread has nothing more to do
}

void GraceWatch::Run() {
  while (true) {
    std::vector<pollfd> polled = {{.fd = changed_.fd(), .events = POLLIN, .revents = 0}};
    // Of each process once, so that there are no more than the process may have open.
    absl::flat_hash_map<int, size_t> places;
    std::vector<std::pair<std::string, size_t>> ids;    // and whose process is in which place
    std::vector<std::shared_ptr<const UniqueFd>> kept;  // open while it polls
    absl::Time next = absl::InfiniteFuture();
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_ || watched_.empty()) {
        running_ = false;
        return;
      }
      for (const auto& [id, watched] : watched_) {
        const auto [place, is_new] = places.try_emplace(watched.process->get(), polled.size());
        if (is_new) {
          polled.push_back({.fd = watched.process->get(), .events = POLLIN, .revents = 0});
          kept.push_back(watched.process);
        }
        ids.emplace_back(id, place->second);
        next = std::min(next, watched.deadline);
      }
    }
    if (!changed_.status().ok()) next = std::min(next, Clock::Monotonic()->Now() + kBlind);
    const absl::Duration left = std::max(next - Clock::Monotonic()->Now(), absl::ZeroDuration());
    const timespec timeout = absl::ToTimespec(left);
    const int ready = ppoll(polled.data(), polled.size(),
                            next == absl::InfiniteFuture() ? nullptr : &timeout, nullptr);
    if (ready < 0 && errno != EINTR) absl::SleepFor(kBlind);
    if (polled[0].revents != 0) changed_.Clear();
    const absl::Time now = Clock::Monotonic()->Now();
    for (const auto& [id, place] : ids) {
      const bool died = polled[place].revents != 0;
      {
        absl::MutexLock lock(&mutex_);
        const auto found = watched_.find(id);
        // It may have been resumed, and lost again, meanwhile.
        if (found == watched_.end() || (!died && found->second.deadline > now)) continue;
        watched_.erase(found);
      }
      ended_(id,
             died ? Ends("its process has ended") : Ends("it was not resumed within its grace"));
    }
  }
}

}  // namespace runloop::daemon
