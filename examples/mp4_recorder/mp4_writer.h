#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_WRITER_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_WRITER_H_

#include <gst/app/gstappsrc.h>
#include <gst/gst.h>
#include <gst/video/video.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/examples/media/v1/mp4_writer.pb.h"
#include "runloop/examples/mp4_recorder/gst_ptr.h"

namespace runloop::examples {

// Writes one MP4 file with a GStreamer pipeline:
//
//   appsrc ! x264enc ! queue ! mp4mux ! filesink
//   appsrc ! audioconvert ! audioresample ! avenc_aac ! queue ! mp4mux
//
// Threads: everything here belongs to one thread, which runs a GLib main context as its default
// one: the runtime thread of a host with the GLib loop. The pipeline encodes on threads of its own;
// what they have to say (room, end, errors) comes to this thread as messages on the bus, whose
// watch is a source of that context. Nothing here waits for them but the
// end: stopping the pipeline takes as long as the frame that is being encoded, and the destructor
// may complete the file.
//
// Callbacks run on this thread, from the loop or within the call that was given them, once each,
// and are destroyed unrun with the writer. They may drop the last reference to it.
//
// Destroying a writer that was not finished completes the file if that takes less than
// kDestructionTimeout, and then ends the pipeline's threads and closes the file.
class Mp4Writer : public std::enable_shared_from_this<Mp4Writer> {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  using Finished = absl::AnyInvocable<void(absl::StatusOr<media::v1::FinishReply>) &&>;

  static constexpr absl::Duration kDestructionTimeout = absl::Seconds(2);

  // Checks the formats alone: INVALID_ARGUMENT as Mp4Writer.Open.
  static absl::Status CheckFormats(const media::v1::OpenRequest& request);

  // Checks the formats and creates the file `path`, which is replaced if it exists. gst_init was
  // called before. INVALID_ARGUMENT, FAILED_PRECONDITION: as Mp4Writer.Open.
  static absl::StatusOr<std::shared_ptr<Mp4Writer>> Create(const std::string& path,
                                                           const media::v1::OpenRequest& request);

  ~Mp4Writer();

  Mp4Writer(const Mp4Writer&) = delete;
  Mp4Writer& operator=(const Mp4Writer&) = delete;

  // Takes the request's media; calls `done` with OK when there is room for more, or with why it was
  // not taken. Errors as Mp4Writer.Append.
  void Append(media::v1::AppendRequest request, Done done);

  // Ends the streams and calls `finished` when the file is complete, or with DEADLINE_EXCEEDED
  // after `timeout`. The pipeline's threads have ended by then. Appends that still wait end first.
  // FAILED_PRECONDITION if called before.
  void Finish(absl::Duration timeout, Finished finished);

  // Answers the appends that wait for room with `status`: nobody listens any more.
  void DropWaiting(const absl::Status& status);

  const std::string& path() const { return path_; }

 private:
  // One appsrc and what waits for it. Shared with the callback on the streaming thread.
  struct Stream {
    GstAppSrc* source = nullptr;  // the pipeline's
    uint64_t max_bytes = 0;
    bool ended = false;
    int64_t last_pts = -1;
    int64_t end = 0;                   // where the last piece ends
    std::vector<Done> waiting;         // appends that are in, but found no room behind them
    std::atomic<bool> starved{false};  // somebody waits: tell the bus when there is room
  };

  Mp4Writer(std::string path, const media::v1::OpenRequest& request);

  absl::Status Build();
  // Makes an element in the pipeline.
  absl::StatusOr<GstElement*> Add(const char* factory);
  absl::Status AddSource(Stream& stream, GstCaps* caps, uint64_t max_bytes);
  // Makes `factories` in the pipeline and links the stream's source through them and a queue to the
  // muxer.
  absl::StatusOr<std::vector<GstElement*>> Branch(Stream& stream,
                                                  const std::vector<const char*>& factories,
                                                  GstElement* muxer, const char* muxer_pad);
  absl::Status Start();

  absl::Status AppendVideo(media::v1::VideoFrame frame);
  absl::Status AppendAudio(media::v1::AudioChunk chunk);
  absl::Status EndStream(media::v1::Stream which);
  absl::Status CheckOpen(const Stream& stream) const;
  absl::Status Push(Stream& stream, GstBuffer* buffer);
  void EndStreams();
  void End(Stream& stream);

  static void OnNeedData(GstAppSrc* source, guint length, gpointer stream);
  static gboolean OnMessage(GstBus* bus, GstMessage* message, gpointer writer);
  static gboolean OnFinishTimeout(gpointer writer);
  void ReleaseWaiting(Stream& stream, const absl::Status& status);
  // The writer has come to its end: stops the pipeline and tells all who wait.
  void Conclude(absl::Status status);
  // Ends the pipeline's threads and its sources in the main context.
  void StopPipeline();
  absl::StatusOr<media::v1::FinishReply> Summary() const;

  const std::string path_;
  const media::v1::VideoFormat video_format_;
  const std::optional<media::v1::AudioFormat> audio_format_;
  GstVideoInfo video_info_;  // with rows without padding

  GstPtr<GstElement> pipeline_;
  GSource* finish_timer_ = nullptr;
  Stream video_;
  Stream audio_;  // source is null without sound
  uint64_t video_frames_ = 0;
  uint64_t audio_samples_ = 0;
  bool finishing_ = false;
  bool at_end_ = false;   // everything is in the file
  bool stopped_ = true;   // there are no streaming threads
  bool created_ = false;  // the file is ours
  absl::Status failure_;  // the pipeline's first error
  Finished finished_;
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_WRITER_H_
