#ifndef RUNLOOP_TESTS_TESTING_SPAWN_H_
#define RUNLOOP_TESTS_TESTING_SPAWN_H_

#include <memory>
#include <string_view>
#include <utility>

#include "runloop/runtime/runtime.h"

namespace runloop {

// A runtime with a thread of its own, which logs nothing unless the options say so.
inline std::unique_ptr<Runtime> Spawn(RuntimeOptions options = {}) {
  options.thread = RuntimeThread::kSpawn;
  if (!options.log) options.log = [](LogSeverity, std::string_view) {};
  return *Runtime::Create(std::move(options));
}

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_SPAWN_H_
