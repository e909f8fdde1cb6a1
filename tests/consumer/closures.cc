// runloop::runtime alone: no gRPC in the program.
#include <runloop/runtime/local_context.h>
#include <runloop/runtime/runtime.h>

#include <cstdio>

int main() {
  auto runtime = runloop::Runtime::Create({.thread = runloop::RuntimeThread::kSpawn});
  if (!runtime.ok()) return 1;
  const auto answer = (*runtime)->context().RunOnRuntimeThreadBlocking([] { return 42; });
  std::printf("%d\n", answer.value_or(0));
  return answer.value_or(0) == 42 ? 0 : 1;
}
