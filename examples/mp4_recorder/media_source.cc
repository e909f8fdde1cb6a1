#include "runloop/examples/mp4_recorder/media_source.h"

#include <gst/audio/audio.h>
#include <gst/video/video.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace runloop::examples {

using media::v1::AudioChunk;
using media::v1::AudioFormat;

namespace {

// Any size becomes an even one; nothing else is scaled.
constexpr char kVideoCaps[] = "video/x-raw,format=I420,width=[16,4096,2],height=[16,4096,2]";
constexpr char kAudioCaps[] =
    "audio/x-raw,format=S16LE,layout=interleaved,rate=[8000,192000],channels=[1,2]";
// Nothing is dropped, and no sink makes another one wait for its first sample.
constexpr char kSink[] = " sync=false async=false drop=false max-buffers=16 ";
constexpr char kHint[] =
    ": give a file with video that GStreamer reads, such as an MP4, MKV or WebM";

// Some of GStreamer's readers never come to the end of some files.
constexpr absl::Duration kStall = absl::Seconds(20);

absl::StatusOr<GstPtr<GstElement>> ParseElements(const std::string& description, bool bin) {
  GError* error = nullptr;
  GstElement* element = bin ? gst_parse_bin_from_description(description.c_str(), TRUE, &error)
                            : gst_parse_launch(description.c_str(), &error);
  if (error != nullptr) {
    absl::Status status = absl::FailedPreconditionError(
        absl::StrCat("GStreamer lacks a part (", error->message,
                     "): install gstreamer1.0-plugins-base, "
                     "gstreamer1.0-plugins-good and gstreamer1.0-libav"));
    g_error_free(error);
    if (element != nullptr) gst_object_unref(gst_object_ref_sink(element));
    return status;
  }
  return GstPtr<GstElement>(GST_ELEMENT(gst_object_ref_sink(element)));
}

absl::Status CheckReadable(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    return absl::NotFoundError(absl::StrCat("no such file: ", path));
  if (std::filesystem::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a directory", kHint));
  }
  if (access(path.c_str(), R_OK) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

GstPtr<GstElement> ByName(GstElement* bin, const char* name) {
  return GstPtr<GstElement>(gst_bin_get_by_name(GST_BIN(bin), name));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MediaSource>> MediaSource::OpenFile(const std::string& path,
                                                                   absl::Duration timeout) {
  if (absl::Status status = CheckReadable(path); !status.ok()) return status;
  absl::StatusOr<GstPtr<GstElement>> pipeline =
      ParseElements("filesrc name=file ! decodebin name=decoder", false);
  if (!pipeline.ok()) return pipeline.status();
  std::unique_ptr<MediaSource> source(new MediaSource(path));
  source->pipeline_ = *std::move(pipeline);
  g_object_set(ByName(source->pipeline_.get(), "file").get(), "location", path.c_str(), nullptr);
  GstPtr<GstElement> decoder = ByName(source->pipeline_.get(), "decoder");
  g_signal_connect(decoder.get(), "pad-added", G_CALLBACK(&MediaSource::OnPadAdded), source.get());
  g_signal_connect(decoder.get(), "no-more-pads", G_CALLBACK(&MediaSource::OnNoMorePads),
                   source.get());
  if (absl::Status status = source->Start(timeout); !status.ok()) return status;
  return source;
}

absl::StatusOr<std::unique_ptr<MediaSource>> MediaSource::OpenTest(const TestOptions& options) {
  absl::StatusOr<GstPtr<GstElement>> pipeline = ParseElements(
      absl::StrCat(
          "videotestsrc is-live=true pattern=smpte horizontal-speed=4 ! "
          "video/x-raw,format=I420,width=",
          options.width, ",height=", options.height, ",framerate=", options.frame_rate,
          "/1 ! appsink name=video", kSink,
          "audiotestsrc is-live=true wave=sine freq=440 volume=0.2 samplesperbuffer=1470 ! "
          "audio/x-raw,format=S16LE,layout=interleaved,rate=44100,channels=2 ! appsink name=audio",
          kSink),
      false);
  if (!pipeline.ok()) return pipeline.status();
  std::unique_ptr<MediaSource> source(new MediaSource("the test source"));
  source->pipeline_ = *std::move(pipeline);
  {
    absl::MutexLock lock(&source->mutex_);
    source->video_sink_ = ByName(source->pipeline_.get(), "video");
    source->audio_sink_ = ByName(source->pipeline_.get(), "audio");
    source->Connect(source->video_sink_.get());
    source->Connect(source->audio_sink_.get());
    source->tracks_known_ = true;
  }
  if (absl::Status status = source->Start(absl::Seconds(20)); !status.ok()) return status;
  return source;
}

MediaSource::~MediaSource() {
  if (pipeline_ == nullptr) return;
  gst_element_set_state(pipeline_.get(), GST_STATE_NULL);
  GstPtr<GstBus> bus(gst_element_get_bus(pipeline_.get()));
  gst_bus_set_sync_handler(bus.get(), nullptr, nullptr, nullptr);
}

std::optional<AudioFormat> MediaSource::audio_format() const {
  if (audio_.sink == nullptr) return std::nullopt;
  return audio_format_;
}

absl::Status MediaSource::Start(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  GstPtr<GstBus> bus(gst_element_get_bus(pipeline_.get()));
  gst_bus_set_sync_handler(bus.get(), &MediaSource::OnMessage, this, nullptr);
  gst_element_set_state(pipeline_.get(), GST_STATE_PLAYING);  // an error comes by the bus
  {
    absl::MutexLock lock(&mutex_);
    auto known = [this]()
                     ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return tracks_known_ || !failure_.ok(); };
    mutex_.AwaitWithDeadline(absl::Condition(&known), deadline);
    if (tracks_known_) {
      video_.sink = std::move(video_sink_);
      audio_.sink = std::move(audio_sink_);
    } else if (!failure_.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, " is no video that can be read (", failure_.message(), ")", kHint));
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, " gave nothing within ", absl::FormatDuration(timeout), kHint));
    }
  }
  if (video_.sink == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(name_, " has no video", kHint));
  auto ready = [](const Track& track) {
    return track.sink == nullptr || track.next != nullptr || track.ended;
  };
  for (;;) {
    const bool more = AwaitChange(deadline);
    Fill(video_);
    Fill(audio_);
    if (ready(video_) && ready(audio_)) {
      last_item_ = absl::Now();
      return FixFormats();
    }
    if (absl::Status failure = Failure(); !failure.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, " is no video that can be read (", failure.message(), ")", kHint));
    }
    if (!more) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, " gave no frame within ", absl::FormatDuration(timeout), kHint));
    }
  }
}

void MediaSource::OnPadAdded(GstElement*, GstPad* pad, gpointer source) {
  static_cast<MediaSource*>(source)->AddTrack(pad);
}

void MediaSource::AddTrack(GstPad* pad) {
  GstPtr<GstCaps> caps(gst_pad_get_current_caps(pad));
  if (caps == nullptr) caps.reset(gst_pad_query_caps(pad, nullptr));
  if (gst_caps_is_empty(caps.get()) || gst_caps_is_any(caps.get())) return;
  const absl::string_view kind = gst_structure_get_name(gst_caps_get_structure(caps.get(), 0));
  const bool video = kind == "video/x-raw";
  if (!video && kind != "audio/x-raw") return;

  absl::MutexLock lock(&mutex_);
  GstPtr<GstElement>& slot = video ? video_sink_ : audio_sink_;
  if (slot != nullptr) return;  // a second track of its kind is left out
  absl::StatusOr<GstPtr<GstElement>> bin = ParseElements(
      absl::StrCat(video ? "videoconvert ! videoscale" : "audioconvert ! audioresample",
                   " ! capsfilter name=format caps=\"", video ? kVideoCaps : kAudioCaps,
                   "\" ! appsink name=sink", kSink),
      true);
  if (!bin.ok()) {
    failure_ = bin.status();
    return;
  }
  slot = ByName(bin->get(), "sink");
  Connect(slot.get());
  gst_bin_add(GST_BIN(pipeline_.get()), bin->get());
  GstPtr<GstPad> target(gst_element_get_static_pad(bin->get(), "sink"));
  gst_element_sync_state_with_parent(bin->get());
  gst_pad_link(pad, target.get());
}

void MediaSource::Connect(GstElement* sink) {
  GstAppSinkCallbacks callbacks = {};
  callbacks.eos = &MediaSource::OnEnd;
  callbacks.new_sample = &MediaSource::OnSample;
  gst_app_sink_set_callbacks(GST_APP_SINK(sink), &callbacks, this, nullptr);
}

void MediaSource::OnNoMorePads(GstElement*, gpointer source) {
  auto* self = static_cast<MediaSource*>(source);
  absl::MutexLock lock(&self->mutex_);
  self->tracks_known_ = true;
}

void MediaSource::OnEnd(GstAppSink*, gpointer source) {
  static_cast<MediaSource*>(source)->Notify();
}

GstFlowReturn MediaSource::OnSample(GstAppSink*, gpointer source) {
  static_cast<MediaSource*>(source)->Notify();
  return GST_FLOW_OK;
}

GstBusSyncReply MediaSource::OnMessage(GstBus*, GstMessage* message, gpointer source) {
  auto* self = static_cast<MediaSource*>(source);
  if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_ERROR) {
    absl::MutexLock lock(&self->mutex_);
    if (self->failure_.ok()) self->failure_ = absl::InternalError(ErrorText(message));
    self->changed_ = true;
  }
  gst_message_unref(message);
  return GST_BUS_DROP;
}

void MediaSource::Notify() {
  absl::MutexLock lock(&mutex_);
  changed_ = true;
}

bool MediaSource::AwaitChange(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const bool changed = mutex_.AwaitWithDeadline(absl::Condition(&changed_), deadline);
  changed_ = false;
  return changed;
}

absl::Status MediaSource::Failure() {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

void MediaSource::Fill(Track& track) {
  if (track.sink == nullptr || track.next != nullptr || track.ended) return;
  GstAppSink* sink = GST_APP_SINK(track.sink.get());
  track.next.reset(gst_app_sink_try_pull_sample(sink, 0));
  if (track.next == nullptr) track.ended = gst_app_sink_is_eos(sink);
}

absl::Status MediaSource::FixFormats() {
  if (video_.next == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(name_, " has no frame of video", kHint));
  // A file may change its size or rate on the way: what comes later is converted to what came
  // first.
  auto fix = [](const Track& track) {
    GstPtr<GstObject> bin(gst_object_get_parent(GST_OBJECT(track.sink.get())));
    if (GstPtr<GstElement> filter = ByName(GST_ELEMENT(bin.get()), "format")) {
      g_object_set(filter.get(), "caps", gst_sample_get_caps(track.next.get()), nullptr);
    }
  };
  GstVideoInfo video;
  if (!gst_video_info_from_caps(&video, gst_sample_get_caps(video_.next.get()))) {
    return absl::InternalError("the decoder gives frames of no known format");
  }
  video_format_.set_width(GST_VIDEO_INFO_WIDTH(&video));
  video_format_.set_height(GST_VIDEO_INFO_HEIGHT(&video));
  // Nothing is known of files with a variable rate but the times of their frames.
  const bool fixed_rate = GST_VIDEO_INFO_FPS_N(&video) > 0 &&
                          GST_VIDEO_INFO_FPS_N(&video) <= 240 * GST_VIDEO_INFO_FPS_D(&video);
  video_format_.set_frame_rate_numerator(fixed_rate ? GST_VIDEO_INFO_FPS_N(&video) : 30);
  video_format_.set_frame_rate_denominator(fixed_rate ? GST_VIDEO_INFO_FPS_D(&video) : 1);
  fix(video_);

  GstAudioInfo audio;
  if (audio_.next == nullptr ||
      !gst_audio_info_from_caps(&audio, gst_sample_get_caps(audio_.next.get()))) {
    audio_.sink.reset();
    return absl::OkStatus();
  }
  audio_format_.set_sample_rate(GST_AUDIO_INFO_RATE(&audio));
  audio_format_.set_channels(GST_AUDIO_INFO_CHANNELS(&audio));
  fix(audio_);
  return absl::OkStatus();
}

absl::StatusOr<MediaSource::Item> MediaSource::Next(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    Fill(video_);
    Fill(audio_);
    if (video_.next != nullptr || audio_.next != nullptr) {
      // A sample without a time comes first.
      const bool video_first = audio_.next == nullptr ||
                               (video_.next != nullptr && Presentation(video_).value_or(0) <=
                                                              Presentation(audio_).value_or(0));
      absl::StatusOr<std::optional<Item>> item = video_first ? TakeFrame() : TakeSound();
      if (!item.ok()) return item.status();
      last_item_ = absl::Now();
      if (item->has_value()) return **std::move(item);
      continue;
    }
    if (absl::Status failure = Failure(); !failure.ok()) {
      return absl::InternalError(absl::StrCat("reading ", name_, " failed: ", failure.message()));
    }
    const bool sound_over = audio_.sink == nullptr || audio_.ended;
    if (video_.ended && sound_over) return EndOfMedia();
    for (auto [track, stream] :
         {std::pair(&video_, media::v1::STREAM_VIDEO), {&audio_, media::v1::STREAM_AUDIO}}) {
      if (track->ended && !std::exchange(track->end_told, true)) return EndOfStream{stream};
    }
    if (AwaitChange(deadline)) continue;
    if (absl::Now() - last_item_ < kStall) return NothingYet();
    return absl::InternalError(absl::StrCat("reading ", name_,
                                            " does not go on: GStreamer gave nothing for ",
                                            absl::FormatDuration(kStall)));
  }
}

std::optional<int64_t> MediaSource::Presentation(const Track& track) {
  GstBuffer* buffer = gst_sample_get_buffer(track.next.get());
  if (!GST_BUFFER_PTS_IS_VALID(buffer)) return std::nullopt;
  const guint64 time = gst_segment_to_running_time(gst_sample_get_segment(track.next.get()),
                                                   GST_FORMAT_TIME, GST_BUFFER_PTS(buffer));
  if (!GST_CLOCK_TIME_IS_VALID(time)) return std::nullopt;
  return static_cast<int64_t>(time);
}

absl::StatusOr<std::optional<MediaSource::Item>> MediaSource::TakeFrame() {
  const int64_t interval = int64_t{1'000'000'000} * video_format_.frame_rate_denominator() /
                           video_format_.frame_rate_numerator();
  const int64_t pts =
      Presentation(video_).value_or(video_.last_pts < 0 ? 0 : video_.last_pts + interval);
  video_.last_pts = std::max(pts, video_.last_pts + 1);
  const GstPtr<GstSample> sample = std::move(video_.next);

  GstVideoInfo info;
  GstVideoFrame mapped;
  if (!gst_video_info_from_caps(&info, gst_sample_get_caps(sample.get())) ||
      !gst_video_frame_map(&mapped, &info, gst_sample_get_buffer(sample.get()), GST_MAP_READ)) {
    return absl::InternalError(absl::StrCat("a frame of ", name_, " cannot be read"));
  }
  Frame frame;
  frame.frame.set_pts_nanos(video_.last_pts);
  std::string* bytes = nullptr;  // one of both
  uint8_t* next = nullptr;
  if (new_buffer_) {
    const size_t size = static_cast<size_t>(GST_VIDEO_INFO_WIDTH(&info)) *
                        static_cast<size_t>(GST_VIDEO_INFO_HEIGHT(&info)) * 3 / 2;
    absl::StatusOr<Buffer> pixels = new_buffer_(size);
    if (!pixels.ok()) {
      gst_video_frame_unmap(&mapped);
      return pixels.status();
    }
    frame.pixels = *std::move(pixels);
    next = frame.pixels.mutable_data().data();
  } else {
    bytes = frame.frame.mutable_i420();
    bytes->reserve(GST_VIDEO_INFO_SIZE(&info));
  }
  for (guint plane = 0; plane < 3; ++plane) {
    const char* row = static_cast<const char*>(GST_VIDEO_FRAME_PLANE_DATA(&mapped, plane));
    for (gint y = 0; y < GST_VIDEO_FRAME_COMP_HEIGHT(&mapped, plane); ++y) {
      const auto width = static_cast<size_t>(GST_VIDEO_FRAME_COMP_WIDTH(&mapped, plane));
      if (bytes != nullptr) {
        bytes->append(row, width);
      } else {
        next = std::copy_n(row, width, next);
      }
      row += GST_VIDEO_FRAME_PLANE_STRIDE(&mapped, plane);
    }
  }
  gst_video_frame_unmap(&mapped);
  // Where there are no buffers this puts the bytes into the message.
  if (new_buffer_) *frame.frame.mutable_buffer() = frame.pixels.ref();
  return Item(std::move(frame));
}

absl::StatusOr<std::optional<MediaSource::Item>> MediaSource::TakeSound() {
  const std::optional<int64_t> pts = Presentation(audio_);
  const GstPtr<GstSample> sample = std::move(audio_.next);
  GstBuffer* buffer = gst_sample_get_buffer(sample.get());
  GstMapInfo mapped;
  if (!pts.has_value() || !gst_buffer_map(buffer, &mapped, GST_MAP_READ))
    return std::optional<Item>();
  audio_.last_pts = std::max(*pts, audio_.last_pts);
  AudioChunk chunk;
  chunk.set_pts_nanos(audio_.last_pts);
  chunk.set_s16le(mapped.data, mapped.size);
  gst_buffer_unmap(buffer, &mapped);
  if (chunk.s16le().empty()) return std::optional<Item>();
  return Item(std::move(chunk));
}

}  // namespace runloop::examples
