#ifndef RUNLOOP_TESTS_TESTING_TEST_OPERATIONS_H_
#define RUNLOOP_TESTS_TESTING_TEST_OPERATIONS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/handle.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/test/v1/test_operations.pb.h"

namespace runloop {

inline constexpr char kEcho[] = "runloop.test.v1.TestOperations/Echo";
inline constexpr char kRecord[] = "runloop.test.v1.TestOperations/Record";
inline constexpr char kFail[] = "runloop.test.v1.TestOperations/Fail";
inline constexpr char kThrow[] = "runloop.test.v1.TestOperations/Throw";
inline constexpr char kHold[] = "runloop.test.v1.TestOperations/Hold";
inline constexpr char kDefer[] = "runloop.test.v1.TestOperations/Defer";
inline constexpr char kDrop[] = "runloop.test.v1.TestOperations/Drop";
inline constexpr char kMake[] = "runloop.test.v1.TestOperations/Make";
inline constexpr char kUse[] = "runloop.test.v1.TestOperations/Use";

// What the test operations did, and how a test steers them. Thread-safe. Shared with the handlers.
class TestOperations {
 public:
  using Item = std::pair<uint32_t, uint64_t>;  // producer, index

  // Registers all of them in `registry`.
  static std::shared_ptr<TestOperations> Register(OperationRegistry& registry);

  // What Record recorded, in order.
  std::vector<Item> record() const;
  void AwaitRecorded(size_t count) const;

  // Holds the calling thread, which is the runtime thread, until LetGo: what Hold does.
  void HoldThread();
  // Blocks until a Hold holds the runtime thread.
  void AwaitHeld();
  // Lets the Hold that runs, or the next one, go.
  void LetGo();

  // Blocks until a Defer left its completion, and takes it.
  Completion<test::v1::DeferReply> TakeDeferred();

  // The things that Make made and that were destroyed, by name, in order; `!` before the name of
  // one that was not closed, `?` of one that was destroyed off the runtime thread.
  std::vector<std::string> destroyed() const;
  void AwaitDestroyed(size_t count) const;
  // Blocks until a thing that closes slowly begins to.
  void AwaitClosing();
  // Does so, and lets it be closed.
  void FinishClosing();

  // Sessions whose objects were destroyed, in order: the first Record of a session makes one.
  std::vector<std::string> ended_sessions() const;
  void AwaitEndedSessions(size_t count) const;

 private:
  // An object of a session's, which tells of its end.
  struct SessionEnd {
    SessionEnd(std::shared_ptr<TestOperations> of, std::string session_id)
        : operations(std::move(of)), id(std::move(session_id)) {}
    ~SessionEnd();
    const std::shared_ptr<TestOperations> operations;
    const std::string id;
  };

  class Thing;

  mutable absl::Mutex mutex_;
  mutable absl::CondVar changed_;
  std::vector<Item> record_ ABSL_GUARDED_BY(mutex_);
  int held_ ABSL_GUARDED_BY(mutex_) = 0;
  int let_go_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Completion<test::v1::DeferReply>> deferred_ ABSL_GUARDED_BY(mutex_);
  std::vector<Closing> closing_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> destroyed_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> known_sessions_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> ended_sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_TEST_OPERATIONS_H_
