#include "runloop/examples/mp4_recorder/mp4_writer.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace runloop::examples {

using media::v1::AppendRequest;
using media::v1::AudioChunk;
using media::v1::AudioFormat;
using media::v1::FinishReply;
using media::v1::OpenRequest;
using media::v1::VideoFormat;

namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
// Eleven days: sums of times cannot overflow.
constexpr int64_t kMaxPts = 1'000'000 * kNanosPerSecond;
// What waits for the encoder. Few, since raw frames are large; enough to keep its threads busy.
constexpr uint64_t kQueuedFrames = 8;
// What one stream may lead by in front of the muxer. A bound in bytes alone: time and number say
// nothing of memory.
constexpr guint kMuxerLeadBytes = 64 << 20;
constexpr char kRoom[] = "runloop-room";

absl::Status MissingElement(absl::string_view factory) {
  static const auto* packages = new std::map<absl::string_view, absl::string_view>{
      {"x264enc", "gstreamer1.0-plugins-ugly"},
      {"avenc_aac", "gstreamer1.0-libav"},
      {"mp4mux", "gstreamer1.0-plugins-good"},
      {"appsrc", "gstreamer1.0-plugins-base"},
      {"audioconvert", "gstreamer1.0-plugins-base"},
      {"audioresample", "gstreamer1.0-plugins-base"}};
  auto package = packages->find(factory);
  return absl::FailedPreconditionError(
      absl::StrCat("GStreamer has no element '", factory, "' here: install ",
                   package == packages->end() ? "libgstreamer1.0-0" : package->second));
}

absl::Status CheckRange(absl::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be from ", low, " to ", high));
}

absl::Status CheckSide(absl::string_view name, int32_t value) {
  if (absl::Status status = CheckRange(name, value, 16, 4096); !status.ok()) return status;
  if (value % 2 == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; I420 needs an even number"));
}

// Holds the bytes where they are; no copy.
GstBuffer* NewBuffer(Buffer bytes, int64_t pts, int64_t duration) {
  auto* held = new Buffer(std::move(bytes));
  // GStreamer takes no pointer to const, but is told not to write.
  GstBuffer* buffer = gst_buffer_new_wrapped_full(
      GST_MEMORY_FLAG_READONLY, const_cast<uint8_t*>(held->data().data()), held->size(), 0,
      held->size(), held, [](gpointer pointer) { delete static_cast<Buffer*>(pointer); });
  GST_BUFFER_PTS(buffer) = static_cast<GstClockTime>(pts);
  GST_BUFFER_DURATION(buffer) = static_cast<GstClockTime>(duration);
  return buffer;
}

}  // namespace

absl::Status Mp4Writer::CheckFormats(const OpenRequest& request) {
  const VideoFormat& video = request.video();
  if (!request.has_video()) return absl::InvalidArgumentError("video is missing");
  if (absl::Status status = CheckSide("video.width", video.width()); !status.ok()) return status;
  if (absl::Status status = CheckSide("video.height", video.height()); !status.ok()) return status;
  const int64_t numerator = video.frame_rate_numerator(),
                denominator = video.frame_rate_denominator();
  if (numerator < 1 || denominator < 1 || numerator > 240 * denominator ||
      numerator * 60 < denominator) {
    return absl::InvalidArgumentError(absl::StrCat("the frame rate is ", numerator, "/",
                                                   denominator, "; it must be from 1/60 to 240"));
  }
  if (!request.has_audio()) return absl::OkStatus();
  absl::Status status =
      CheckRange("audio.sample_rate", request.audio().sample_rate(), 8000, 192000);
  if (status.ok()) status = CheckRange("audio.channels", request.audio().channels(), 1, 2);
  return status;
}

absl::StatusOr<std::unique_ptr<Mp4Writer>> Mp4Writer::Create(const std::string& path,
                                                             const OpenRequest& request) {
  if (absl::Status status = CheckFormats(request); !status.ok()) return status;
  GMainContext* context = g_main_context_get_thread_default();
  if (!g_main_context_is_owner(context != nullptr ? context : g_main_context_default())) {
    return absl::FailedPreconditionError(
        "an Mp4Writer needs a GLib main context that runs on this thread: start runloopd with "
        "--loop=glib");
  }
  std::unique_ptr<Mp4Writer> writer(new Mp4Writer(path, request));
  if (absl::Status status = writer->Build(); !status.ok()) return status;
  if (absl::Status status = writer->Start(); !status.ok()) return status;
  return writer;
}

Mp4Writer::Mp4Writer(std::string path, const OpenRequest& request)
    : path_(std::move(path)),
      video_format_(request.video()),
      audio_format_(request.has_audio() ? std::make_optional(request.audio()) : std::nullopt) {
  const int width = video_format_.width(), height = video_format_.height();
  gst_video_info_set_format(&video_info_, GST_VIDEO_FORMAT_I420, width, height);
  GST_VIDEO_INFO_FPS_N(&video_info_) = video_format_.frame_rate_numerator();
  GST_VIDEO_INFO_FPS_D(&video_info_) = video_format_.frame_rate_denominator();
  // GStreamer pads rows to four bytes; callers do not.
  GST_VIDEO_INFO_PLANE_STRIDE(&video_info_, 0) = width;
  GST_VIDEO_INFO_PLANE_STRIDE(&video_info_, 1) = width / 2;
  GST_VIDEO_INFO_PLANE_STRIDE(&video_info_, 2) = width / 2;
  const gsize luma = static_cast<gsize>(width) * height;
  GST_VIDEO_INFO_PLANE_OFFSET(&video_info_, 0) = 0;
  GST_VIDEO_INFO_PLANE_OFFSET(&video_info_, 1) = luma;
  GST_VIDEO_INFO_PLANE_OFFSET(&video_info_, 2) = luma + luma / 4;
  GST_VIDEO_INFO_SIZE(&video_info_) = luma + luma / 2;
}

Mp4Writer::~Mp4Writer() {
  if (stopped_) return;
  Fail(absl::AbortedError(absl::StrCat(
      "'", path_, "' is incomplete: it was closed before the encoder had come to its end")));
}

absl::Status Mp4Writer::Build() {
  pipeline_.reset(GST_ELEMENT(gst_object_ref_sink(gst_pipeline_new(nullptr))));
  absl::StatusOr<GstElement*> muxer = Add("mp4mux");
  if (!muxer.ok()) return muxer.status();
  absl::StatusOr<GstElement*> sink = Add("filesink");
  if (!sink.ok()) return sink.status();
  g_object_set(*sink, "location", path_.c_str(), nullptr);
  gst_element_link(*muxer, *sink);

  GstPtr<GstCaps> video_caps(gst_video_info_to_caps(&video_info_));
  absl::Status status =
      AddSource(video_, video_caps.get(), kQueuedFrames * GST_VIDEO_INFO_SIZE(&video_info_));
  if (!status.ok()) return status;
  auto video = Branch(video_, {"x264enc"}, *muxer, "video_%u");
  if (!video.ok()) return video.status();
  gst_util_set_object_arg(G_OBJECT(video->front()), "speed-preset", "ultrafast");
  gst_util_set_object_arg(G_OBJECT(video->front()), "pass", "qual");
  g_object_set(video->front(), "quantizer", 23, "key-int-max", 120, nullptr);

  if (!audio_format_.has_value()) return absl::OkStatus();
  GstPtr<GstCaps> audio_caps(
      gst_caps_new_simple("audio/x-raw", "format", G_TYPE_STRING, "S16LE", "layout", G_TYPE_STRING,
                          "interleaved", "rate", G_TYPE_INT, audio_format_->sample_rate(),
                          "channels", G_TYPE_INT, audio_format_->channels(), nullptr));
  // A second of it.
  status = AddSource(audio_, audio_caps.get(),
                     uint64_t{2} * audio_format_->sample_rate() * audio_format_->channels());
  if (!status.ok()) return status;
  return Branch(audio_, {"audioconvert", "audioresample", "avenc_aac"}, *muxer, "audio_%u")
      .status();
}

absl::StatusOr<GstElement*> Mp4Writer::Add(const char* factory) {
  GstElement* element = gst_element_factory_make(factory, nullptr);
  if (element == nullptr) return MissingElement(factory);
  gst_bin_add(GST_BIN(pipeline_.get()), element);
  return element;
}

absl::Status Mp4Writer::AddSource(Stream& stream, GstCaps* caps, uint64_t max_bytes) {
  absl::StatusOr<GstElement*> element = Add("appsrc");
  if (!element.ok()) return element.status();
  stream.source = GST_APP_SRC(*element);
  stream.max_bytes = max_bytes;
  // Pushing never blocks: what has no room is kept, and its sender learns of it late. Below half,
  // it asks for more.
  g_object_set(stream.source, "format", GST_FORMAT_TIME, "block", FALSE, "max-bytes",
               static_cast<guint64>(max_bytes), "min-percent", 50u, nullptr);
  gst_app_src_set_caps(stream.source, caps);
  GstAppSrcCallbacks callbacks = {};
  callbacks.need_data = &Mp4Writer::OnNeedData;
  gst_app_src_set_callbacks(stream.source, &callbacks, &stream, nullptr);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GstElement*>> Mp4Writer::Branch(
    Stream& stream, const std::vector<const char*>& factories, GstElement* muxer,
    const char* muxer_pad) {
  std::vector<GstElement*> elements;
  GstElement* last = GST_ELEMENT(stream.source);
  for (const char* factory : factories) {
    absl::StatusOr<GstElement*> element = Add(factory);
    if (!element.ok()) return element.status();
    elements.push_back(*element);
    gst_element_link(last, *element);
    last = *element;
  }
  absl::StatusOr<GstElement*> queue = Add("queue");
  if (!queue.ok()) return queue.status();
  g_object_set(*queue, "max-size-bytes", kMuxerLeadBytes, "max-size-buffers", 0u, "max-size-time",
               guint64{0}, nullptr);
  if (!gst_element_link(last, *queue) || !gst_element_link_pads(*queue, "src", muxer, muxer_pad)) {
    return absl::InternalError("the elements of GStreamer do not fit together");
  }
  return elements;
}

absl::Status Mp4Writer::Start() {
  GstPtr<GstBus> bus(gst_element_get_bus(pipeline_.get()));
  stopped_ = false;
  if (gst_element_set_state(pipeline_.get(), GST_STATE_PLAYING) != GST_STATE_CHANGE_FAILURE) {
    created_ = true;
    gst_bus_add_watch(bus.get(), &Mp4Writer::OnMessage, this);
    return absl::OkStatus();
  }
  GstPtr<GstMessage> error(gst_bus_pop_filtered(bus.get(), GST_MESSAGE_ERROR));
  StopPipeline();
  return absl::FailedPreconditionError(
      absl::StrCat("cannot record to '", path_,
                   "': ", error ? ErrorText(error.get()) : "GStreamer does not say why"));
}

void Mp4Writer::Append(AppendRequest request, Done done, Buffer pixels) {
  absl::Status status;
  Stream* stream = &video_;
  switch (request.media_case()) {
    case AppendRequest::kVideo:
      if (!request.video().has_buffer()) {
        pixels = Buffer::OfBytes(std::move(*request.mutable_video()->mutable_i420()));
      }
      status = AppendVideo(request.video().pts_nanos(), std::move(pixels));
      break;
    case AppendRequest::kAudio:
      stream = &audio_;
      status = AppendAudio(std::move(*request.mutable_audio()));
      break;
    case AppendRequest::kEnd:
      std::move(done)(EndStream(request.end()));
      return;
    case AppendRequest::MEDIA_NOT_SET:
      status = absl::InvalidArgumentError("media is missing: give video, audio or end");
      break;
  }
  if (!status.ok()) {
    std::move(done)(std::move(status));
    return;
  }
  if (watch_) watch_(*this, false, absl::OkStatus());
  // The flag goes up before the level is read: room that appears in between is seen by one of the
  // two.
  stream->starved.store(true);
  if (gst_app_src_get_current_level_bytes(stream->source) < stream->max_bytes) {
    stream->starved.store(!stream->waiting.empty());
    std::move(done)(absl::OkStatus());
  } else {
    stream->waiting.push_back(std::move(done));
  }
}

absl::Status Mp4Writer::AppendVideo(int64_t pts, Buffer pixels) {
  if (absl::Status status = CheckOpen(video_); !status.ok()) return status;
  const size_t size = GST_VIDEO_INFO_SIZE(&video_info_);
  if (pixels.size() != size) {
    return absl::InvalidArgumentError(absl::StrCat("a frame of ", video_format_.width(), "x",
                                                   video_format_.height(), " I420 has ", size,
                                                   " bytes; this one has ", pixels.size()));
  }
  if (pts <= video_.last_pts || pts > kMaxPts) {
    return absl::InvalidArgumentError(absl::StrCat("pts_nanos of a frame is ", pts,
                                                   "; it must be from ", video_.last_pts + 1,
                                                   " to ", kMaxPts));
  }
  if (absl::Status status = CheckRoom(video_, size); !status.ok()) return status;
  const int64_t duration = kNanosPerSecond * video_format_.frame_rate_denominator() /
                           video_format_.frame_rate_numerator();
  GstBuffer* buffer = NewBuffer(std::move(pixels), pts, duration);
  gst_buffer_add_video_meta_full(buffer, GST_VIDEO_FRAME_FLAG_NONE, GST_VIDEO_FORMAT_I420,
                                 video_format_.width(), video_format_.height(),
                                 GST_VIDEO_INFO_N_PLANES(&video_info_), video_info_.offset,
                                 video_info_.stride);
  if (absl::Status status = Push(video_, buffer); !status.ok()) return status;
  video_.last_pts = pts;
  video_.end = pts + duration;
  ++video_frames_;
  return absl::OkStatus();
}

absl::Status Mp4Writer::AppendAudio(AudioChunk chunk) {
  if (!audio_format_.has_value()) {
    return absl::InvalidArgumentError("this writer records no sound: give Open an audio format");
  }
  if (absl::Status status = CheckOpen(audio_); !status.ok()) return status;
  const size_t sample_bytes = size_t{2} * audio_format_->channels();
  if (chunk.s16le().empty() || chunk.s16le().size() % sample_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a chunk of sound must have a multiple of ",
                                                   sample_bytes, " bytes; this one has ",
                                                   chunk.s16le().size()));
  }
  const int64_t pts = chunk.pts_nanos();
  const int64_t low = std::max<int64_t>(audio_.last_pts, 0);
  if (pts < low || pts > kMaxPts) {
    return absl::InvalidArgumentError(
        absl::StrCat("pts_nanos of a chunk is ", pts, "; it must be from ", low, " to ", kMaxPts));
  }
  if (absl::Status status = CheckRoom(audio_, chunk.s16le().size()); !status.ok()) return status;
  const int64_t samples = static_cast<int64_t>(chunk.s16le().size() / sample_bytes);
  const int64_t duration = samples * kNanosPerSecond / audio_format_->sample_rate();
  GstBuffer* buffer = NewBuffer(Buffer::OfBytes(std::move(*chunk.mutable_s16le())), pts, duration);
  if (absl::Status status = Push(audio_, buffer); !status.ok()) return status;
  audio_.last_pts = pts;
  audio_.end = pts + duration;
  audio_samples_ += static_cast<uint64_t>(samples);
  return absl::OkStatus();
}

absl::Status Mp4Writer::EndStream(media::v1::Stream which) {
  if (which != media::v1::STREAM_VIDEO && which != media::v1::STREAM_AUDIO) {
    return absl::InvalidArgumentError("end must be STREAM_VIDEO or STREAM_AUDIO");
  }
  Stream& stream = which == media::v1::STREAM_VIDEO ? video_ : audio_;
  if (stream.source == nullptr) return absl::InvalidArgumentError("this writer records no sound");
  if (absl::Status status = CheckOpen(stream); !status.ok()) return status;
  End(stream);
  return absl::OkStatus();
}

absl::Status Mp4Writer::CheckOpen(const Stream& stream) const {
  if (!failure_.ok()) return failure_;
  if (finishing_ || stream.ended)
    return absl::FailedPreconditionError("the stream has ended: nothing can be appended");
  return absl::OkStatus();
}

absl::Status Mp4Writer::CheckRoom(const Stream& stream, uint64_t bytes) const {
  const uint64_t level = gst_app_src_get_current_level_bytes(stream.source);
  if (level + bytes < stream.max_bytes) return absl::OkStatus();  // it will not wait
  const size_t waiting = video_.waiting.size() + audio_.waiting.size();
  if (waiting < kMaxWaiting &&
      (stream.waiting.empty() || level + bytes <= stream.max_bytes + kMaxWaitingBytes)) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(waiting, " appends of this writer wait for room, and ", level,
                   " bytes of this stream for its encoder: append the next when one was answered"));
}

absl::Status Mp4Writer::Push(Stream& stream, GstBuffer* buffer) {
  const GstFlowReturn result = gst_app_src_push_buffer(stream.source, buffer);
  if (result == GST_FLOW_OK) return absl::OkStatus();
  // The reason is in an error message that is on its way.
  return absl::InternalError(
      absl::StrCat("the encoder takes nothing more: ", gst_flow_get_name(result)));
}

void Mp4Writer::EndStreams() {
  for (Stream* stream : {&video_, &audio_}) {
    if (stream->source != nullptr && !stream->ended) End(*stream);
  }
}

void Mp4Writer::End(Stream& stream) {
  if (&stream == &audio_ && audio_samples_ == 0) {
    // A track of which the muxer has seen nothing makes a file that players refuse: give it a
    // moment of silence.
    const size_t samples = static_cast<size_t>(audio_format_->sample_rate()) / 50;
    const std::string silence(samples * 2 * audio_format_->channels(), '\0');
    Push(audio_, NewBuffer(Buffer::OfBytes(silence), 0, kNanosPerSecond / 50))
        .IgnoreError();  // an error comes by the bus
  }
  stream.ended = true;
  gst_app_src_end_of_stream(stream.source);
}

void Mp4Writer::Finish(absl::Duration timeout, Finished finished) {
  finished_.push_back(std::move(finished));
  const bool first = !std::exchange(finishing_, true);
  if (stopped_ || at_end_) {
    Conclude();
  } else if (video_frames_ == 0) {
    // The muxer would leave a file that nothing plays.
    Fail(absl::FailedPreconditionError("no frame was appended, so there is no file"));
  } else if (first) {
    if (timeout != absl::InfiniteDuration()) {
      finish_timer_ = g_timeout_source_new(static_cast<guint>(absl::ToInt64Milliseconds(timeout)));
      g_source_set_callback(finish_timer_, &Mp4Writer::OnFinishTimeout, this, nullptr);
      g_source_attach(finish_timer_, g_main_context_get_thread_default());
    }
    EndStreams();
  }
}

void Mp4Writer::OnNeedData(GstAppSrc* source, guint, gpointer stream) {
  // A streaming thread. One message for all that wait.
  if (!static_cast<Stream*>(stream)->starved.exchange(false)) return;
  gst_element_post_message(
      GST_ELEMENT(source),
      gst_message_new_application(GST_OBJECT(source), gst_structure_new_empty(kRoom)));
}

gboolean Mp4Writer::OnMessage(GstBus*, GstMessage* message, gpointer writer) {
  auto* self = static_cast<Mp4Writer*>(writer);
  switch (GST_MESSAGE_TYPE(message)) {
    case GST_MESSAGE_APPLICATION: {
      Stream& stream =
          GST_MESSAGE_SRC(message) == GST_OBJECT(self->video_.source) ? self->video_ : self->audio_;
      ReleaseWaiting(stream, absl::OkStatus());
      break;
    }
    case GST_MESSAGE_EOS:
      self->at_end_ = true;
      if (self->finishing_) self->Conclude();
      break;
    case GST_MESSAGE_ERROR:
      self->Fail(absl::InternalError(
          absl::StrCat("recording '", self->path_, "' failed: ", ErrorText(message))));
      break;
    default:
      break;
  }
  return G_SOURCE_CONTINUE;
}

gboolean Mp4Writer::OnFinishTimeout(gpointer writer) {
  auto* self = static_cast<Mp4Writer*>(writer);
  self->Fail(absl::DeadlineExceededError(absl::StrCat(
      "'", self->path_, "' is incomplete: the encoder did not come to its end in time")));
  return G_SOURCE_REMOVE;
}

void Mp4Writer::ReleaseWaiting(Stream& stream, const absl::Status& status) {
  for (Done& done : std::exchange(stream.waiting, {})) std::move(done)(status);
}

void Mp4Writer::Fail(absl::Status why) {
  if (failure_.ok()) failure_ = std::move(why);
  Conclude();
}

void Mp4Writer::Conclude() {
  StopPipeline();
  if (watch_) std::exchange(watch_, nullptr)(*this, true, failure_);
  ReleaseWaiting(video_, failure_);
  ReleaseWaiting(audio_, failure_);
  if (finished_.empty()) return;
  const absl::StatusOr<FinishReply> outcome =
      failure_.ok() ? Summary() : absl::StatusOr<FinishReply>(failure_);
  // The first may destroy this.
  for (Finished& finished : std::exchange(finished_, {})) std::move(finished)(outcome);
}

void Mp4Writer::StopPipeline() {
  if (stopped_) return;
  stopped_ = true;
  if (finish_timer_ != nullptr) {
    g_source_destroy(finish_timer_);
    g_source_unref(std::exchange(finish_timer_, nullptr));
  }
  GstPtr<GstBus> bus(gst_element_get_bus(pipeline_.get()));
  gst_bus_remove_watch(bus.get());
  // Waits for the streaming threads, each of which is within one frame of its end.
  gst_element_set_state(pipeline_.get(), GST_STATE_NULL);
  if (created_ && video_frames_ == 0) unlink(path_.c_str());
}

media::v1::Progress Mp4Writer::progress() const {
  media::v1::Progress progress;
  progress.set_video_frames(video_frames_);
  progress.set_audio_samples(audio_samples_);
  progress.set_duration_nanos(std::max(video_.end, audio_.end));
  return progress;
}

absl::StatusOr<FinishReply> Mp4Writer::Summary() const {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path_, error);
  if (error) return absl::InternalError(absl::StrCat("'", path_, "' is gone: ", error.message()));
  FinishReply reply;
  reply.set_path(path_);
  reply.set_video_frames(video_frames_);
  reply.set_audio_samples(audio_samples_);
  reply.set_duration_nanos(std::max(video_.end, audio_.end));
  reply.set_bytes(bytes);
  return reply;
}

}  // namespace runloop::examples
