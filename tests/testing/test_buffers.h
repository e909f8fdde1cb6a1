#ifndef RUNLOOP_TESTS_TESTING_TEST_BUFFERS_H_
#define RUNLOOP_TESTS_TESTING_TEST_BUFFERS_H_

#include "runloop/runtime/operation_registry.h"

namespace runloop {

inline constexpr char kSum[] = "runloop.test.v1.TestBuffers/Sum";
inline constexpr char kHoldBuffer[] = "runloop.test.v1.TestBuffers/HoldBuffer";
inline constexpr char kMakeBuffer[] = "runloop.test.v1.TestBuffers/MakeBuffer";
inline constexpr char kReadDescriptor[] = "runloop.test.v1.TestBuffers/ReadDescriptor";

// Registers the operations of test_buffers.proto.
void RegisterTestBuffers(OperationRegistry& registry);

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_TEST_BUFFERS_H_
