#include <cstdint>
#include <iostream>
#include <string>

#include "runloop/client/connect.h"
#include "runloop/test/v1/test_operations.pb.h"

// runloop_test_holder [TRACE_PARENT]: has the runtime thread held until somebody lets it go. Says
// `from LINE` of this file once it has dispatched that, and `done` at its end.

namespace {

constexpr char kHold[] = "runloop.test.v1.TestOperations/Hold";

}  // namespace

int main(int argc, char** argv) {
  const absl::StatusOr<runloop::RuntimeContext> context =
      runloop::Connect({.client_name = "holder"});
  if (!context.ok()) {
    std::cerr << "holder: " << context.status() << std::endl;
    return 1;
  }
  const runloop::DispatchOptions options{.trace_parent = argc > 1 ? argv[1] : ""};
  const uint32_t line = runloop::SourceLocation::current().line() + 1;
  const auto hold = context->DispatchAsync(kHold, runloop::test::v1::HoldRequest(), options);
  std::cout << "from " << line << std::endl;
  const absl::Status outcome = hold.Await(absl::Minutes(2));
  std::cout << (outcome.ok() ? "done" : outcome.ToString()) << std::endl;
  return outcome.ok() ? 0 : 1;
}
