#ifndef RUNLOOP_RUNTIME_STRINGS_H_
#define RUNLOOP_RUNTIME_STRINGS_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace runloop {

// Debian builds Abseil with a string_view of its own, which does not convert from the standard one.
inline absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_STRINGS_H_
