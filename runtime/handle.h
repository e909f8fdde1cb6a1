#ifndef RUNLOOP_RUNTIME_HANDLE_H_
#define RUNLOOP_RUNTIME_HANDLE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/time/time.h"

namespace runloop {

// A session's name for an object that lives on the runtime thread: opaque, never 0, good for that
// session alone, and never used again for another object, so that a stale one is always refused.
// Travels in messages as a uint64 field.
using Handle = uint64_t;

namespace internal {
struct ClosingState;
}

// The duty to say that an object is closed. An object that needs time to close, such as a file that
// an encoder has to finish, has a method
//
//   void Close(runloop::Closing closing);
//
// It is called once, on the runtime thread, when the object's handle is released or its session has
// ended. The object begins to close, keeps `closing`, and drops it, on any thread, when it is done;
// the runtime thread goes on meanwhile. Then, or when the deadline has passed, the object is
// destroyed, on the runtime thread; its destructor must cope with either and must not wait. An
// object without the method is destroyed at once. Of a session's objects one is closed after
// another, last made first.
class Closing {
 public:
  explicit Closing(std::shared_ptr<internal::ClosingState> state) : state_(std::move(state)) {}
  Closing(Closing&&) noexcept = default;
  Closing& operator=(Closing&& other) noexcept;
  ~Closing();

  // When it ends, by the runtime's clock.
  absl::Time deadline() const;

 private:
  std::shared_ptr<internal::ClosingState> state_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_HANDLE_H_
