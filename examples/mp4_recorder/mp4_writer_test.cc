// Writes real files with the real encoder, on a main context of the test's own, and looks at them
// with ffprobe.
#include "runloop/examples/mp4_recorder/mp4_writer.h"

#include <gst/gst.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace runloop::examples {
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

  std::shared_ptr<Mp4Writer> Create(const OpenRequest& request) {
    absl::StatusOr<std::shared_ptr<Mp4Writer>> writer = Mp4Writer::Create(Path(), request);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return writer.ok() ? *writer : nullptr;
  }

  // Runs the loop until there is a value.
  template <typename T>
  T Wait(const std::shared_ptr<std::optional<T>>& value) {
    while (!value->has_value()) g_main_context_iteration(context_, TRUE);
    return **value;
  }

  auto StartAppend(Mp4Writer& writer, AppendRequest request) {
    auto result = std::make_shared<std::optional<absl::Status>>();
    writer.Append(std::move(request),
                  [result](absl::Status status) { *result = std::move(status); });
    return result;
  }

  absl::Status Append(Mp4Writer& writer, AppendRequest request) {
    return Wait(StartAppend(writer, std::move(request)));
  }

  absl::StatusOr<FinishReply> Finish(Mp4Writer& writer, absl::Duration timeout = absl::Minutes(1)) {
    auto result = std::make_shared<std::optional<absl::StatusOr<FinishReply>>>();
    writer.Finish(timeout,
                  [result](absl::StatusOr<FinishReply> reply) { *result = std::move(reply); });
    return Wait(result);
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

TEST_F(Mp4WriterTest, AnAppendThatFindsNoRoomCompletesWhenThereIsSome) {
  // Without sound the muxer takes no video: it fills up, sooner or later.
  constexpr int kMost = 3000;
  auto writer = Create(Format(640, 480, true));
  std::vector<std::shared_ptr<std::optional<absl::Status>>> appends;
  std::string noise(640 * 480 * 3 / 2, '\0');
  uint32_t state = 1;
  for (char& c : noise) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  for (int i = 0; i < kMost && (i == 0 || appends.back()->has_value()); ++i) {
    AppendRequest frame;
    frame.mutable_video()->set_i420(noise);
    frame.mutable_video()->set_pts_nanos(i * kFrameNanos);
    appends.push_back(StartAppend(*writer, std::move(frame)));
    while (g_main_context_iteration(context_, FALSE)) {
    }
  }
  EXPECT_FALSE(appends.back()->has_value()) << "there was always room";
  AppendRequest end;
  end.set_end(media::v1::STREAM_AUDIO);
  ASSERT_EQ(Append(*writer, Sound(0)), absl::OkStatus());
  ASSERT_EQ(Append(*writer, std::move(end)), absl::OkStatus());
  for (auto& append : appends) EXPECT_EQ(Wait(append), absl::OkStatus());
  ASSERT_TRUE(Finish(*writer).ok());
  EXPECT_EQ(Probe(Path(), "v", "nb_read_frames"), absl::StrCat(appends.size()));
}

TEST_F(Mp4WriterTest, FinishAnswersAppendsThatStillWait) {
  auto writer = Create(Format(640, 480, false));
  std::vector<std::shared_ptr<std::optional<absl::Status>>> appends;
  for (int i = 0; i < 100; ++i) appends.push_back(StartAppend(*writer, Frame(640, 480, i)));
  absl::StatusOr<FinishReply> reply = Finish(*writer);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->video_frames(), 100);
  for (auto& append : appends) {
    ASSERT_TRUE(append->has_value());
    EXPECT_EQ(**append, absl::OkStatus());
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
  EXPECT_EQ(Finish(*writer).status().code(), absl::StatusCode::kFailedPrecondition);
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

TEST_F(Mp4WriterTest, DestructionCompletesTheFile) {
  auto writer = Create(Format(160, 120, true));
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(Append(*writer, Frame(160, 120, i)), absl::OkStatus());
    ASSERT_EQ(Append(*writer, Sound(i)), absl::OkStatus());
  }
  writer.reset();
  EXPECT_EQ(Probe(Path(), "v", "nb_read_frames"), "30");
}

TEST_F(Mp4WriterTest, ACallbackMayDropTheLastReference) {
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
