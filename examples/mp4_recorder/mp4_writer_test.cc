// Writes real files with the real encoder, on a main context of the test's own, and looks at them
// with ffprobe.
#include "runloop/examples/mp4_recorder/mp4_writer.h"

#include <gst/gst.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace runloop::examples {

// Lets no frame through to the video's encoder while it lives, so that what is appended waits.
class Mp4WriterTestPeer {
 public:
  explicit Mp4WriterTestPeer(Mp4Writer& writer)
      : pad_(gst_element_get_static_pad(GST_ELEMENT(writer.video_.source), "src")),
        probe_(gst_pad_add_probe(
            pad_,
            static_cast<GstPadProbeType>(GST_PAD_PROBE_TYPE_BLOCK | GST_PAD_PROBE_TYPE_BUFFER),
            [](GstPad*, GstPadProbeInfo*, gpointer self) {
              absl::Notification& holds = static_cast<Mp4WriterTestPeer*>(self)->holds_;
              if (!holds.HasBeenNotified()) holds.Notify();
              return GST_PAD_PROBE_OK;
            },
            this, nullptr)) {}
  ~Mp4WriterTestPeer() {
    gst_pad_remove_probe(pad_, probe_);
    gst_object_unref(pad_);
  }

  // Blocks until it holds the first frame, which is out of the queue then; no other leaves it.
  void AwaitFrame() const { holds_.WaitForNotification(); }

 private:
  absl::Notification holds_;
  GstPad* const pad_;
  const gulong probe_;
};

namespace {

using media::v1::AppendRequest;
using media::v1::FinishReply;
using media::v1::OpenRequest;
using testing::HasSubstr;

// What a command prints.
std::string Shell(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, n);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return output;
}

std::string Probe(const std::string& path, const std::string& stream, const std::string& entries) {
  std::string output =
      Shell(absl::StrCat("ffprobe -v error -count_frames -select_streams ", stream,
                         " -show_entries stream=", entries, " -of csv=p=0 '", path, "'"));
  return output.substr(0, output.find('\n'));
}

OpenRequest Format(int width, int height, bool sound) {
  OpenRequest request;
  request.mutable_video()->set_width(width);
  request.mutable_video()->set_height(height);
  request.mutable_video()->set_frame_rate_numerator(30);
  request.mutable_video()->set_frame_rate_denominator(1);
  if (sound) {
    request.mutable_audio()->set_sample_rate(44100);
    request.mutable_audio()->set_channels(2);
  }
  return request;
}

constexpr int64_t kFrameNanos = 1'000'000'000 / 30;

// A frame that is darker on its left than on its right.
AppendRequest Frame(int width, int height, int index) {
  AppendRequest request;
  std::string& bytes = *request.mutable_video()->mutable_i420();
  bytes.assign(static_cast<size_t>(width) * height * 3 / 2, static_cast<char>(128));
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x)
      bytes[static_cast<size_t>(y) * width + x] = static_cast<char>(20 + 200 * x / width);
  }
  request.mutable_video()->set_pts_nanos(index * kFrameNanos);
  return request;
}

// A thirtieth of a second of a tone.
AppendRequest Sound(int index) {
  AppendRequest request;
  std::string& bytes = *request.mutable_audio()->mutable_s16le();
  for (int i = 0; i < 1470; ++i) {
    const auto sample = static_cast<int16_t>(8000 * std::sin((index * 1470 + i) * 0.0627));
    for (int channel = 0; channel < 2; ++channel) {
      bytes.push_back(static_cast<char>(sample & 0xff));
      bytes.push_back(static_cast<char>(sample >> 8));
    }
  }
  request.mutable_audio()->set_pts_nanos(index * kFrameNanos);
  return request;
}

class Mp4WriterTest : public testing::Test {
 protected:
  Mp4WriterTest() : context_(g_main_context_new()) {
    gst_init(nullptr, nullptr);
    g_main_context_acquire(context_);
    g_main_context_push_thread_default(context_);
    std::string pattern = testing::TempDir() + "/mp4_writer_XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }

  ~Mp4WriterTest() override {
    g_main_context_pop_thread_default(context_);
    g_main_context_release(context_);
    g_main_context_unref(context_);
    std::filesystem::remove_all(directory_);
  }

  std::string Path(const std::string& name = "test.mp4") const { return directory_ + "/" + name; }

  std::unique_ptr<Mp4Writer> Create(const OpenRequest& request) {
    absl::StatusOr<std::unique_ptr<Mp4Writer>> writer = Mp4Writer::Create(Path(), request);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return writer.ok() ? *std::move(writer) : nullptr;
  }

  // Runs the loop until there is a value.
  template <typename T>
  T Wait(const std::shared_ptr<std::optional<T>>& value) {
    while (!value->has_value()) g_main_context_iteration(context_, TRUE);
    return **value;
  }

  using Appended = std::shared_ptr<std::optional<absl::Status>>;
  using Finished = std::shared_ptr<std::optional<absl::StatusOr<FinishReply>>>;

  Appended StartAppend(Mp4Writer& writer, AppendRequest request) {
    auto result = std::make_shared<std::optional<absl::Status>>();
    writer.Append(std::move(request),
                  [result](absl::Status status) { *result = std::move(status); });
    return result;
  }

  absl::Status Append(Mp4Writer& writer, AppendRequest request) {
    return Wait(StartAppend(writer, std::move(request)));
  }

  Finished StartFinish(Mp4Writer& writer, absl::Duration timeout = absl::Minutes(1)) {
    auto result = std::make_shared<std::optional<absl::StatusOr<FinishReply>>>();
    writer.Finish(timeout,
                  [result](absl::StatusOr<FinishReply> reply) { *result = std::move(reply); });
    return result;
  }

  absl::StatusOr<FinishReply> Finish(Mp4Writer& writer, absl::Duration timeout = absl::Minutes(1)) {
    return Wait(StartFinish(writer, timeout));
  }

  // Appends frames until one is refused; returns those before it. The first has left the queue of
  // the encoder by then, and no other.
  std::vector<Appended> Fill(Mp4Writer& writer, int width, int height, absl::Status& refused) {
    const Mp4WriterTestPeer held(writer);
    return Fill(writer, held, width, height, refused);
  }
  std::vector<Appended> Fill(Mp4Writer& writer, const Mp4WriterTestPeer& held, int width,
                             int height, absl::Status& refused) {
    constexpr int kMost = 1000;
    const AppendRequest frame = Frame(width, height, 0);
    std::vector<Appended> appends;
    for (int i = 0; i < kMost; ++i) {
      AppendRequest next = frame;
      next.mutable_video()->set_pts_nanos(i * kFrameNanos);
      const Appended append = StartAppend(writer, std::move(next));
      if (append->has_value() && !(*append)->ok()) {
        refused = **append;
        break;
      }
      appends.push_back(append);
      if (i == 0) held.AwaitFrame();
    }
    return appends;
  }

  static size_t Waiting(const std::vector<Appended>& appends) {
    return static_cast<size_t>(
        std::count_if(appends.begin(), appends.end(),
                      [](const Appended& append) { return !append->has_value(); }));
  }

  // After Fill: ends the sound, and expects that it all ends in the file.
  void ExpectAllWritten(Mp4Writer& writer, const std::vector<Appended>& appends) {
    // Sound has room of its own, however much video waits.
    ASSERT_EQ(Append(writer, Sound(0)), absl::OkStatus());
    AppendRequest end;
    end.set_end(media::v1::STREAM_AUDIO);
    ASSERT_EQ(Append(writer, std::move(end)), absl::OkStatus());
    for (const Appended& append : appends) EXPECT_EQ(Wait(append), absl::OkStatus());
    ASSERT_TRUE(Finish(writer).ok());
    EXPECT_EQ(Probe(Path(), "v", "nb_read_frames"), absl::StrCat(appends.size()));
  }

  GMainContext* const context_;
  std::string directory_;
};

TEST_F(Mp4WriterTest, WritesEveryFrameAndTheSound) {
  auto writer = Create(Format(160, 120, true));
  for (int i = 0; i < 60; ++i) {
    ASSERT_EQ(Append(*writer, Frame(160, 120, i)), absl::OkStatus());
    ASSERT_EQ(Append(*writer, Sound(i)), absl::OkStatus());
  }
  absl::StatusOr<FinishReply> reply = Finish(*writer);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->video_frames(), 60);
  EXPECT_EQ(reply->audio_samples(), 60 * 1470);
  EXPECT_NEAR(static_cast<double>(reply->duration_nanos()), 2e9, 1e6);
  EXPECT_EQ(reply->bytes(), std::filesystem::file_size(Path()));
  EXPECT_EQ(Probe(Path(), "v", "codec_name,width,height,nb_read_frames"), "h264,160,120,60");
  EXPECT_EQ(Probe(Path(), "a", "codec_name,sample_rate,channels"), "aac,44100,2");
}

TEST_F(Mp4WriterTest, TakesRowsWithoutPaddingAtAnyEvenWidth) {
  auto writer = Create(Format(70, 50, false));  // GStreamer would pad chroma rows of 35 bytes
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Append(*writer, Frame(70, 50, i)), absl::OkStatus());
  ASSERT_TRUE(Finish(*writer).ok());
  const std::string first = Shell(
      absl::StrCat("ffmpeg -v error -i '", Path(), "' -frames:v 1 -pix_fmt yuv420p -f rawvideo -"));
  ASSERT_EQ(first.size(), 70u * 50 * 3 / 2);
  for (int y : {0, 25, 49}) {
    for (int x : {5, 35, 65}) {
      EXPECT_NEAR(static_cast<unsigned char>(first[static_cast<size_t>(y) * 70 + x]),
                  20 + 200 * x / 70, 12);
    }
  }
  for (size_t i = 70 * 50; i < first.size(); ++i)
    ASSERT_NEAR(static_cast<unsigned char>(first[i]), 128, 8);
}

TEST_F(Mp4WriterTest, AppendsWaitForRoomButNotMoreThanItsBound) {
  auto writer = Create(Format(640, 480, true));
  absl::Status refused;
  const std::vector<Appended> appends = Fill(*writer, 640, 480, refused);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("64 appends of this writer wait for room"));
  EXPECT_EQ(Waiting(appends), Mp4Writer::kMaxWaiting);
  ExpectAllWritten(*writer, appends);
}

TEST_F(Mp4WriterTest, FewerLargeFramesMayWait) {
  constexpr int kSide = 2048;
  auto writer = Create(Format(kSide, kSide, true));
  absl::Status refused;
  const std::vector<Appended> appends = Fill(*writer, kSide, kSide, refused);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  // The one that fills the encoder's queue, and those behind it.
  EXPECT_EQ(Waiting(appends), 1 + Mp4Writer::kMaxWaitingBytes / (kSide * kSide * 3 / 2));
  ExpectAllWritten(*writer, appends);
}

TEST_F(Mp4WriterTest, FinishAnswersAppendsThatStillWait) {
  auto writer = Create(Format(640, 480, false));
  std::vector<Appended> appends;
  for (int i = 0; i < 60; ++i) appends.push_back(StartAppend(*writer, Frame(640, 480, i)));
  absl::StatusOr<FinishReply> reply = Finish(*writer);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->video_frames(), 60);
  for (auto& append : appends) {
    ASSERT_TRUE(append->has_value());
    EXPECT_EQ(**append, absl::OkStatus());
  }
}

TEST_F(Mp4WriterTest, FinishTellsEachCallerTheSameOutcome) {
  auto writer = Create(Format(160, 120, false));
  ASSERT_EQ(Append(*writer, Frame(160, 120, 0)), absl::OkStatus());
  const Finished first = StartFinish(*writer), second = StartFinish(*writer);
  for (const Finished& finished : {first, second, StartFinish(*writer)}) {
    const absl::StatusOr<FinishReply> reply = Wait(finished);
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->video_frames(), 1);
  }
  EXPECT_TRUE(Finish(*writer).ok());
}

TEST_F(Mp4WriterTest, FinishGivesUpAtItsTimeout) {
  auto writer = Create(Format(640, 480, true));
  absl::Status refused;
  const Mp4WriterTestPeer held(*writer);  // however fast the encoder is
  const std::vector<Appended> appends = Fill(*writer, held, 640, 480, refused);
  const absl::Status status = Finish(*writer, absl::ZeroDuration()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(status.message(), HasSubstr("incomplete"));
  EXPECT_EQ(Waiting(appends), 0);
  EXPECT_EQ(**appends.back(), status);
}

TEST_F(Mp4WriterTest, DestructionAnswersWhoWaitsAndDoesNotWaitForTheEncoder) {
  auto writer = Create(Format(640, 480, true));
  absl::Status refused;
  const std::vector<Appended> appends = Fill(*writer, 640, 480, refused);
  const Finished finished = StartFinish(*writer, absl::InfiniteDuration());
  writer.reset();
  ASSERT_TRUE(finished->has_value());
  EXPECT_EQ((*finished)->status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Waiting(appends), 0);
  EXPECT_EQ((*appends.back())->code(), absl::StatusCode::kAborted);
  // Nothing of it is left in the context.
  while (g_main_context_iteration(context_, FALSE)) {
  }
}

TEST_F(Mp4WriterTest, RefusesWhatDoesNotFitTheFormat) {
  auto writer = Create(Format(160, 120, false));
  EXPECT_THAT(Append(*writer, Frame(160, 122, 0)).message(),
              HasSubstr("28800 bytes; this one has 29280"));
  EXPECT_THAT(Append(*writer, Sound(0)).message(), HasSubstr("records no sound"));
  EXPECT_THAT(Append(*writer, AppendRequest()).message(), HasSubstr("media is missing"));
  ASSERT_EQ(Append(*writer, Frame(160, 120, 3)), absl::OkStatus());
  EXPECT_EQ(Append(*writer, Frame(160, 120, 3)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Append(*writer, Frame(160, 120, -1)).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Finish(*writer).ok());
  EXPECT_EQ(Append(*writer, Frame(160, 120, 4)).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Mp4WriterTest, RefusesFormatsThatTheEncoderDoesNotHave) {
  for (auto [width, height] : {std::pair(15, 20), {161, 120}, {160, 4098}, {0, 0}}) {
    EXPECT_EQ(Mp4Writer::Create(Path(), Format(width, height, false)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  OpenRequest request = Format(160, 120, true);
  request.mutable_audio()->set_channels(3);
  EXPECT_EQ(Mp4Writer::Create(Path(), request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Format(160, 120, false);
  request.mutable_video()->set_frame_rate_denominator(0);
  EXPECT_EQ(Mp4Writer::Create(Path(), request).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST_F(Mp4WriterTest, SaysWhichFileItCannotCreate) {
  const std::string path = Path("no/such/directory.mp4");
  absl::Status status = Mp4Writer::Create(path, Format(160, 120, false)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr(path));
}

TEST_F(Mp4WriterTest, WithoutAFrameThereIsNoFile) {
  auto writer = Create(Format(160, 120, true));
  EXPECT_EQ(Finish(*writer).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST_F(Mp4WriterTest, SoundThatWasAnnouncedNeedNotCome) {
  auto writer = Create(Format(160, 120, true));
  for (int i = 0; i < 10; ++i) ASSERT_EQ(Append(*writer, Frame(160, 120, i)), absl::OkStatus());
  absl::StatusOr<FinishReply> reply = Finish(*writer);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->audio_samples(), 0);
  EXPECT_EQ(Probe(Path(), "v", "nb_read_frames"), "10");
  EXPECT_EQ(Probe(Path(), "a", "codec_name"), "aac");
}

TEST_F(Mp4WriterTest, StreamsThatWereEndedOneByOneAreFinishedAtOnce) {
  auto writer = Create(Format(160, 120, false));
  for (int i = 0; i < 10; ++i) ASSERT_EQ(Append(*writer, Frame(160, 120, i)), absl::OkStatus());
  AppendRequest end;
  end.set_end(media::v1::STREAM_VIDEO);
  ASSERT_EQ(Append(*writer, end), absl::OkStatus());
  EXPECT_EQ(Append(*writer, end).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Finish(*writer).ok());
  EXPECT_EQ(Probe(Path(), "v", "nb_read_frames"), "10");
}

TEST_F(Mp4WriterTest, WhoIsToldOfTheEndMayDestroyTheWriter) {
  auto writer = Create(Format(160, 120, false));
  ASSERT_EQ(Append(*writer, Frame(160, 120, 0)), absl::OkStatus());
  auto done = std::make_shared<std::optional<bool>>();
  Mp4Writer* raw = writer.get();
  raw->Finish(absl::Minutes(1), [writer = std::move(writer), done](const auto& reply) mutable {
    writer.reset();
    *done = reply.ok();
  });
  EXPECT_TRUE(Wait(done));
}

TEST_F(Mp4WriterTest, AnErrorOfThePipelineFailsWhatWaitsAndWhatComes) {
  std::filesystem::create_symlink("/dev/full", Path());
  auto writer = Create(Format(640, 480, false));
  absl::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) status = Append(*writer, Frame(640, 480, i));
  if (status.ok()) {
    status = Finish(*writer).status();
  } else {
    EXPECT_EQ(Finish(*writer).status().code(), absl::StatusCode::kInternal);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("filesink"));
}

TEST(Mp4WriterWithoutLoop, SaysThatItNeedsTheGlibLoop) {
  gst_init(nullptr, nullptr);
  absl::Status status = Mp4Writer::Create("/tmp/x.mp4", Format(160, 120, false)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("--loop=glib"));
}

}  // namespace
}  // namespace runloop::examples
