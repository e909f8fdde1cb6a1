#ifndef RUNLOOP_TESTS_BUFFERS_FIXTURE_H_
#define RUNLOOP_TESTS_BUFFERS_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>

#include "runloop/client/connect.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/test/v1/test_buffers.pb.h"
#include "runloop/tests/testing/test_buffers.h"

namespace runloop {

// A host of the operations on buffers, in this process, and ways to reach it.
class BuffersFixture : public testing::Test {
 protected:
  BuffersFixture() {
    char name[] = "/tmp/runloop-XXXXXX";
    directory_ = mkdtemp(name);
  }
  ~BuffersFixture() override {
    host_.reset();
    runtime_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Start(BufferBounds bounds = {}) {
    OperationRegistry registry;
    RegisterTestBuffers(registry);
    const LogSink quiet = [](LogSeverity, std::string_view) {};
    runtime_ = *Runtime::Create({.operations = std::move(registry),
                                 .thread = RuntimeThread::kSpawn,
                                 .buffer_bounds = bounds,
                                 .log = quiet});
    host_ = *Host::Start(*runtime_, {.listen = directory_ + "/s", .log = quiet});
    // By its own name this process reaches it in process; by another it goes through the socket.
    std::error_code ignored;
    std::filesystem::create_symlink(directory_ + "/s", directory_ + "/other-name", ignored);
  }

  RuntimeContext Connect(bool buffers_in_messages = false) {
    return *runloop::Connect({.address = directory_ + "/other-name",
                              .client_name = "test",
                              .buffers_in_messages = buffers_in_messages});
  }

  internal::BufferRegistry& buffers() { return runtime_->core()->buffers(); }
  // Buffers of all sessions, those included that operations hold.
  int64_t count() { return buffers().GetBounds()[0].held.items; }
  void AwaitCount(int64_t wanted) {
    while (count() != wanted) std::this_thread::yield();
  }

  static uint64_t Sum(absl::Span<const uint8_t> bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), uint64_t{0});
  }
  // What the operation says of a piece.
  static absl::StatusOr<test::v1::SumReply> Sum(const RuntimeContext& context, v1::BufferRef ref) {
    test::v1::SumRequest request;
    *request.mutable_buffer() = std::move(ref);
    return context.DispatchBlocking<test::v1::SumReply>(kSum, std::move(request));
  }
  // Makes the operation keep a piece, or none.
  static absl::StatusOr<uint64_t> Hold(const RuntimeContext& context, v1::BufferRef ref = {}) {
    test::v1::HoldBufferRequest request;
    *request.mutable_buffer() = std::move(ref);
    const auto reply =
        context.DispatchBlocking<test::v1::HoldBufferReply>(kHoldBuffer, std::move(request));
    if (!reply.ok()) return reply.status();
    return reply->sum_before();
  }
  static Buffer Filled(const RuntimeContext& context, size_t size, uint8_t fill) {
    absl::StatusOr<Buffer> buffer = context.NewBuffer(size);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    for (uint8_t& byte : buffer->mutable_data()) byte = fill;
    return *std::move(buffer);
  }

  std::string directory_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Host> host_;
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_BUFFERS_FIXTURE_H_
