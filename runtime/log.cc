#include "runloop/runtime/log.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/strings.h"

namespace runloop {

LogSink StderrLog() {
  return [](LogSeverity severity, std::string_view line) {
    constexpr char kLetters[] = {'I', 'W', 'E'};
    const std::string text =
        absl::StrCat(absl::string_view(&kLetters[static_cast<int>(severity)], 1),
                     " runloop: ", View(line), "\n");
    // Nowhere to report a failure to.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  };
}

}  // namespace runloop
