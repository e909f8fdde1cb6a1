#ifndef RUNLOOP_TESTS_SEQUENCE_DESCRIBE_H_
#define RUNLOOP_TESTS_SEQUENCE_DESCRIBE_H_

#include <string>
#include <vector>

#include "runloop/tests/sequence/reference.h"
#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {

// Programs and what came of them, for people. `#` is an invocation, `s` a session, `o` an object.

// `an operation that fails`, `a closure`: what it is, and its row in the table of outcomes.
const char* KindOf(const Reference::Invocation& invocation);

// `give up #12 -> it still runs`.
std::string Describe(const Action& action, const Reference& reference);

// `#3 starts, o1 is destroyed`.
std::string Describe(const Event& event);
std::string Describe(const std::vector<Event>& events);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_DESCRIBE_H_
