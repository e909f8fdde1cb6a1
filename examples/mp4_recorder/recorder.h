#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_RECORDER_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_RECORDER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/client/processor.h"
#include "runloop/examples/media/v1/mp4_writer.pb.h"
#include "runloop/examples/mp4_recorder/media_source.h"

namespace runloop::examples {

// Records a MediaSource through the operations of Mp4Writer, in the three patterns of work with a
// runtime thread: the writer is opened at the first frame, when the loop surely runs; frames are
// appended asynchronously to the state that lives on the runtime thread, a bounded number ahead;
// teardown blocks until the file is complete.
//
// Threads: as Processor says, one.
class Recorder final : public Processor {
 public:
  struct Options {
    std::string input;   // a file; empty: the test source
    std::string output;  // the file's name in the host's recording directory
    MediaSource::TestOptions test;
    int64_t max_frames = std::numeric_limits<int64_t>::max();
    absl::Duration max_duration = absl::InfiniteDuration();  // of the media
    bool frames_in_message = false;                          // instead of buffers
    bool progress = false;                                   // lines on stdout, see PrintProgress
  };

  explicit Recorder(Options options) : options_(std::move(options)) {}

  absl::Status Setup(const RuntimeContext& context) override;
  absl::StatusOr<Next> Process() override;
  absl::Status Teardown() override;

 private:
  absl::Status Open();
  // Sends one append and waits for the oldest if too many are on their way.
  absl::Status Append(media::v1::AppendRequest request, Buffer pixels);
  absl::Status AwaitOldest();
  // What the writer has published since the last look.
  void TakeNotifications();
  // Lines of `key=value`, the first word says what happened: `started`, `progress`, `finished`.
  // Times are seconds since 1970 (`at`) or of media (`seconds`).
  void PrintProgress();

  struct Unfinished {
    Invocation append;
    size_t bytes;
    Buffer pixels;
  };

  const Options options_;
  std::optional<RuntimeContext> context_;
  std::unique_ptr<MediaSource> source_;
  uint64_t writer_ = 0;  // 0: not opened
  std::deque<Unfinished> unfinished_;
  size_t unfinished_bytes_ = 0;
  int64_t frames_ = 0;
  int64_t media_nanos_ = 0;  // where the last frame ends
  bool failed_ = false;      // an append did, so Finish would only say it again
  std::optional<Subscription<media::v1::Progress>> progress_;
  std::optional<Subscription<media::v1::Failure>> failures_;
  uint64_t written_frames_ = 0;  // as the writer says
  uint64_t reports_ = 0;         // how often it said so
  absl::Time opened_at_;
  absl::Time next_progress_;
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_RECORDER_H_
