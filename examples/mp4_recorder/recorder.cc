#include "runloop/examples/mp4_recorder/recorder.h"

#include <gst/gst.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <type_traits>
#include <utility>
#include <variant>

namespace runloop::examples {

using media::v1::AppendRequest;
using media::v1::AudioChunk;
using media::v1::FinishReply;
using media::v1::FinishRequest;
using media::v1::OpenReply;
using media::v1::OpenRequest;

namespace {

constexpr char kOpen[] = "runloop.examples.media.v1.Mp4Writer/Open";
constexpr char kAppend[] = "runloop.examples.media.v1.Mp4Writer/Append";
constexpr char kProgressTopic[] = "runloop.examples.media.v1.Mp4Writer/Progress";
constexpr char kFailureTopic[] = "runloop.examples.media.v1.Mp4Writer/Failure";
constexpr char kFinish[] = "runloop.examples.media.v1.Mp4Writer/Finish";

// How many appends may be on their way, and of how many bytes if that is more than one: enough to
// hide the way there and back, few enough that the writer has a place for each.
constexpr size_t kMaxUnfinished = 16;
constexpr size_t kMaxUnfinishedBytes = 32 << 20;
// How long a signal may go unseen while the source has nothing.
constexpr absl::Duration kPatience = absl::Milliseconds(100);
constexpr absl::Duration kAppendTimeout = absl::Seconds(30);
constexpr absl::Duration kFinishTimeout =
    absl::Seconds(65);  // the writer itself gives up after a minute
constexpr absl::Duration kProgressInterval = absl::Milliseconds(500);

double Seconds(int64_t nanos) { return static_cast<double>(nanos) / 1e9; }
// Processor time of this process.
double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}
double UnixSeconds(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

}  // namespace

absl::Status Recorder::Setup(const RuntimeContext& context) {
  context_ = context;  // no more: the writer is made with the first frame
  GError* error = nullptr;
  if (!gst_init_check(nullptr, nullptr, &error)) {
    absl::Status status = absl::FailedPreconditionError(
        error != nullptr ? error->message : "GStreamer does not start");
    g_clear_error(&error);
    return status;
  }
  absl::StatusOr<std::unique_ptr<MediaSource>> source = options_.input.empty()
                                                            ? MediaSource::OpenTest(options_.test)
                                                            : MediaSource::OpenFile(options_.input);
  if (!source.ok()) return source.status();
  source_ = *std::move(source);
  if (!options_.frames_in_message) {
    source_->UseBuffers([context](size_t size) { return context.NewBuffer(size); });
  }
  return absl::OkStatus();
}

absl::StatusOr<Processor::Next> Recorder::Process() {
  if (frames_ >= options_.max_frames || absl::Nanoseconds(media_nanos_) >= options_.max_duration)
    return Next::kDone;
  absl::StatusOr<MediaSource::Item> item = source_->Next(kPatience);
  if (!item.ok()) return item.status();
  if (std::holds_alternative<MediaSource::EndOfMedia>(*item)) return Next::kDone;
  if (std::holds_alternative<MediaSource::NothingYet>(*item)) return Next::kContinue;

  if (writer_ == 0) {
    if (absl::Status status = Open(); !status.ok()) return status;
  }
  AppendRequest request;
  request.set_writer(writer_);
  Buffer pixels;
  if (auto* frame = std::get_if<MediaSource::Frame>(&*item)) {
    const auto& format = source_->video_format();
    media_nanos_ = frame->frame.pts_nanos() + int64_t{1'000'000'000} *
                                                  format.frame_rate_denominator() /
                                                  format.frame_rate_numerator();
    ++frames_;
    *request.mutable_video() = std::move(frame->frame);
    pixels = std::move(frame->pixels);
  } else if (auto* chunk = std::get_if<AudioChunk>(&*item)) {
    *request.mutable_audio() = std::move(*chunk);
  } else {
    request.set_end(std::get<MediaSource::EndOfStream>(*item).stream);
  }
  if (absl::Status status = Append(std::move(request), std::move(pixels)); !status.ok()) {
    return status;
  }
  TakeNotifications();
  if (options_.progress && absl::Now() >= next_progress_) PrintProgress();
  return Next::kContinue;
}

absl::Status Recorder::Open() {
  // Before the writer is opened, so that nothing of it is missed.
  if (auto progress = context_->Subscribe<media::v1::Progress>(kProgressTopic); progress.ok()) {
    progress_ = *std::move(progress);
  }
  if (auto failures = context_->Subscribe<media::v1::Failure>(kFailureTopic); failures.ok()) {
    failures_ = *std::move(failures);
  }
  OpenRequest request;
  request.set_file_name(options_.output);
  *request.mutable_video() = source_->video_format();
  if (auto audio = source_->audio_format()) *request.mutable_audio() = *audio;
  absl::StatusOr<OpenReply> reply =
      context_->DispatchBlocking<OpenReply>(kOpen, std::move(request));
  if (!reply.ok()) return reply.status();
  writer_ = reply->writer();
  opened_at_ = absl::Now();
  next_progress_ = opened_at_ + kProgressInterval;
  if (options_.progress) {
    const auto& video = source_->video_format();
    std::printf("started at=%.3f width=%d height=%d sound=%d path=%s\n", UnixSeconds(opened_at_),
                video.width(), video.height(), source_->audio_format().has_value() ? 1 : 0,
                reply->path().c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status Recorder::Append(AppendRequest request, Buffer pixels) {
  const size_t bytes = request.video().i420().size() + request.video().buffer().length() +
                       request.audio().s16le().size();
  while (!unfinished_.empty() &&
         (unfinished_.size() >= kMaxUnfinished || unfinished_bytes_ + bytes > kMaxUnfinishedBytes ||
          unfinished_.front().append.done())) {
    if (absl::Status status = AwaitOldest(); !status.ok()) return status;
  }
  unfinished_bytes_ += bytes;
  unfinished_.push_back(
      {context_->DispatchAsync(kAppend, std::move(request)), bytes, std::move(pixels)});
  return absl::OkStatus();
}

absl::Status Recorder::AwaitOldest() {
  const Unfinished oldest = std::move(unfinished_.front());
  unfinished_.pop_front();
  unfinished_bytes_ -= oldest.bytes;
  absl::Status status = oldest.append.Await(kAppendTimeout);
  if (!status.ok()) failed_ = true;
  return status;
}

absl::Status Recorder::Teardown() {
  absl::Status status;
  while (!unfinished_.empty() && status.ok()) status = AwaitOldest();
  source_.reset();
  if (writer_ == 0) {
    // Process says why; on a signal before the first frame there is nothing to finish.
    return status;
  }
  FinishRequest request;
  request.set_writer(writer_);
  absl::StatusOr<FinishReply> reply = context_->DispatchBlocking<FinishReply>(
      kFinish, std::move(request), {.timeout = kFinishTimeout});
  TakeNotifications();
  progress_.reset();
  failures_.reset();
  context_.reset();
  if (!status.ok()) return status;
  if (!reply.ok()) return failed_ ? absl::OkStatus() : reply.status();
  if (options_.progress) {
    std::printf(
        "finished at=%.3f frames=%llu sound_samples=%llu seconds=%.3f bytes=%llu cpu=%.3f "
        "path=%s\n",
        UnixSeconds(absl::Now()), static_cast<unsigned long long>(reply->video_frames()),
        static_cast<unsigned long long>(reply->audio_samples()), Seconds(reply->duration_nanos()),
        static_cast<unsigned long long>(reply->bytes()), CpuSeconds(), reply->path().c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

void Recorder::TakeNotifications() {
  while (progress_.has_value()) {
    const auto notification = progress_->Poll();
    if (!notification.has_value()) break;
    written_frames_ = notification->message->video_frames();
    ++reports_;
  }
  while (failures_.has_value()) {
    const auto notification = failures_->Poll();
    if (!notification.has_value()) break;
    std::fprintf(stderr, "mp4_recorder_worker: the writer has failed: %s\n",
                 notification->message->message().c_str());
  }
}

void Recorder::PrintProgress() {
  const absl::Time now = absl::Now();
  const double elapsed = std::max(absl::ToDoubleSeconds(now - opened_at_), 1e-3);
  std::printf(
      "progress at=%.3f frames=%lld rate=%.1f seconds=%.3f unfinished=%zu written=%llu "
      "reports=%llu\n",
      UnixSeconds(now), static_cast<long long>(frames_), static_cast<double>(frames_) / elapsed,
      Seconds(media_nanos_), unfinished_.size(), static_cast<unsigned long long>(written_frames_),
      static_cast<unsigned long long>(reports_));
  std::fflush(stdout);
  next_progress_ = now + kProgressInterval;
}

}  // namespace runloop::examples
