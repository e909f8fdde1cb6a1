#ifndef RUNLOOP_EXAMPLES_FRAME_PIPELINE_STAGES_H_
#define RUNLOOP_EXAMPLES_FRAME_PIPELINE_STAGES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/client/processor.h"
#include "runloop/examples/frame_pipeline/frame_stream.h"

namespace runloop::examples {

// The stages of a pipeline, each a process: draws frames, turns them into their negative, has them
// recorded as MP4 by the operations of Mp4Writer. Between them no frame is copied. Each prints
// `finished stage=... frames=... cpu=...` at its end.

struct StageOptions {
  std::string stage;  // source, filter or writer
  std::string output = "pipeline.mp4";
  int width = 1920;
  int height = 1080;
  int frame_rate = 30;
  int64_t frames = 300;
};

// Draws.
class SourceStage final : public Processor {
 public:
  explicit SourceStage(StageOptions options) : options_(std::move(options)) {}
  absl::Status Setup(const RuntimeContext& context) override;
  absl::StatusOr<Next> Process() override;
  absl::Status Teardown() override;

 private:
  const StageOptions options_;
  std::optional<RuntimeContext> context_;
  std::unique_ptr<FrameOutput> output_;
  int64_t frames_ = 0;
};

// Reads what the source drew where it lies, and writes its negative into a buffer of its own.
class FilterStage final : public Processor {
 public:
  absl::Status Setup(const RuntimeContext& context) override;
  absl::StatusOr<Next> Process() override;
  absl::Status Teardown() override;

 private:
  std::optional<RuntimeContext> context_;
  std::unique_ptr<FrameInput> input_;
  std::unique_ptr<FrameOutput> output_;
  int64_t frames_ = 0;
};

// Has the encoder read what the filter wrote where it lies: it only passes the reference on.
class WriterStage final : public Processor {
 public:
  explicit WriterStage(StageOptions options) : options_(std::move(options)) {}
  absl::Status Setup(const RuntimeContext& context) override;
  absl::StatusOr<Next> Process() override;
  absl::Status Teardown() override;

 private:
  absl::Status Open(const pipeline::v1::Frame& frame);

  const StageOptions options_;
  std::optional<RuntimeContext> context_;
  std::unique_ptr<FrameInput> input_;
  uint64_t writer_ = 0;
  int64_t frames_ = 0;
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_FRAME_PIPELINE_STAGES_H_
