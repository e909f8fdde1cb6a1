#ifndef RUNLOOP_TESTS_TESTING_TEST_TOPICS_H_
#define RUNLOOP_TESTS_TESTING_TEST_TOPICS_H_

#include "runloop/runtime/operation_registry.h"
#include "runloop/test/v1/test_topics.pb.h"

namespace runloop {

inline constexpr char kPublish[] = "runloop.test.v1.TestTopics/Publish";
inline constexpr char kEvery[] = "runloop.test.v1.TestTopics/Every";
inline constexpr char kNewest[] = "runloop.test.v1.TestTopics/Newest";

// Registers the topics and the operation of test_topics.proto.
void RegisterTestTopics(OperationRegistry& registry);

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_TEST_TOPICS_H_
