#ifndef RUNLOOP_TESTS_SEQUENCE_PROGRAM_H_
#define RUNLOOP_TESTS_SEQUENCE_PROGRAM_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "runloop/runtime/bounds.h"
#include "runloop/runtime/priority.h"

namespace runloop::sequence {

// Of the fake clock.
using Millis = int64_t;

// A random program: what several sessions, and the host, ask of one runtime, one step after
// another. A step names what it works on by `pick` and `aim`, not by number: the model looks up
// what there is when the step's turn comes. So a program stays a program when steps are taken out
// of it.
//
// A new kind of step has its weight in program.cc; what it works on, and what must come of it, in
// one of script_*.cc; what it does to the model in one of reference_*.cc; the call that it is in
// one of driver_*.cc, and in driver_messages.cc the message, if it is one; its words in
// describe.cc; and each of its outcomes in coverage.cc.
enum class StepKind {
  kOpen,           // a session
  kDispatch,       // an operation, in a session
  kBatch,          // operations, in a session, that run in a row
  kClosure,        // a closure, of the host
  kCancelTimer,    // of a closure with a delay
  kFill,           // plain operations, or closures, until one is refused, or so many
  kCancel,         // an invocation
  kGiveUp,         // an invocation
  kForget,         // the result of an invocation that has ended
  kKill,           // ends a session at once
  kDisconnect,     // ends a session once its work is done
  kCut,            // the connection of a session, which is resumed
  kSubscribe,      // to a topic, in a session
  kUnsubscribe,    // a subscription
  kPublish,        // by the host: to all, or to one session
  kTake,           // what has come for a subscription, some of it or all
  kComplete,       // a deferred invocation, in time or late
  kFinishClosing,  // an object that took time to close, in time or late
  kAdvance,        // the clock
  kRun,            // a slice of so many tasks
  kBeginDrain,
  kDrain,
  kStop,
};

// What a dispatched operation does when it runs.
enum class Behaviour {
  kSucceed,
  kFail,
  kThrow,
  kDropCompletion,
  kMake,          // an object, given to the session by handle
  kUse,           // an object, by handle
  kRelease,       // a handle
  kDefer,         // leaves its completion for a later kComplete
  kMakeAndDefer,  // the one, then the other
  kPublish,       // as the step, to all or to the operation's own session
};

// How an object closes.
enum class Closes {
  kNoMethod,  // it has no Close
  kAtOnce,
  kThrows,
  kLater,  // when a later kFinishClosing says so
  kNever,  // keeps the duty to itself
};

// Which handle kUse and kRelease name.
enum class Whose { kOwn, kStale, kOtherSessions, kOfOtherType };

// Which invocation kCancel, kGiveUp and kComplete work on, if there is one.
enum class Aim { kQueued, kDeferred, kEnded, kRunning };

enum class Completing { kSucceed, kFail, kDrop, kMake };

// Why nothing of a batch can be taken in.
enum class Flaw { kNone, kUnknown, kKey };
// What may wait for a subscription in its process.
enum class Room { kAmple, kFewItems, kFewBytes };

inline NotificationBounds BoundsOf(Room room) {
  switch (room) {
    case Room::kAmple:
      break;
    case Room::kFewItems:
      return {.items = 3};
    case Room::kFewBytes:
      return {.items = 100, .bytes = 120};
  }
  return {};
}

// Whose work kFill adds.
enum class FillWith { kOneSession, kOneUser, kAllSessions, kClosures };

// An item that is published fits in so few bytes, and can be padded to any number from here to 132,
// and from 134 on.
inline constexpr int kLeastItemBytes = 6;

// A step, flat: each kind uses its own part.
struct Step {
  StepKind kind = StepKind::kRun;
  uint32_t pick = 0;       // which session, invocation or object
  uint32_t pick_more = 0;  // which handle of those that `whose` means; which user opens a session
  Aim aim = Aim::kQueued;
  bool elsewhere = false;  // the call is made on a thread that is not the runtime's

  Priority priority = Priority::kDefault;  // of a session that opens, or of a closure
  Behaviour behaviour = Behaviour::kSucceed;
  Closes closes = Closes::kNoMethod;
  Whose whose = Whose::kOwn;
  Millis deadline = 0;  // from now; 0: none
  Millis delay = 0;     // of a dispatch or a closure; 0: none
  int key = 0;          // of coalescing; 0: none
  int bytes = 1;
  // What the handler or closure does first, none or one: the step of somebody who acts meanwhile.
  std::vector<Step> meanwhile;

  std::vector<Step> batch;  // its dispatches
  bool stop_at_failure = false;
  Flaw flaw = Flaw::kNone;  // of one of it

  Completing completing = Completing::kSucceed;
  FillWith fill_with = FillWith::kOneSession;
  Millis time = 0;  // to advance, or for a drain
  // Tasks to run, or, unless it is 0, to fill with; items to publish; notifications to take.
  int count = 0;

  bool latest = false;      // the topic is the one that keeps only the newest
  bool to_session = false;  // is published to one
  int item_bytes = kLeastItemBytes;
  Room room = Room::kAmple;
};

// The runtime that a program runs on.
struct Setup {
  WorkBounds bounds;
  int max_handles = 0;
  // Of what waits in the daemon for one worker.
  NotificationBounds notifications;
  Millis close_timeout = 0;
};

struct Program {
  Setup setup;
  std::vector<Step> steps;
};

inline constexpr int kSessionsAtStart = 4;

// The program of a seed: `steps` random steps after those that open kSessionsAtStart sessions, and
// one that ends the runtime. The same everywhere.
Program Generate(uint64_t seed, int steps);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_PROGRAM_H_
