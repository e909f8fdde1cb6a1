// frame_pipeline_worker: one stage of a pipeline of processes, through a daemon that has loaded the
// frame_pipe and mp4_recorder plugins.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "runloop/client/processor.h"
#include "runloop/examples/frame_pipeline/stages.h"

int main(int argc, char** argv) {
  using namespace runloop::examples;  // NOLINT(google-build-using-namespace): the stages
  StageOptions options;
  CLI::App app(
      "One stage of a pipeline: source, filter and writer are a process each, and pass frames from "
      "one to the next in shared memory, without a copy. runloopd --loop=glib "
      "--plugin=frame_pipe.so --plugin=mp4_recorder.so must run, at RUNLOOP_ADDRESS or at the "
      "default socket.");
  app.footer("Exit codes: 0 done, 1 failed, 2 the file could not be completed, 69 no daemon.\n");
  app.add_option("--stage", options.stage, "source, filter or writer")
      ->required()
      ->check(CLI::IsMember({"source", "filter", "writer"}));
  app.add_option("--output", options.output,
                 "writer: name of the MP4 in the daemon's recording directory (RUNLOOP_MP4_DIR)")
      ->capture_default_str();
  app.add_option("--frames", options.frames, "source: how many")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--width", options.width, "source: of a frame; even")
      ->capture_default_str()
      ->check(CLI::Range(16, 4096));
  app.add_option("--height", options.height, "source: of a frame; even")
      ->capture_default_str()
      ->check(CLI::Range(16, 4096));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "frame_pipeline_worker: %s; see --help\n", error.what());
    return runloop::kProcessorFailed;
  }
  std::unique_ptr<runloop::Processor> processor;
  if (options.stage == "source") {
    processor = std::make_unique<SourceStage>(options);
  } else if (options.stage == "filter") {
    processor = std::make_unique<FilterStage>();
  } else {
    processor = std::make_unique<WriterStage>(options);
  }
  return runloop::RunProcessor(*processor, {.client_name = "pipeline " + options.stage});
}
