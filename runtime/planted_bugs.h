#ifndef RUNLOOP_RUNTIME_PLANTED_BUGS_H_
#define RUNLOOP_RUNTIME_PLANTED_BUGS_H_

#ifdef RUNLOOP_PLANTED_BUGS
#include <atomic>
#endif

namespace runloop::internal {

// Bugs that a test switches on in a build of its own, to see that it would find them. In every
// other build Planted is constant, and nothing of this is left in the code.
enum class PlantedBug {
  kNone,
  kSwappedOrder,  // the second in line goes first
  kSplitBatch,    // what is more urgent comes between those of a batch
  kStarvedLine,   // what is less urgent has no turn while anything else waits
  kLostOutcome,   // what is ended in the queue, by its deadline or its session's end, is not told
  kDoubleCompletion,  // an outcome is given twice
  kLeakedHandle,      // what an abandoned invocation made is not released
  kRunAfterCancel,    // what was cancelled is told so, and runs
  kTimerAfterCancel,  // the same of a timer's closure
  kResumedDuplicate,  // what a worker that resumes its session sends again runs again
  kLostNotification,  // now and then a subscriber is passed over, and nobody counts it
};

#ifdef RUNLOOP_PLANTED_BUGS
inline std::atomic<PlantedBug> planted_bug{PlantedBug::kNone};
inline bool Planted(PlantedBug bug) { return planted_bug.load() == bug; }
#else
constexpr bool Planted(PlantedBug) { return false; }
#endif

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_PLANTED_BUGS_H_
