#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_MEDIA_SOURCE_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_MEDIA_SOURCE_H_

#include <gst/app/gstappsink.h>
#include <gst/gst.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/examples/media/v1/mp4_writer.pb.h"
#include "runloop/examples/mp4_recorder/gst_ptr.h"
#include "runloop/runtime/buffer.h"

namespace runloop::examples {

// Frames and sound as an Mp4Writer takes them: decoded from a file, or live from a test pattern.
// Nothing is dropped: who is slow to call Next slows a file's decoder down.
//
// Threads: one thread calls everything; GStreamer decodes on threads of its own, which the
// destructor ends.
class MediaSource {
 public:
  // Any file that GStreamer reads. Knows both formats when it returns.
  // NOT_FOUND: no such file. INVALID_ARGUMENT: not a file, or no video that can be read.
  // FAILED_PRECONDITION: a part of GStreamer is not installed. Waits for at most `timeout`.
  static absl::StatusOr<std::unique_ptr<MediaSource>> OpenFile(
      const std::string& path, absl::Duration timeout = absl::Seconds(20));

  struct TestOptions {
    int width = 640;
    int height = 360;
    int frame_rate = 30;
  };
  // A moving picture and a tone, in real time, without an end.
  static absl::StatusOr<std::unique_ptr<MediaSource>> OpenTest(const TestOptions& options);

  ~MediaSource();

  MediaSource(const MediaSource&) = delete;
  MediaSource& operator=(const MediaSource&) = delete;

  // Even width and height, whatever the file has.
  const media::v1::VideoFormat& video_format() const { return video_format_; }
  // Nothing if there is no sound.
  std::optional<media::v1::AudioFormat> audio_format() const;

  // Gives the memory that a frame of so many bytes is put into.
  using NewBuffer = std::function<absl::StatusOr<Buffer>(size_t)>;
  // From now on frames are put into buffers of its, instead of the messages.
  void UseBuffers(NewBuffer new_buffer) { new_buffer_ = std::move(new_buffer); }

  struct Frame {
    media::v1::VideoFrame frame;
    Buffer pixels;  // to be kept until the frame was appended
  };
  struct EndOfStream {  // the other stream goes on
    media::v1::Stream stream;
  };
  struct EndOfMedia {};
  struct NothingYet {};
  using Item = std::variant<Frame, media::v1::AudioChunk, EndOfStream, EndOfMedia, NothingYet>;
  // The next piece of those that are ready, by time; NothingYet after `timeout`. INTERNAL: the
  // decoder failed, with its own text, or has given nothing for long.
  absl::StatusOr<Item> Next(absl::Duration timeout);

 private:
  // One appsink and the sample that it has given.
  struct Track {
    GstPtr<GstElement> sink;  // null: there is no such track
    GstPtr<GstSample> next;
    bool ended = false;
    bool end_told = false;
    int64_t last_pts = -1;
  };

  explicit MediaSource(std::string name) : name_(std::move(name)) {}

  // Starts and waits until each track has a sample or has ended.
  absl::Status Start(absl::Duration timeout);
  // Makes a track out of what `pad` gives, if it is the first of its kind. A streaming thread.
  void AddTrack(GstPad* pad);
  // From now on samples and the end of `sink` are told.
  void Connect(GstElement* sink);
  static void OnPadAdded(GstElement* decoder, GstPad* pad, gpointer source);
  static void OnNoMorePads(GstElement* decoder, gpointer source);
  static void OnEnd(GstAppSink* sink, gpointer source);
  static GstFlowReturn OnSample(GstAppSink* sink, gpointer source);
  static GstBusSyncReply OnMessage(GstBus* bus, GstMessage* message, gpointer source);
  void Notify();

  // Takes what is ready.
  void Fill(Track& track);
  // Waits until something may be ready; false at the deadline.
  bool AwaitChange(absl::Time deadline);
  absl::Status Failure();
  // Reads the formats from the first samples, and keeps them for the samples to come.
  absl::Status FixFormats();
  // When the track's next sample is presented; what lies outside the file's edit is left out.
  static std::optional<int64_t> Presentation(const Track& track);
  absl::StatusOr<std::optional<Item>> TakeFrame();
  absl::StatusOr<std::optional<Item>> TakeSound();

  const std::string name_;  // of the file, for errors
  NewBuffer new_buffer_;    // empty: in messages
  GstPtr<GstElement> pipeline_;
  Track video_;
  Track audio_;
  media::v1::VideoFormat video_format_;
  media::v1::AudioFormat audio_format_;
  absl::Time last_item_;  // when there was one

  absl::Mutex mutex_;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool tracks_known_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  // Until the tracks are known, streaming threads put the sinks here.
  GstPtr<GstElement> video_sink_ ABSL_GUARDED_BY(mutex_);
  GstPtr<GstElement> audio_sink_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_MEDIA_SOURCE_H_
