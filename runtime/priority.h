#ifndef RUNLOOP_RUNTIME_PRIORITY_H_
#define RUNLOOP_RUNTIME_PRIORITY_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace runloop {

// How urgent the work of a session or context is. It belongs to all of it, never to one dispatch:
// so the order of one session is never broken, and only what is of different priorities may pass
// each other.
//
// What is interactive starts before what is default, and that before what is background. Nothing
// starves: while a default task is first in its line, at most 7 interactive ones start in a row;
// and while a background one is, at most 63 others, and closures that had been taken when it came,
// of which there are up to 31. A batch is never split, so it may be more; then as many turns more
// follow, as long as what it has passed goes on waiting. A task that runs is never interrupted.
//
// What an operation's handler hands over by OperationContext::runtime() is default, whatever the
// priority of the session that it runs for.
enum class Priority : uint8_t {
  kInteractive,  // somebody waits for it: a window, audio
  kDefault,
  kBackground,  // thumbnails, statistics, cleaning up
};
inline constexpr int kPriorities = 3;

// `interactive`, `default`, `background`.
constexpr std::string_view NameOf(Priority priority) {
  constexpr std::string_view kNames[kPriorities] = {"interactive", "default", "background"};
  return kNames[static_cast<int>(priority)];
}
constexpr std::optional<Priority> PriorityOf(std::string_view name) {
  for (int i = 0; i < kPriorities; ++i) {
    if (NameOf(static_cast<Priority>(i)) == name) return static_cast<Priority>(i);
  }
  return std::nullopt;
}

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_PRIORITY_H_
