#include "runloop/examples/mp4_recorder/mp4_service.h"

#include <gst/gst.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"

namespace runloop::examples {

using media::v1::AppendReply;
using media::v1::AppendRequest;
using media::v1::FinishReply;
using media::v1::FinishRequest;
using media::v1::OpenReply;
using media::v1::OpenRequest;

namespace {

constexpr absl::Duration kFinishTimeout = absl::Minutes(1);
constexpr absl::Duration kProgressInterval = absl::Milliseconds(100);
constexpr char kProgress[] = "runloop.examples.media.v1.Mp4Writer/Progress";
constexpr char kFailure[] = "runloop.examples.media.v1.Mp4Writer/Failure";

absl::Status CheckFileName(absl::string_view name) {
  const bool plain = !name.empty() && name.size() <= 200 && name.front() != '.' &&
                     std::none_of(name.begin(), name.end(), [](char c) {
                       return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
                     });
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "file_name must be a plain name of 1 to 200 bytes, without a slash and not beginning with a "
      "dot");
}

absl::Status InitializeGstreamer() {
  // Streaming threads end with their pipeline instead of waiting in a pool: what a session leaves
  // behind can be counted.
  g_thread_pool_set_max_unused_threads(0);
  GError* error = nullptr;
  if (gst_init_check(nullptr, nullptr, &error)) return absl::OkStatus();
  absl::Status status = absl::FailedPreconditionError(absl::StrCat(
      "GStreamer does not start: ", error != nullptr ? error->message : "no reason given"));
  g_clear_error(&error);
  return status;
}

}  // namespace

class Mp4Service::Recording {
 public:
  Recording(std::unique_ptr<Mp4Writer> writer, std::shared_ptr<Files> files, std::string file_name,
            std::string session_id)
      : writer_(std::move(writer)),
        files_(std::move(files)),
        file_(files_->emplace(std::move(file_name), std::move(session_id)).first) {}
  ~Recording() {
    writer_.reset();  // closes the file: only then may another have it
    files_->erase(file_);
  }

  Mp4Writer& writer() { return *writer_; }

  // Tells `session`, which owns it by `handle`, how it gets on.
  void PublishTo(const std::shared_ptr<Session>& session, Handle handle) {
    writer_->Watch([weak = std::weak_ptr<Session>(session), handle, next = absl::InfinitePast()](
                       const Mp4Writer& writer, bool ended, const absl::Status& failure) mutable {
      const std::shared_ptr<Session> owner = weak.lock();
      const absl::Time now = absl::Now();
      if (owner == nullptr || (!ended && now < next)) return;
      next = now + kProgressInterval;
      if (!failure.ok()) {
        media::v1::Failure failed;
        failed.set_writer(handle);
        failed.set_path(writer.path());
        failed.set_message(std::string(failure.message()));
        // Refused only when nobody is there any more.
        owner->Publish(kFailure, std::move(failed)).IgnoreError();
      }
      media::v1::Progress progress = writer.progress();
      progress.set_writer(handle);
      progress.set_ended(ended);
      owner->Publish(kProgress, std::move(progress)).IgnoreError();
    });
  }

  // The runtime sees to the time that this may take.
  void Close(Closing closing) {
    writer_->Finish(absl::InfiniteDuration(),
                    [closing = std::move(closing)](const absl::StatusOr<FinishReply>&) {});
  }

 private:
  std::unique_ptr<Mp4Writer> writer_;
  const std::shared_ptr<Files> files_;
  const Files::iterator file_;
};

absl::Status Mp4Service::Register(OperationRegistry& operations, std::string directory) {
  std::shared_ptr<Mp4Service> service(new Mp4Service(std::move(directory)));
  absl::Status status = operations.RegisterTopic<media::v1::Progress>(kProgress, {.latest = true});
  if (status.ok()) status = operations.RegisterTopic<media::v1::Failure>(kFailure);
  if (!status.ok()) return status;
  status = operations.RegisterDeferred<OpenRequest, OpenReply>(
      "runloop.examples.media.v1.Mp4Writer/Open",
      [service](OperationContext& context, OpenRequest request, Completion<OpenReply> completion) {
        service->Open(context, std::move(request), std::move(completion));
      });
  if (!status.ok()) return status;
  status = operations.RegisterDeferred<AppendRequest, AppendReply>(
      "runloop.examples.media.v1.Mp4Writer/Append",
      [service](OperationContext& context, AppendRequest request,
                Completion<AppendReply> completion) {
        service->Append(context, std::move(request), std::move(completion));
      });
  if (!status.ok()) return status;
  return operations.RegisterDeferred<FinishRequest, FinishReply>(
      "runloop.examples.media.v1.Mp4Writer/Finish",
      [service](OperationContext& context, FinishRequest request,
                Completion<FinishReply> completion) {
        service->Finish(context, std::move(request), std::move(completion));
      });
}

Mp4Service::~Mp4Service() {
  if (!initializer_.joinable()) return;
  // The initializer may hold the last reference to the runtime, and so to this.
  if (initializer_.get_id() == std::this_thread::get_id()) {
    initializer_.detach();
  } else {
    initializer_.join();
  }
}

void Mp4Service::Open(OperationContext& context, OpenRequest request,
                      Completion<OpenReply> completion) {
  absl::Status status = CheckFileName(request.file_name());
  if (status.ok()) status = Mp4Writer::CheckFormats(request);
  if (!status.ok()) {
    completion.Finish(std::move(status));
    return;
  }
  WhenReady(context.runtime(), [this, session = context.session(), request = std::move(request),
                                completion = std::move(completion)](absl::Status ready) mutable {
    completion.Finish(ready.ok() ? OpenNow(session, request, completion)
                                 : absl::StatusOr<OpenReply>(std::move(ready)));
  });
}

void Mp4Service::WhenReady(const LocalRuntimeContext& runtime,
                           absl::AnyInvocable<void(absl::Status) &&> then) {
  if (ready_) {
    std::move(then)(absl::OkStatus());
    return;
  }
  if (auto waiting = waiting_.lock()) {
    waiting->push_back(std::move(then));
    return;
  }
  auto waiting = std::make_shared<Waiting>();
  waiting->push_back(std::move(then));
  waiting_ = waiting;
  // The first start reads every plugin there is, which takes seconds: not on the runtime thread.
  if (initializer_.joinable()) initializer_.join();
  initializer_ = std::thread([runtime, weak = weak_from_this(),
                              waiting = std::move(waiting)]() mutable {
    absl::Status status = InitializeGstreamer();
    // Refused only by a runtime that has stopped; the closure then takes along what waits.
    runtime
        .RunOnRuntimeThreadAsync([weak, status = std::move(status), waiting = std::move(waiting)] {
          if (auto service = weak.lock()) service->OnInitialized(status, *waiting);
        })
        .IgnoreError();
  });
}

void Mp4Service::OnInitialized(const absl::Status& status, Waiting& waiting) {
  ready_ = status.ok();
  waiting_.reset();
  for (auto& then : std::exchange(waiting, {})) std::move(then)(status);
}

absl::StatusOr<OpenReply> Mp4Service::OpenNow(const std::shared_ptr<Session>& session,
                                              const OpenRequest& request,
                                              Completion<OpenReply>& completion) {
  if (session->ended()) return absl::AbortedError("the session has ended");
  if (files_->contains(request.file_name())) {
    return absl::AlreadyExistsError(absl::StrCat(
        "'", request.file_name(), "' is being recorded now: choose another file name"));
  }
  const std::string& session_id = session->info().id;
  if (std::count_if(files_->begin(), files_->end(),
                    [&](const auto& file) { return file.second == session_id; }) >= kMaxWriters) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this session has ", kMaxWriters, " writers: finish one first"));
  }
  std::error_code error;
  const std::filesystem::path directory = std::filesystem::absolute(directory_, error);
  auto writer = Mp4Writer::Create((directory / request.file_name()).lexically_normal(), request);
  if (!writer.ok()) return writer.status();

  OpenReply reply;
  reply.set_path((*writer)->path());
  auto recording =
      std::make_unique<Recording>(*std::move(writer), files_, request.file_name(), session_id);
  Recording& kept = *recording;
  const absl::StatusOr<Handle> handle = completion.Keep(std::move(recording));
  if (!handle.ok()) return handle.status();
  kept.PublishTo(session, *handle);
  reply.set_writer(*handle);
  return reply;
}

void Mp4Service::Append(OperationContext& context, AppendRequest request,
                        Completion<AppendReply> completion) {
  const auto recording = context.session()->Find<Recording>(request.writer());
  if (!recording.ok()) {
    completion.Finish(recording.status());
    return;
  }
  Buffer pixels;
  if (request.video().has_buffer()) {
    absl::StatusOr<Buffer> opened =
        context.OpenBuffer(std::move(*request.mutable_video()->mutable_buffer()));
    if (!opened.ok()) {
      completion.Finish(opened.status());
      return;
    }
    pixels = *std::move(opened);
  }
  (*recording)
      ->writer()
      .Append(
          std::move(request),
          [completion = std::move(completion)](absl::Status status) mutable {
            completion.Finish(status.ok() ? absl::StatusOr<AppendReply>(AppendReply())
                                          : std::move(status));
          },
          std::move(pixels));
}

void Mp4Service::Finish(OperationContext& context, FinishRequest request,
                        Completion<FinishReply> completion) {
  const auto recording = context.session()->Find<Recording>(request.writer());
  if (!recording.ok()) {
    completion.Finish(recording.status());
    return;
  }
  (*recording)
      ->writer()
      .Finish(kFinishTimeout,
              [session = context.session(), handle = request.writer(),
               completion = std::move(completion)](absl::StatusOr<FinishReply> reply) mutable {
                // Destroys the writer, unless somebody else is closing it.
                session->Release(handle).IgnoreError();
                completion.Finish(std::move(reply));
              });
}

}  // namespace runloop::examples
