#ifndef RUNLOOP_TESTS_SEQUENCE_OPERATIONS_H_
#define RUNLOOP_TESTS_SEQUENCE_OPERATIONS_H_

namespace runloop::sequence {

// The operations that programs dispatch: those whose handler has an outcome when it returns, those
// that may have it later, and the runtime's own.
inline constexpr char kAtOnce[] = "runloop.test.v1.TestOperations/Echo";
inline constexpr char kDeferring[] = "runloop.test.v1.TestOperations/Record";
inline constexpr char kRelease[] = "runloop.v1.Handles/Release";

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_OPERATIONS_H_
