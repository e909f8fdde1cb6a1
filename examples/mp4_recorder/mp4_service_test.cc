// The operations of Mp4Writer on a runtime with the GLib loop, from sessions in the same process.
#include "runloop/examples/mp4_recorder/mp4_service.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/runtime/runtime_context.h"
#include "runloop/v1/handles.pb.h"

namespace runloop::examples {
namespace {

using media::v1::AppendReply;
using media::v1::AppendRequest;
using media::v1::FinishReply;
using media::v1::FinishRequest;
using media::v1::OpenReply;
using media::v1::OpenRequest;
using testing::HasSubstr;

constexpr char kService[] = "runloop.examples.media.v1.Mp4Writer/";
constexpr int64_t kFrameNanos = 40'000'000;

class Mp4ServiceTest : public testing::Test {
 protected:
  Mp4ServiceTest() {
    std::string pattern = testing::TempDir() + "/mp4_service_XXXXXX";
    directory_ = std::filesystem::canonical(mkdtemp(pattern.data()));
    Start(NewGlibLoop());
  }
  ~Mp4ServiceTest() override {
    runtime_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Start(std::unique_ptr<RunLoop> loop) {
    OperationRegistry operations;
    ASSERT_EQ(Mp4Service::Register(operations, directory_), absl::OkStatus());
    auto runtime = Runtime::Create({.loop = std::move(loop),
                                    .operations = std::move(operations),
                                    .thread = RuntimeThread::kSpawn});
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *std::move(runtime);
  }

  // A worker's session.
  RuntimeContext Worker(const std::string& name = "worker") const {
    return runtime_->context().AsRuntimeContext(name);
  }

  static OpenRequest Format(const std::string& name) {
    OpenRequest request;
    request.set_file_name(name);
    request.mutable_video()->set_width(64);
    request.mutable_video()->set_height(64);
    request.mutable_video()->set_frame_rate_numerator(25);
    request.mutable_video()->set_frame_rate_denominator(1);
    return request;
  }

  static absl::StatusOr<OpenReply> Open(const RuntimeContext& worker, const std::string& name) {
    return worker.DispatchBlocking<OpenReply>(absl::StrCat(kService, "Open"), Format(name));
  }

  static uint64_t MustOpen(const RuntimeContext& worker, const std::string& name) {
    absl::StatusOr<OpenReply> reply = Open(worker, name);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? reply->writer() : 0;
  }

  static Invocation StartAppend(const RuntimeContext& worker, uint64_t writer, int frame) {
    AppendRequest request;
    request.set_writer(writer);
    request.mutable_video()->set_i420(std::string(64 * 64 * 3 / 2, static_cast<char>(frame)));
    request.mutable_video()->set_pts_nanos(frame * kFrameNanos);
    return worker.DispatchAsync(absl::StrCat(kService, "Append"), std::move(request));
  }

  static absl::StatusOr<FinishReply> Finish(const RuntimeContext& worker, uint64_t writer) {
    FinishRequest request;
    request.set_writer(writer);
    return worker.DispatchBlocking<FinishReply>(absl::StrCat(kService, "Finish"),
                                                std::move(request));
  }

  static absl::Status Release(const RuntimeContext& worker, uint64_t writer) {
    v1::ReleaseRequest request;
    request.set_handle(writer);
    return worker
        .DispatchBlocking<v1::ReleaseResponse>("runloop.v1.Handles/Release", std::move(request))
        .status();
  }

  // Objects that sessions hold.
  uint64_t Handles() const {
    uint64_t handles = 0;
    for (const auto& session : runtime_->GetSnapshot().sessions)
      handles += session->counts().handles;
    return handles;
  }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  // How many frames ffprobe finds in the file; nothing while it is incomplete.
  std::string Frames(const std::string& name) const {
    FILE* pipe =
        popen(absl::StrCat("ffprobe -v quiet -count_frames -select_streams v -show_entries "
                           "stream=nb_read_frames -of csv=p=0 '",
                           Path(name), "'")
                  .c_str(),
              "r");
    char output[64] = "";
    const size_t length = fread(output, 1, sizeof output, pipe);
    pclose(pipe);
    return std::string(output, length);
  }

  std::string directory_;
  std::unique_ptr<Runtime> runtime_;
};

TEST_F(Mp4ServiceTest, RecordsFramesThatWereAppendedWithoutWaiting) {
  RuntimeContext worker = Worker();
  const uint64_t writer = MustOpen(worker, "a.mp4");
  std::vector<Invocation> appends;
  for (int i = 0; i < 50; ++i) appends.push_back(StartAppend(worker, writer, i));
  absl::StatusOr<FinishReply> reply = Finish(worker, writer);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->video_frames(), 50);
  EXPECT_EQ(reply->bytes(), std::filesystem::file_size(Path("a.mp4")));
  for (const Invocation& append : appends) EXPECT_EQ(append.Await(), absl::OkStatus());
}

TEST_F(Mp4ServiceTest, PublishesHowFarItHasComeToItsSessionAlone) {
  RuntimeContext worker = Worker(), other = Worker("other");
  auto progress = worker.Subscribe<media::v1::Progress>(absl::StrCat(kService, "Progress"));
  auto others = other.Subscribe<media::v1::Progress>(absl::StrCat(kService, "Progress"));
  auto failures = worker.Subscribe<media::v1::Failure>(absl::StrCat(kService, "Failure"));
  ASSERT_TRUE(progress.ok() && others.ok() && failures.ok());
  const uint64_t writer = MustOpen(worker, "a.mp4");
  std::vector<Invocation> appends;
  for (int i = 0; i < 50; ++i) appends.push_back(StartAppend(worker, writer, i));
  ASSERT_TRUE(Finish(worker, writer).ok());
  // It keeps the newest.
  const auto last = progress->Poll();
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->message->writer(), writer);
  EXPECT_EQ(last->message->video_frames(), 50u);
  EXPECT_EQ(last->message->duration_nanos(), 50 * kFrameNanos);
  EXPECT_TRUE(last->message->ended());
  EXPECT_FALSE(others->Poll().has_value());
  EXPECT_FALSE(failures->Poll().has_value());
}

TEST_F(Mp4ServiceTest, PublishesWhyItHasFailed) {
  RuntimeContext worker = Worker();
  auto failures = worker.Subscribe<media::v1::Failure>(absl::StrCat(kService, "Failure"));
  ASSERT_TRUE(failures.ok()) << failures.status();
  const uint64_t writer = MustOpen(worker, "a.mp4");
  EXPECT_FALSE(Finish(worker, writer).ok());  // without a frame
  const auto failure = failures->Poll();
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->message->writer(), writer);
  EXPECT_EQ(failure->message->path(), Path("a.mp4"));
  EXPECT_THAT(failure->message->message(), HasSubstr("no frame"));
}

TEST_F(Mp4ServiceTest, RecordsFramesThatLieInBuffersAndRefusesWhatDoesNot) {
  RuntimeContext worker = Worker(), other = Worker("other");
  const uint64_t writer = MustOpen(worker, "a.mp4");
  constexpr size_t kFrame = 64 * 64 * 3 / 2;
  absl::StatusOr<Buffer> frames = worker.NewBuffer(2 * kFrame);
  const absl::StatusOr<Buffer> foreign = other.NewBuffer(kFrame);
  ASSERT_TRUE(frames.ok() && foreign.ok());
  int64_t next = 0;
  const auto append = [&](v1::BufferRef pixels) {
    AppendRequest request;
    request.set_writer(writer);
    *request.mutable_video()->mutable_buffer() = std::move(pixels);
    request.mutable_video()->set_pts_nanos(next * kFrameNanos);
    const absl::Status status =
        worker.DispatchAsync(absl::StrCat(kService, "Append"), std::move(request)).Await();
    if (status.ok()) ++next;
    return status.code();
  };
  EXPECT_EQ(append(frames->ref(0, kFrame)), absl::StatusCode::kOk);
  EXPECT_EQ(append(frames->ref(kFrame, kFrame)), absl::StatusCode::kOk);
  EXPECT_EQ(append(Buffer::OfBytes(std::string(kFrame, 7)).ref()), absl::StatusCode::kOk);
  EXPECT_EQ(append(frames->ref(1, kFrame - 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(append(frames->ref(2 * kFrame, kFrame)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(append(foreign->ref()), absl::StatusCode::kNotFound);
  frames = Buffer();  // the encoder may still read it
  const absl::StatusOr<FinishReply> reply = Finish(worker, writer);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->video_frames(), 3);
}

TEST_F(Mp4ServiceTest, AWriterIsUnknownInEverySessionButItsOwn) {
  RuntimeContext owner = Worker("owner"), other = Worker("other");
  const uint64_t writer = MustOpen(owner, "a.mp4");
  EXPECT_EQ(StartAppend(other, writer, 0).Await().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Finish(other, writer).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(StartAppend(owner, writer, 0).Await(), absl::OkStatus());
  EXPECT_TRUE(Finish(owner, writer).ok());
  EXPECT_EQ(Finish(owner, writer).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Mp4ServiceTest, AFileNameCannotLeaveTheDirectory) {
  for (const char* name : {"", ".", "..", ".hidden", "/tmp/x.mp4", "a/b.mp4", "../x.mp4", "a\nb"}) {
    EXPECT_EQ(Open(Worker(), name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(Open(Worker(), std::string(201, 'a')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(Mp4ServiceTest, TwoWritersNeverShareAFile) {
  RuntimeContext first = Worker("first"), second = Worker("second");
  const uint64_t writer = MustOpen(first, "a.mp4");
  EXPECT_EQ(Open(second, "a.mp4").status().code(), absl::StatusCode::kAlreadyExists);
  StartAppend(first, writer, 0);
  ASSERT_TRUE(Finish(first, writer).ok());
  EXPECT_TRUE(Open(second, "a.mp4").ok());
}

TEST_F(Mp4ServiceTest, ASessionHasABoundedNumberOfWriters) {
  RuntimeContext worker = Worker();
  uint64_t last = 0;
  for (int i = 0; i < Mp4Service::kMaxWriters; ++i)
    last = MustOpen(worker, absl::StrCat(i, ".mp4"));
  EXPECT_EQ(Open(worker, "more.mp4").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Open(Worker("other"), "other.mp4").ok());
  Finish(worker, last).IgnoreError();
  EXPECT_TRUE(Open(worker, "more.mp4").ok());
}

TEST_F(Mp4ServiceTest, ADirectoryThatCannotBeWrittenIsNamed) {
  std::filesystem::remove(directory_);
  absl::Status status = Open(Worker(), "a.mp4").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr(Path("a.mp4")));
}

TEST_F(Mp4ServiceTest, FinishReleasesTheHandleWhateverItsOutcome) {
  RuntimeContext worker = Worker();
  const uint64_t good = MustOpen(worker, "good.mp4"), empty = MustOpen(worker, "empty.mp4");
  EXPECT_EQ(Handles(), 2);
  EXPECT_EQ(StartAppend(worker, good, 0).Await(), absl::OkStatus());
  EXPECT_EQ(Finish(worker, empty).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Handles(), 1);
  EXPECT_TRUE(Finish(worker, good).ok());
  EXPECT_EQ(Handles(), 0);
  for (uint64_t writer : {good, empty}) {
    EXPECT_EQ(Finish(worker, writer).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(Release(worker, writer).code(), absl::StatusCode::kNotFound);
  }
}

TEST_F(Mp4ServiceTest, ReleaseCompletesTheFileAndAnswersThen) {
  RuntimeContext worker = Worker();
  const uint64_t writer = MustOpen(worker, "a.mp4");
  std::vector<Invocation> appends;
  for (int i = 0; i < 25; ++i) appends.push_back(StartAppend(worker, writer, i));
  EXPECT_EQ(Release(worker, writer), absl::OkStatus());
  EXPECT_EQ(Frames("a.mp4"), "25\n");
  EXPECT_EQ(Handles(), 0);
  for (const Invocation& append : appends) EXPECT_EQ(append.Await(), absl::OkStatus());
  EXPECT_TRUE(Open(worker, "a.mp4").ok());
}

TEST_F(Mp4ServiceTest, ReleaseDuringFinishLetsBothHearOfTheEnd) {
  RuntimeContext worker = Worker();
  const uint64_t writer = MustOpen(worker, "a.mp4");
  EXPECT_EQ(StartAppend(worker, writer, 0).Await(), absl::OkStatus());
  FinishRequest finish;
  finish.set_writer(writer);
  const Invocation finished = worker.DispatchAsync(absl::StrCat(kService, "Finish"), finish);
  const absl::Status released = Release(worker, writer);
  // The file may have been complete before.
  EXPECT_TRUE(released.ok() || absl::IsNotFound(released)) << released;
  EXPECT_EQ(finished.Await(), absl::OkStatus());
  EXPECT_EQ(Frames("a.mp4"), "1\n");
  EXPECT_EQ(Handles(), 0);
}

TEST_F(Mp4ServiceTest, TheFilesOfASessionThatEndedAreCompletedAndTheirNamesAreFree) {
  {
    RuntimeContext worker = Worker();
    for (const char* name : {"a.mp4", "b.mp4"}) {
      const uint64_t writer = MustOpen(worker, name);
      for (int i = 0; i < 25; ++i) {
        EXPECT_EQ(StartAppend(worker, writer, i).Await(), absl::OkStatus());
      }
    }
  }
  while (Handles() > 0) std::this_thread::yield();
  EXPECT_EQ(Frames("a.mp4"), "25\n");
  EXPECT_EQ(Frames("b.mp4"), "25\n");
  EXPECT_TRUE(Open(Worker(), "a.mp4").ok());
}

TEST_F(Mp4ServiceTest, ADrainCompletesTheFiles) {
  RuntimeContext worker = Worker();
  for (const char* name : {"a.mp4", "b.mp4"}) {
    const uint64_t writer = MustOpen(worker, name);
    for (int i = 0; i < 25; ++i) {
      EXPECT_EQ(StartAppend(worker, writer, i).Await(), absl::OkStatus());
    }
  }
  const Runtime::DrainResult result = runtime_->Drain(absl::Seconds(30));
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(result.not_closed, 0);
  EXPECT_EQ(Frames("a.mp4"), "25\n");
  EXPECT_EQ(Frames("b.mp4"), "25\n");
}

TEST_F(Mp4ServiceTest, ARuntimeThatIsDestroyedWithoutADrainEndsWhatWaits) {
  RuntimeContext worker = Worker();
  const uint64_t writer = MustOpen(worker, "a.mp4");
  std::vector<Invocation> appends;
  for (int i = 0; i < 60; ++i) appends.push_back(StartAppend(worker, writer, i));
  EXPECT_EQ(appends.front().Await(), absl::OkStatus());
  runtime_.reset();
  for (const Invocation& append : appends) EXPECT_TRUE(append.done());
}

TEST_F(Mp4ServiceTest, WithoutTheGlibLoopOpenSaysWhatToDo) {
  runtime_.reset();
  Start(nullptr);
  absl::Status status = Open(Worker(), "a.mp4").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("--loop=glib"));
}

}  // namespace
}  // namespace runloop::examples
