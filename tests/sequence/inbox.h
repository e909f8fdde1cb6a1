#ifndef RUNLOOP_TESTS_SEQUENCE_INBOX_H_
#define RUNLOOP_TESTS_SEQUENCE_INBOX_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "runloop/runtime/bounds.h"

namespace runloop::sequence {

// A notification, on its way to one subscription or taken by it.
struct Note {
  int subscription = 0;
  bool latest = false;  // of a topic that keeps only the newest
  int item = 0;         // what was published
  size_t bytes = 0;
  uint64_t sequence = 0;
  uint64_t dropped = 0;  // of its subscription, just before it
  bool gap = false;
};

// What waits for one subscriber, as runtime/notification_queue.h promises it.
class Inbox {
 public:
  // Why a notification will not be taken.
  enum class Fate { kTooMany, kTooManyBytes, kTooLarge, kReplaced };
  struct Gone {
    Note note;
    Fate fate;
  };

  explicit Inbox(NotificationBounds bounds) : bounds_(bounds) {}

  // What had to go for it, or that it had to go itself.
  std::vector<Gone> Push(Note note) {
    if (note.bytes > bounds_.bytes) {
      Miss(missed_[note.subscription], note);
      return {{note, Fate::kTooLarge}};
    }
    std::vector<Gone> gone;
    if (const auto older = FirstOf(note.subscription); note.latest && older != waiting_.end()) {
      gone.push_back({*older, Fate::kReplaced});
      note.dropped += older->dropped;
      note.gap |= older->gap;
      older->bytes = 0;  // it goes, and its place does not
      while (bytes() + note.bytes > bounds_.bytes) gone.push_back(DropOne(Fate::kTooManyBytes));
      *FirstOf(note.subscription) = AfterWhatWasMissed(note);
      return gone;
    }
    while (waiting_.size() >= bounds_.items) gone.push_back(DropOne(Fate::kTooMany));
    while (bytes() + note.bytes > bounds_.bytes) gone.push_back(DropOne(Fate::kTooManyBytes));
    waiting_.push_back(AfterWhatWasMissed(note));
    return gone;
  }

  // There is one.
  Note Take() {
    const Note note = waiting_.front();
    waiting_.erase(waiting_.begin());
    return note;
  }

  // What waited of a subscription that has ended.
  std::vector<Note> Forget(int subscription) {
    std::vector<Note> forgotten;
    for (const Note& note : waiting_) {
      if (note.subscription == subscription) forgotten.push_back(note);
    }
    std::erase_if(waiting_, [&](const Note& note) { return note.subscription == subscription; });
    missed_.erase(subscription);
    return forgotten;
  }
  // The subscriber has gone: what waited.
  std::vector<Note> Clear() {
    missed_.clear();
    return std::exchange(waiting_, {});
  }

  const std::vector<Note>& waiting() const { return waiting_; }

 private:
  struct Missed {
    uint64_t dropped = 0;
    bool gap = false;
  };

  static void Miss(Missed& missed, const Note& note) {
    missed.dropped += 1 + note.dropped;
    missed.gap |= note.gap;
  }

  Note AfterWhatWasMissed(Note note) {
    const Missed missed = std::exchange(missed_[note.subscription], {});
    note.dropped += missed.dropped;
    note.gap |= missed.gap;
    return note;
  }

  // The oldest of the subscription that has most of what there is too much of; the oldest of all
  // those that have as much. The next one of the subscription tells of it.
  Gone DropOne(Fate fate) {
    std::map<int, size_t> held;
    for (const Note& note : waiting_) {
      held[note.subscription] += fate == Fate::kTooMany ? 1 : note.bytes;
    }
    size_t most = 0;
    for (const auto& [subscription, much] : held) most = std::max(most, much);
    const auto oldest = std::find_if(waiting_.begin(), waiting_.end(), [&](const Note& note) {
      return held[note.subscription] == most;
    });
    const Note dropped = *oldest;
    waiting_.erase(oldest);
    if (const auto next = FirstOf(dropped.subscription); next != waiting_.end()) {
      Missed missed{next->dropped, next->gap};
      Miss(missed, dropped);
      next->dropped = missed.dropped;
      next->gap = missed.gap;
    } else {
      Miss(missed_[dropped.subscription], dropped);
    }
    return {dropped, fate};
  }

  std::vector<Note>::iterator FirstOf(int subscription) {
    return std::find_if(waiting_.begin(), waiting_.end(),
                        [&](const Note& note) { return note.subscription == subscription; });
  }
  size_t bytes() const {
    size_t sum = 0;
    for (const Note& note : waiting_) sum += note.bytes;
    return sum;
  }

  NotificationBounds bounds_;
  std::vector<Note> waiting_;
  std::map<int, Missed> missed_;  // by subscription: before the next that comes
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_INBOX_H_
