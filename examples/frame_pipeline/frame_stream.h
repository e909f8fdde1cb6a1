#ifndef RUNLOOP_EXAMPLES_FRAME_PIPELINE_FRAME_STREAM_H_
#define RUNLOOP_EXAMPLES_FRAME_PIPELINE_FRAME_STREAM_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/examples/pipeline/v1/frame_pipe.pb.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::examples {

// A worker's end of a pipe that it pushes frames into. They lie in a ring of buffers, each granted
// to the consumer once and written again when nobody reads it any more. One thread.
class FrameOutput {
 public:
  // Buffers in the ring at most: what the consumer has, what is on its way, and what an encoder
  // behind it still reads.
  static constexpr size_t kMaxFrames = 24;

  // Waits until the pipe has a consumer.
  static absl::StatusOr<std::unique_ptr<FrameOutput>> Open(const RuntimeContext& context,
                                                           const std::string& pipe);

  // Where to write the next frame. Waits for one to be free.
  absl::StatusOr<Buffer> NewFrame(size_t bytes);
  // Sends what NewFrame gave last; the pixels of `frame` are set here.
  absl::Status Push(pipeline::v1::Frame frame);
  // Waits until all were taken, and ends the pipe.
  absl::Status End();

 private:
  struct Slot {
    Buffer buffer;
    std::optional<Invocation> push;  // until its outcome was looked at
  };

  FrameOutput(const RuntimeContext& context, std::string pipe, std::string consumer)
      : context_(context), pipe_(std::move(pipe)), consumer_(std::move(consumer)) {}
  // True: it may be written.
  static absl::StatusOr<bool> IsFree(Slot& slot);

  const RuntimeContext context_;
  const std::string pipe_;
  const std::string consumer_;  // session
  std::vector<Slot> ring_;
  size_t next_ = 0;
  Slot* writing_ = nullptr;
};

// The other end. One thread.
class FrameInput {
 public:
  static absl::StatusOr<std::unique_ptr<FrameInput>> Open(const RuntimeContext& context,
                                                          const std::string& pipe);

  // The next frame, or nothing after `timeout`; it may be read until the next call. OUT_OF_RANGE:
  // there are no more.
  absl::StatusOr<std::optional<pipeline::v1::Frame>> Next(absl::Duration timeout);

 private:
  FrameInput(const RuntimeContext& context, std::string pipe)
      : context_(context), pipe_(std::move(pipe)) {}

  const RuntimeContext context_;
  const std::string pipe_;
  std::optional<Invocation> pull_;  // on its way
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_FRAME_PIPELINE_FRAME_STREAM_H_
