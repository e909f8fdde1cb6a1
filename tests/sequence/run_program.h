#ifndef RUNLOOP_TESTS_SEQUENCE_RUN_PROGRAM_H_
#define RUNLOOP_TESTS_SEQUENCE_RUN_PROGRAM_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "runloop/tests/sequence/coverage.h"
#include "runloop/tests/sequence/other_thread.h"
#include "runloop/tests/sequence/program.h"
#include "runloop/tests/sequence/transport.h"

namespace runloop::sequence {

// The runtime did what the reference model does not.
struct Failure {
  size_t step = 0;  // from 1
  std::string what;
};

// Runs a program on a new runtime, and compares after each step what it did with what the reference
// model says: answers, what ran and was closed and destroyed in which order and on which thread,
// outcomes, the ledger, sessions, bounds; at the end that nothing is left. The calling thread is
// the runtime thread. The sessions of other processes are carried by `transport`
// (message_session.h). With `listing`, adds what each step did, a line each.
std::optional<Failure> RunProgram(const Program& program, Transport transport, OtherThread& other,
                                  Coverage& coverage, std::vector<std::string>* listing = nullptr);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_RUN_PROGRAM_H_
