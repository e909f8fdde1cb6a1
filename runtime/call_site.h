#ifndef RUNLOOP_RUNTIME_CALL_SITE_H_
#define RUNLOOP_RUNTIME_CALL_SITE_H_

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <set>
#include <source_location>  // IWYU pragma: keep: says whether there is one
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace runloop {

namespace internal {

// Stands for std::source_location where the compiler cannot make one (clang before 16): the same
// pointer to the same data, which is kept in a table of the process, at the price of a look-up.
class KeptSourceLocation {
 public:
  static KeptSourceLocation current(const char* file = __builtin_FILE(),
                                    const char* function = __builtin_FUNCTION(),
                                    uint32_t line = __builtin_LINE());
  KeptSourceLocation() = default;
  const char* file_name() const { return place_ == nullptr ? "" : place_->file; }
  const char* function_name() const { return place_ == nullptr ? "" : place_->function; }
  uint32_t line() const { return place_ == nullptr ? 0 : place_->line; }

 private:
  struct Place {
    const char* file;
    const char* function;
    uint32_t line;
    uint32_t column;

    auto operator<=>(const Place&) const = default;
  };
  const Place* place_ = nullptr;
};

}  // namespace internal

#ifdef __cpp_lib_source_location
using SourceLocation = std::source_location;
#else
using SourceLocation = internal::KeptSourceLocation;
#endif

namespace internal {

// What a peer says of a place in its source: a claim, on one line and bounded.
struct CallSiteText {
  std::string file;
  uint32_t line = 0;
  std::string function;

  auto operator<=>(const CallSiteText&) const = default;
};

}  // namespace internal

// The place in a program's source that handed over a closure or an operation: for people. A value
// of one pointer. It refers to what the compiler has put into the program, or, if a worker in
// another process told it, to what that worker's session keeps; so it is good while the shared
// library that made it is loaded, and while the session exists. Thread-safe.
class CallSite {
 public:
  // Not known.
  CallSite() = default;
  explicit CallSite(SourceLocation where) : bits_(std::bit_cast<uintptr_t>(where)) {}
  explicit CallSite(const internal::CallSiteText* told)
      : bits_(told == nullptr ? 0 : reinterpret_cast<uintptr_t>(told) | kTold) {}

  bool known() const { return bits_ != 0; }
  // The file with the last two of its directories at most; empty if it is not known.
  std::string_view file() const;
  // From 1; 0 if it is not known.
  uint32_t line() const;
  // As the compiler writes it, with what it knows of types.
  std::string_view function() const;
  // `src/recorder/main.cc:42 (int main())`, bounded, on one line; empty if it is not known.
  std::string ToString() const;

  // A peer told it: it lives as long as that one's session.
  bool told() const { return (bits_ & kTold) != 0; }

  bool operator==(const CallSite&) const = default;
  template <typename H>
  friend H AbslHashValue(H hash, CallSite site) {
    return H::combine(std::move(hash), site.bits_);
  }

 private:
  // Both are pointers to what is aligned to more than one.
  static constexpr uintptr_t kTold = 1;
  static_assert(sizeof(SourceLocation) == sizeof(uintptr_t));
  static_assert(alignof(internal::CallSiteText) > kTold);

  uintptr_t bits_ = 0;
};

namespace internal {

// Each of a call site's texts has at most so many bytes.
inline constexpr size_t kMaxCallSiteText = 128;

// `text` for people: UTF-8, cut to `most` bytes between two characters, on one line and without
// what steers a terminal.
std::string CleanText(std::string_view text, size_t most);

// What one peer has told of its source: so many places at most, each once. Thread-safe.
class CallSiteTable {
 public:
  static constexpr size_t kMost = 256;

  // Lives as long as the table. Null: there is no room for another one.
  const CallSiteText* Keep(std::string_view file, uint32_t line, std::string_view function);

 private:
  absl::Mutex mutex_;
  std::set<CallSiteText> sites_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_CALL_SITE_H_
