#ifndef RUNLOOP_RUNTIME_LOG_H_
#define RUNLOOP_RUNTIME_LOG_H_

#include <functional>
#include <string_view>

namespace runloop {

enum class LogSeverity { kInfo, kWarning, kError };

// Takes one line without its line feed. Called from any thread, several at once; must not block for
// long and must not call back into the runtime.
using LogSink = std::function<void(LogSeverity, std::string_view line)>;

// Writes `I runloop: line` to stderr in one write, so that lines of several threads do not mix. A
// line is dropped if stderr takes none for 100 ms.
LogSink StderrLog();

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_LOG_H_
