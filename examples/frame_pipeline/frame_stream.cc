#include "runloop/examples/frame_pipeline/frame_stream.h"

#include <utility>

#include "absl/time/clock.h"

namespace runloop::examples {

using pipeline::v1::ConsumeReply;
using pipeline::v1::ConsumeRequest;
using pipeline::v1::Frame;
using pipeline::v1::ProduceReply;
using pipeline::v1::ProduceRequest;
using pipeline::v1::PullReply;
using pipeline::v1::PullRequest;
using pipeline::v1::PushReply;
using pipeline::v1::PushRequest;

namespace {

constexpr char kProduce[] = "runloop.examples.pipeline.v1.FramePipe/Produce";
constexpr char kConsume[] = "runloop.examples.pipeline.v1.FramePipe/Consume";
constexpr char kPush[] = "runloop.examples.pipeline.v1.FramePipe/Push";
constexpr char kPull[] = "runloop.examples.pipeline.v1.FramePipe/Pull";
// What the stages of a pipeline wait for each other, at most.
constexpr absl::Duration kPatience = absl::Seconds(60);

}  // namespace

absl::StatusOr<std::unique_ptr<FrameOutput>> FrameOutput::Open(const RuntimeContext& context,
                                                               const std::string& pipe) {
  ProduceRequest request;
  request.set_pipe(pipe);
  const absl::StatusOr<ProduceReply> reply =
      context.DispatchBlocking<ProduceReply>(kProduce, request, {.timeout = kPatience});
  if (!reply.ok()) return reply.status();
  return std::unique_ptr<FrameOutput>(new FrameOutput(context, pipe, reply->consumer_session_id()));
}

absl::StatusOr<bool> FrameOutput::IsFree(Slot& slot) {
  if (slot.push.has_value()) {
    if (!slot.push->done()) return false;
    const absl::Status pushed = std::exchange(slot.push, std::nullopt)->Await();
    if (!pushed.ok()) return pushed;
  }
  // The consumer may have passed it to an operation that reads on.
  return !slot.buffer.held_by_operation();
}

absl::StatusOr<Buffer> FrameOutput::NewFrame(size_t bytes) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (true) {
    for (size_t i = 0; i < ring_.size(); ++i) {
      Slot& slot = ring_[(next_ + i) % ring_.size()];
      const absl::StatusOr<bool> free = IsFree(slot);
      if (!free.ok()) return free.status();
      if (!*free) continue;
      next_ = (next_ + i + 1) % ring_.size();
      writing_ = &slot;
      return slot.buffer;
    }
    if (ring_.size() < kMaxFrames) {
      absl::StatusOr<Buffer> made = context_.NewBuffer(bytes);
      if (!made.ok()) return made.status();
      // Before anything is written to it, so that no frame waits for it.
      if (absl::Status granted = context_.Grant(*made, consumer_); !granted.ok()) return granted;
      ring_.push_back({.buffer = *std::move(made)});
      next_ = ring_.size() - 1;
      continue;
    }
    if (absl::Now() >= deadline) return absl::DeadlineExceededError("no frame became free");
    Slot& oldest = ring_[next_];
    if (oldest.push.has_value()) {
      oldest.push->Await(kPatience).IgnoreError();
    } else {
      absl::SleepFor(absl::Milliseconds(1));  // an encoder tells nobody that it is done
    }
  }
}

absl::Status FrameOutput::Push(Frame frame) {
  *frame.mutable_pixels() = writing_->buffer.ref();
  PushRequest request;
  request.set_pipe(pipe_);
  *request.mutable_frame() = std::move(frame);
  writing_->push = context_.DispatchAsync(kPush, std::move(request));
  return absl::OkStatus();
}

absl::Status FrameOutput::End() {
  PushRequest request;
  request.set_pipe(pipe_);
  const absl::StatusOr<PushReply> ended =
      context_.DispatchBlocking<PushReply>(kPush, std::move(request));
  if (!ended.ok()) return ended.status();
  for (Slot& slot : ring_) {
    if (!slot.push.has_value()) continue;
    if (absl::Status pushed = slot.push->Await(kPatience); !pushed.ok()) return pushed;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FrameInput>> FrameInput::Open(const RuntimeContext& context,
                                                             const std::string& pipe) {
  ConsumeRequest request;
  request.set_pipe(pipe);
  const absl::StatusOr<ConsumeReply> reply =
      context.DispatchBlocking<ConsumeReply>(kConsume, std::move(request));
  if (!reply.ok()) return reply.status();
  return std::unique_ptr<FrameInput>(new FrameInput(context, pipe));
}

absl::StatusOr<std::optional<Frame>> FrameInput::Next(absl::Duration timeout) {
  if (!pull_.has_value()) {
    PullRequest request;
    request.set_pipe(pipe_);
    pull_ = context_.DispatchAsync<PullReply>(kPull, std::move(request));
  }
  pull_->Await(timeout).IgnoreError();
  if (!pull_->done()) return std::optional<Frame>();
  absl::StatusOr<PullReply> reply =
      std::exchange(pull_, std::nullopt)->AwaitReply<PullReply>(absl::ZeroDuration());
  if (!reply.ok()) return reply.status();
  return std::optional<Frame>(std::move(*reply->mutable_frame()));
}

}  // namespace runloop::examples
