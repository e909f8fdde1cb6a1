// mp4_recorder_worker: records a file or a test pattern through a daemon that has loaded the
// mp4_recorder plugin.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "runloop/client/processor.h"
#include "runloop/examples/mp4_recorder/recorder.h"

int main(int argc, char** argv) {
  runloop::examples::Recorder::Options options;
  double seconds = 0;
  bool test_source = false;

  CLI::App app(
      "Records video as MP4 through operations on a runtime thread: runloopd --loop=glib "
      "--plugin=mp4_recorder.so must run, at RUNLOOP_ADDRESS or at the default socket.");
  app.footer(
      "Examples:\n"
      "  mp4_recorder_worker --input holiday.mkv --output holiday.mp4 --progress\n"
      "  mp4_recorder_worker --test-source --duration 10 --output test.mp4\n"
      "SIGTERM and Ctrl-C complete the file. Exit codes: 0 recorded, 1 failed, 2 the file could "
      "not be completed, "
      "69 no daemon.\n");
  auto* input = app.add_option("--input", options.input,
                               "The file to record, of any format that GStreamer reads");
  auto* test = app.add_flag("--test-source", test_source,
                            "Record a moving test picture and a tone, in real time");
  input->excludes(test);
  app.add_option("--output", options.output,
                 "Name of the MP4 in the daemon's recording directory (RUNLOOP_MP4_DIR)")
      ->required();
  app.add_option("--frames", options.max_frames, "Stop after this many frames")
      ->check(CLI::PositiveNumber);
  auto* duration = app.add_option("--duration", seconds, "Stop after this many seconds of media")
                       ->check(CLI::PositiveNumber);
  app.add_option("--width", options.test.width, "Of the test picture")->capture_default_str();
  app.add_option("--height", options.test.height, "Of the test picture")->capture_default_str();
  app.add_option("--rate", options.test.frame_rate, "Frames a second of the test picture")
      ->capture_default_str();
  app.add_flag("--frames-in-message", options.frames_in_message,
               "Send frames in messages instead of shared memory, to compare");
  app.add_flag("--progress", options.progress,
               "Print lines of key=value: started, progress, finished");
  try {
    app.parse(argc, argv);
    if (options.input.empty() && !test_source)
      throw CLI::RequiredError("--input FILE or --test-source");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "mp4_recorder_worker: %s; see --help\n", error.what());
    return runloop::kProcessorFailed;
  }
  if (duration->count() > 0) options.max_duration = absl::Seconds(seconds);

  runloop::examples::Recorder recorder(std::move(options));
  return runloop::RunProcessor(recorder, {.client_name = "mp4_recorder_worker"});
}
