#include "runloop/examples/frame_pipeline/stages.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "runloop/examples/media/v1/mp4_writer.pb.h"

namespace runloop::examples {

using media::v1::AppendReply;
using media::v1::AppendRequest;
using media::v1::FinishReply;
using media::v1::FinishRequest;
using media::v1::OpenReply;
using media::v1::OpenRequest;
using pipeline::v1::Frame;

namespace {

constexpr char kDrawn[] = "drawn", kFiltered[] = "filtered";
constexpr char kOpen[] = "runloop.examples.media.v1.Mp4Writer/Open";
constexpr char kAppend[] = "runloop.examples.media.v1.Mp4Writer/Append";
constexpr char kFinish[] = "runloop.examples.media.v1.Mp4Writer/Finish";
// How long a signal may go unseen.
constexpr absl::Duration kPatience = absl::Milliseconds(100);

size_t FrameBytes(int width, int height) {
  return static_cast<size_t>(width) * static_cast<size_t>(height) * 3 / 2;
}

// A gradient that moves, so that every frame has something to encode.
void Draw(absl::Span<uint8_t> pixels, int width, int height, int64_t frame) {
  uint8_t* next = pixels.data();
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) *next++ = static_cast<uint8_t>(x / 4 + y / 4 + 2 * frame);
  }
  for (int plane = 0; plane < 2; ++plane) {
    next = std::fill_n(next, static_cast<size_t>(width) * static_cast<size_t>(height) / 4,
                       static_cast<uint8_t>(plane == 0 ? 96 + frame % 64 : 160 - frame % 64));
  }
}

void PrintFinished(const char* stage, int64_t frames) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  std::printf("finished stage=%s frames=%lld cpu=%.3f\n", stage, static_cast<long long>(frames),
              seconds(usage.ru_utime) + seconds(usage.ru_stime));
  std::fflush(stdout);
}

}  // namespace

absl::Status SourceStage::Setup(const RuntimeContext& context) {
  context_ = context;
  return absl::OkStatus();
}

absl::StatusOr<Processor::Next> SourceStage::Process() {
  if (frames_ == options_.frames) return Next::kDone;
  if (output_ == nullptr) {
    absl::StatusOr<std::unique_ptr<FrameOutput>> output = FrameOutput::Open(*context_, kDrawn);
    if (!output.ok()) return output.status();
    output_ = *std::move(output);
  }
  absl::StatusOr<Buffer> pixels = output_->NewFrame(FrameBytes(options_.width, options_.height));
  if (!pixels.ok()) return pixels.status();
  Draw(pixels->mutable_data(), options_.width, options_.height, frames_);
  Frame frame;
  frame.set_width(options_.width);
  frame.set_height(options_.height);
  frame.set_pts_nanos(frames_ * 1'000'000'000 / options_.frame_rate);
  if (absl::Status pushed = output_->Push(std::move(frame)); !pushed.ok()) return pushed;
  ++frames_;
  return Next::kContinue;
}

absl::Status SourceStage::Teardown() {
  const absl::Status ended = output_ == nullptr ? absl::OkStatus() : output_->End();
  PrintFinished("source", frames_);
  return ended;
}

absl::Status FilterStage::Setup(const RuntimeContext& context) {
  context_ = context;
  return absl::OkStatus();
}

absl::StatusOr<Processor::Next> FilterStage::Process() {
  if (output_ == nullptr) {
    absl::StatusOr<std::unique_ptr<FrameOutput>> output = FrameOutput::Open(*context_, kFiltered);
    if (!output.ok()) return output.status();
    output_ = *std::move(output);
    absl::StatusOr<std::unique_ptr<FrameInput>> input = FrameInput::Open(*context_, kDrawn);
    if (!input.ok()) return input.status();
    input_ = *std::move(input);
  }
  absl::StatusOr<std::optional<Frame>> frame = input_->Next(kPatience);
  if (absl::IsOutOfRange(frame.status())) return Next::kDone;
  if (!frame.ok()) return frame.status();
  if (!frame->has_value()) return Next::kContinue;
  const absl::StatusOr<Buffer> drawn = context_->OpenBuffer((*frame)->pixels());
  if (!drawn.ok()) return drawn.status();
  absl::StatusOr<Buffer> filtered = output_->NewFrame(drawn->size());
  if (!filtered.ok()) return filtered.status();
  // Of the sizes that another process says, only what lies in both buffers is used.
  const size_t size = std::min(drawn->size(), filtered->size());
  const uint8_t* const from = drawn->data().data();
  uint8_t* const to = filtered->mutable_data().data();
  for (size_t i = 0; i < size; ++i) to[i] = static_cast<uint8_t>(255 - from[i]);
  if (absl::Status pushed = output_->Push(**std::move(frame)); !pushed.ok()) return pushed;
  ++frames_;
  return Next::kContinue;
}

absl::Status FilterStage::Teardown() {
  const absl::Status ended = output_ == nullptr ? absl::OkStatus() : output_->End();
  PrintFinished("filter", frames_);
  return ended;
}

absl::Status WriterStage::Setup(const RuntimeContext& context) {
  context_ = context;
  return absl::OkStatus();
}

absl::Status WriterStage::Open(const Frame& frame) {
  OpenRequest request;
  request.set_file_name(options_.output);
  request.mutable_video()->set_width(frame.width());
  request.mutable_video()->set_height(frame.height());
  request.mutable_video()->set_frame_rate_numerator(options_.frame_rate);
  request.mutable_video()->set_frame_rate_denominator(1);
  const absl::StatusOr<OpenReply> reply =
      context_->DispatchBlocking<OpenReply>(kOpen, std::move(request));
  if (!reply.ok()) return reply.status();
  writer_ = reply->writer();
  return absl::OkStatus();
}

absl::StatusOr<Processor::Next> WriterStage::Process() {
  if (input_ == nullptr) {
    absl::StatusOr<std::unique_ptr<FrameInput>> input = FrameInput::Open(*context_, kFiltered);
    if (!input.ok()) return input.status();
    input_ = *std::move(input);
  }
  absl::StatusOr<std::optional<Frame>> frame = input_->Next(kPatience);
  if (absl::IsOutOfRange(frame.status())) return Next::kDone;
  if (!frame.ok()) return frame.status();
  if (!frame->has_value()) return Next::kContinue;
  if (writer_ == 0) {
    if (absl::Status opened = Open(**frame); !opened.ok()) return opened;
  }
  AppendRequest request;
  request.set_writer(writer_);
  *request.mutable_video()->mutable_buffer() = std::move(*(*frame)->mutable_pixels());
  request.mutable_video()->set_pts_nanos((*frame)->pts_nanos());
  // Once it has run the encoder holds the frame, and the next Pull may give it back.
  const absl::StatusOr<AppendReply> appended =
      context_->DispatchBlocking<AppendReply>(kAppend, std::move(request));
  if (!appended.ok()) return appended.status();
  ++frames_;
  return Next::kContinue;
}

absl::Status WriterStage::Teardown() {
  if (writer_ == 0) return absl::OkStatus();
  FinishRequest request;
  request.set_writer(writer_);
  const absl::StatusOr<FinishReply> reply = context_->DispatchBlocking<FinishReply>(
      kFinish, std::move(request), {.timeout = absl::Seconds(65)});
  PrintFinished("writer", frames_);
  return reply.status();
}

}  // namespace runloop::examples
