#ifndef RUNLOOP_TESTS_SEQUENCE_OBSERVED_H_
#define RUNLOOP_TESTS_SEQUENCE_OBSERVED_H_

#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/handle.h"
#include "runloop/tests/sequence/describe.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {

// What the runtime was seen to do. Any thread.
class Observed {
 public:
  // The first counts.
  void Fail(const std::string& what) {
    absl::MutexLock lock(&mutex_);
    if (failure_.empty()) failure_ = what;
  }
  std::string failure() const {
    absl::MutexLock lock(&mutex_);
    return failure_;
  }
  bool failed() const {
    absl::MutexLock lock(&mutex_);
    return !failure_.empty();
  }

  std::thread::id runtime_thread() const { return runtime_thread_; }

  void Happens(Event::Kind kind, int id) {
    if (std::this_thread::get_id() != runtime_thread_) {
      Fail(absl::StrCat(Describe(Event{kind, id}), " on a thread that is not the runtime's"));
    }
    absl::MutexLock lock(&mutex_);
    events_.push_back({kind, id});
  }

  void Starts(int invocation) {
    if (++inside_ > 1) Fail(absl::StrCat("#", invocation, " starts while another one runs"));
    {
      absl::MutexLock lock(&mutex_);
      const auto ended = all_outcomes_.find(invocation);
      if (ended != all_outcomes_.end() && failure_.empty()) {
        failure_ = absl::StrCat("#", invocation, " runs after its outcome, ", ended->second);
      }
    }
    Happens(Event::Kind::kStart, invocation);
  }
  void Returns() { --inside_; }

  void Outcome(int invocation, const std::string& outcome) {
    absl::MutexLock lock(&mutex_);
    const auto [entry, first] = all_outcomes_.emplace(invocation, outcome);
    if (!first && failure_.empty()) {
      failure_ =
          absl::StrCat("#", invocation, " has two outcomes, ", entry->second, " and ", outcome);
    }
    outcomes_[invocation] = outcome;
  }

  // It is a closure, whose cancel was told to be in time.
  void TimerCancelled(int invocation) {
    absl::MutexLock lock(&mutex_);
    all_outcomes_.emplace(invocation, "the cancel of its timer");
  }

  Reference::Expected Take() {
    absl::MutexLock lock(&mutex_);
    return {.events = std::exchange(events_, {}), .outcomes = std::exchange(outcomes_, {})};
  }

 private:
  const std::thread::id runtime_thread_ = std::this_thread::get_id();
  int inside_ = 0;  // the runtime thread only
  mutable absl::Mutex mutex_;
  std::string failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
  std::map<int, std::string> outcomes_ ABSL_GUARDED_BY(mutex_);  // since Take
  std::map<int, std::string> all_outcomes_ ABSL_GUARDED_BY(mutex_);
};

// The duties to say that an object is closed, by object. The runtime thread.
using Duties = std::map<int, Closing>;

class PlainObject {
 public:
  PlainObject(Observed& observed, int id) : observed_(observed), id_(id) {}
  ~PlainObject() { observed_.Happens(Event::Kind::kDestroy, id_); }

 private:
  Observed& observed_;
  const int id_;
};

class ClosingObject {
 public:
  ClosingObject(Observed& observed, Duties& duties, int id, Closes closes)
      : observed_(observed), duties_(duties), id_(id), closes_(closes) {}
  ~ClosingObject() { observed_.Happens(Event::Kind::kDestroy, id_); }

  void Close(Closing closing) {
    observed_.Happens(Event::Kind::kClose, id_);
    if (closes_ == Closes::kThrows) throw std::runtime_error("closing is hard");
    if (closes_ == Closes::kLater) duties_.emplace(id_, std::move(closing));
    if (closes_ == Closes::kNever) kept_.emplace(std::move(closing));
  }

 private:
  Observed& observed_;
  Duties& duties_;
  const int id_;
  const Closes closes_;
  std::optional<Closing> kept_;
};

// What a closure captured: knows where it is destroyed.
class Captured {
 public:
  explicit Captured(Observed& observed, int& alive) : observed_(observed), alive_(alive) {
    ++alive_;
  }
  ~Captured() {
    --alive_;
    if (admitted && std::this_thread::get_id() != observed_.runtime_thread()) {
      observed_.Fail("what a closure captured is destroyed on a thread that is not the runtime's");
    }
  }
  bool admitted = true;

 private:
  Observed& observed_;
  int& alive_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_OBSERVED_H_
