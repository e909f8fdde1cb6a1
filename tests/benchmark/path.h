#ifndef RUNLOOP_TESTS_BENCHMARK_PATH_H_
#define RUNLOOP_TESTS_BENCHMARK_PATH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "runloop/benchmark/v1/work.pb.h"

namespace runloop::benchmark {

// One way from a worker's process to the process that serves. One thread.
class Path {
 public:
  virtual ~Path() = default;

  // One Operate that waits for its sum, and checks it.
  virtual void Operate(std::string_view payload) = 0;
  // `count` Operates of the small payload that nobody waits for one by one; returns when all have
  // run.
  virtual void Flood(int64_t count) = 0;
  virtual v1::GetUsageReply GetUsage() = 0;
};

// The client library: the session stream.
std::unique_ptr<Path> ConnectStream(const std::string& socket);
// The same by rings.
std::unique_ptr<Path> ConnectRing(const std::string& socket);
// The same, with the payload in a buffer: written once, when it is another size than before.
std::unique_ptr<Path> ConnectBuffer(const std::string& socket);
// The same, but the operation looks at the start of the buffer only, as much as a small payload.
std::unique_ptr<Path> ConnectBufferStart(const std::string& socket);
// gRPC's ordinary stub: a unary call each, at most 256 at a time in a flood.
std::unique_ptr<Path> ConnectUnary(const std::string& socket);

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_PATH_H_
