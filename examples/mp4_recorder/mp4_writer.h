#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_WRITER_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_WRITER_H_

#include <gst/app/gstappsrc.h>
#include <gst/gst.h>
#include <gst/video/video.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/examples/media/v1/mp4_writer.pb.h"
#include "runloop/examples/mp4_recorder/gst_ptr.h"
#include "runloop/runtime/buffer.h"

namespace runloop::examples {

// Writes one MP4 file with a GStreamer pipeline:
//
//   appsrc ! x264enc ! queue ! mp4mux ! filesink
//   appsrc ! audioconvert ! audioresample ! avenc_aac ! queue ! mp4mux
//
// Threads: everything here belongs to one thread, which runs a GLib main context as its default
// one: the runtime thread of a host with the GLib loop. The pipeline encodes on threads of its own;
// what they have to say (room, end, errors) comes to this thread as messages on the bus, whose
// watch is a source of that context. Nothing here waits for them, but that stopping the pipeline
// takes as long as the frame that is being encoded.
//
// Callbacks run on this thread, once each: from the loop, within the call that was given them, or
// in the destructor. Those of Finish may destroy the writer.
//
// Memory: eight raw frames and a second of sound are in front of the encoders; what comes on top of
// that waits, and is bounded by kMaxWaiting and kMaxWaitingBytes. Behind the encoders there are at
// most 64 MiB for each stream.
//
// Destroying a writer before Finish has told the outcome cuts the file off, which players refuse
// then, and answers with ABORTED whoever waits. It ends the pipeline's threads and closes the file;
// it does not wait for the encoder's end. A file without a frame is removed.
class Mp4Writer {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  using Finished = absl::AnyInvocable<void(absl::StatusOr<media::v1::FinishReply>) &&>;

  // Appends that may be without an answer because there is no room behind them.
  static constexpr size_t kMaxWaiting = 64;
  // Bytes that one stream may hold in front of its encoder on top of its share: fewer than
  // kMaxWaiting frames where these are larger than 1 MiB. One append may always wait, whatever its
  // size.
  static constexpr uint64_t kMaxWaitingBytes = 64 << 20;

  // Checks the formats alone: INVALID_ARGUMENT as Mp4Writer.Open.
  static absl::Status CheckFormats(const media::v1::OpenRequest& request);

  // Checks the formats and creates the file `path`, which is replaced if it exists. gst_init was
  // called before. INVALID_ARGUMENT, FAILED_PRECONDITION: as Mp4Writer.Open.
  static absl::StatusOr<std::unique_ptr<Mp4Writer>> Create(const std::string& path,
                                                           const media::v1::OpenRequest& request);

  ~Mp4Writer();

  Mp4Writer(const Mp4Writer&) = delete;
  Mp4Writer& operator=(const Mp4Writer&) = delete;

  // Takes the request's media; calls `done` with OK when there is room for more, or with why it was
  // not taken. `pixels` are those of a frame that is in a buffer: held until the encoder is done
  // with them, and only read, once, so that it does no harm if somebody else writes to them
  // meanwhile. Errors as Mp4Writer.Append. An append that finds room is never refused for those of
  // the other stream that wait: they may wait for this one.
  void Append(media::v1::AppendRequest request, Done done, Buffer pixels = {});

  // Ends the streams and calls `finished` when the file is complete, or with DEADLINE_EXCEEDED
  // after `timeout`. The pipeline's threads have ended by then. Appends that still wait end first.
  // Called again, it tells the same outcome; the first call's timeout counts.
  void Finish(absl::Duration timeout, Finished finished);

  const std::string& path() const { return path_; }

  // What was appended so far.
  media::v1::Progress progress() const;
  // Calls `watch` after each append that was taken, and, once, at the writer's end: with why it
  // failed, or OK. Before the first append; it must not destroy the writer.
  void Watch(
      std::function<void(const Mp4Writer& writer, bool ended, const absl::Status& failure)> watch) {
    watch_ = std::move(watch);
  }

 private:
  friend class Mp4WriterTestPeer;  // holds the encoder up

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

  absl::Status AppendVideo(int64_t pts, Buffer pixels);
  absl::Status AppendAudio(media::v1::AudioChunk chunk);
  absl::Status EndStream(media::v1::Stream which);
  absl::Status CheckOpen(const Stream& stream) const;
  // Whether `bytes` more may be appended to it: at once, or among those that wait.
  absl::Status CheckRoom(const Stream& stream, uint64_t bytes) const;
  absl::Status Push(Stream& stream, GstBuffer* buffer);
  void EndStreams();
  void End(Stream& stream);

  static void OnNeedData(GstAppSrc* source, guint length, gpointer stream);
  static gboolean OnMessage(GstBus* bus, GstMessage* message, gpointer writer);
  static gboolean OnFinishTimeout(gpointer writer);
  static void ReleaseWaiting(Stream& stream, const absl::Status& status);
  // The writer has come to its end, by `failure_` or well: stops the pipeline and tells all who
  // wait. May destroy this.
  void Conclude();
  void Fail(absl::Status why);
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
  absl::Status failure_;  // the first
  std::vector<Finished> finished_;
  std::function<void(const Mp4Writer&, bool, const absl::Status&)> watch_;  // may be empty
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_WRITER_H_
