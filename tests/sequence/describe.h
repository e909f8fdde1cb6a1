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

// `item 7 as 3, item 9 as 5 after 1 dropped; 4 dropped in all; no more: OK`: what was taken from a
// subscription that was told so far that so many were dropped. `status` is empty: there may be
// more.
std::string DescribeTaken(const std::vector<Note>& taken, uint64_t dropped,
                          const std::string& status);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_DESCRIBE_H_
