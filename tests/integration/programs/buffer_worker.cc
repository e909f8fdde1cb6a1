#include <cstdlib>
#include <iostream>
#include <string>

#include "runloop/client/connect.h"
#include "runloop/test/v1/test_buffers.pb.h"

// runloop_test_buffer_worker: says `session ID`, has the host sum a buffer of 3,110,400 bytes of 1
// again and again, and says `summed N SUM IN_MESSAGE`. Then it obeys lines on stdin: `grant ID`
// lets a session read the buffer and says `granted BUFFER`; `read BUFFER` opens one, says `read
// SUM`.

namespace {

using runloop::Buffer;
using runloop::RuntimeContext;
using runloop::test::v1::SumReply;
using runloop::test::v1::SumRequest;

constexpr size_t kSize = 3'110'400;
constexpr int kFrames = 100;

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::cerr << "buffer_worker: " << value.status() << std::endl;
  std::exit(1);
}

}  // namespace

int main() {
  const RuntimeContext context = Must(runloop::Connect({.client_name = "buffer_worker"}));
  std::cout << "session " << context.session_id() << std::endl;
  SumReply reply;
  Buffer frame;
  for (int i = 0; i < kFrames; ++i) {
    frame = Buffer();
    frame = Must(context.NewBuffer(kSize));
    for (uint8_t& byte : frame.mutable_data()) byte = 1;
    SumRequest request;
    *request.mutable_buffer() = frame.ref();
    reply = Must(context.DispatchBlocking<SumReply>("runloop.test.v1.TestBuffers/Sum", request));
  }
  std::cout << "summed " << kFrames << ' ' << reply.sum() << ' ' << reply.in_message() << std::endl;

  for (std::string line; std::getline(std::cin, line);) {
    if (line.starts_with("grant ")) {
      const absl::Status granted = context.Grant(frame, line.substr(6));
      std::cout << (granted.ok() ? "granted " + std::to_string(frame.ref().buffer())
                                 : "refused " + granted.ToString())
                << std::endl;
    } else if (line.starts_with("read ")) {
      runloop::v1::BufferRef ref;
      ref.set_buffer(std::stoull(line.substr(5)));
      ref.set_length(kSize);
      const absl::StatusOr<Buffer> opened = context.OpenBuffer(ref);
      uint64_t sum = 0;
      if (opened.ok()) {
        for (const uint8_t byte : opened->data()) sum += byte;
      }
      std::cout << (opened.ok() ? "read " + std::to_string(sum)
                                : "refused " + opened.status().ToString())
                << std::endl;
    }
  }
  return 0;
}
