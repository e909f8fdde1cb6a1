// Random programs on the runtime, compared step by step with a reference model of what it promises.

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/runtime/planted_bugs.h"
#include "runloop/tests/sequence/coverage.h"
#include "runloop/tests/sequence/other_thread.h"
#include "runloop/tests/sequence/program.h"
#include "runloop/tests/sequence/reference.h"
#include "runloop/tests/sequence/run_program.h"
#include "runloop/tests/sequence/transport.h"

ABSL_FLAG(int, programs, 10'000, "random programs to run");
ABSL_FLAG(int, steps, 100, "random steps of each, at least 50");
ABSL_FLAG(uint64_t, first_seed, 1, "seed of the first; they count up");
ABSL_FLAG(std::optional<uint64_t>, seed, std::nullopt,
          "run the program of this seed alone, and list what it does; give --steps as it failed");
ABSL_FLAG(std::string, transport, "local",
          "how sessions of other processes are carried: local, by calls of the runtime; stream, by "
          "the code of session streams, without gRPC; ring, by rings");
ABSL_FLAG(int, at_least, 100,
          "how often each kind of step has to meet each of its outcomes; less is a failure");
#ifdef RUNLOOP_PLANTED_BUGS
ABSL_FLAG(bool, find_planted_bugs, false,
          "instead: plant one bug after another in the runtime, and fail unless each is found");
#endif

namespace runloop::sequence {
namespace {

std::optional<Transport> TransportNamed(absl::string_view name) {
  if (name == "local") return Transport::kLocal;
  if (name == "stream") return Transport::kStream;
  if (name == "ring") return Transport::kRing;
  return std::nullopt;
}

class Runner {
 public:
  std::optional<Failure> Run(const Program& program, std::vector<std::string>* listing = nullptr) {
    Coverage none;
    return RunProgram(program, transport_, other_, none, listing);
  }

  // With `others_only`, the host opens no session: all are carried by the transport.
  void SetOthersOnly(bool others_only) { others_only_ = others_only; }

  Program MakeProgram(uint64_t seed) const {
    Program program = Generate(seed, absl::GetFlag(FLAGS_steps));
    for (Step& step : program.steps) {
      if (others_only_ && step.kind == StepKind::kOpen) step.pick_more %= 2 * kInProcess;
    }
    return program;
  }

  // Runs `count` programs; the seed of the first that fails, with `sign` in what it says.
  std::optional<uint64_t> RunMany(int count, Coverage& coverage, Failure& failure,
                                  absl::string_view sign = "") {
    const uint64_t first = absl::GetFlag(FLAGS_first_seed);
    for (uint64_t seed = first; seed < first + static_cast<uint64_t>(count); ++seed) {
      const Program program = MakeProgram(seed);
      std::optional<Failure> failed = RunProgram(program, transport_, other_, coverage);
      if (!failed.has_value() || !absl::StrContains(failed->what, sign)) continue;
      failure = *std::move(failed);
      return seed;
    }
    return std::nullopt;
  }

  // A program that fails with `sign` too, without the steps that it can do without.
  Program Shrink(Program program, absl::string_view sign = "") {
    const auto fails = [&](const Program& tried) {
      const std::optional<Failure> failed = Run(tried);
      return failed.has_value() && absl::StrContains(failed->what, sign);
    };
    for (size_t chunk = program.steps.size(); chunk > 0;) {
      const size_t before = program.steps.size();
      for (size_t end = before; end >= chunk; end -= chunk) {
        Program less = program;
        const auto last = less.steps.begin() + static_cast<std::ptrdiff_t>(end);
        less.steps.erase(last - static_cast<std::ptrdiff_t>(chunk), last);
        if (fails(less)) program = std::move(less);
      }
      // Again while it helps: what could not go may have been needed by what went.
      if (program.steps.size() == before) chunk /= 2;
      chunk = std::min(chunk, program.steps.size());
    }
    for (Step& step : program.steps) {
      const std::vector<Step> meanwhile = std::exchange(step.meanwhile, {});
      if (!meanwhile.empty() && !fails(program)) step.meanwhile = meanwhile;
      for (size_t i = step.batch.size(); i-- > 0 && step.batch.size() > 1;) {
        std::vector<Step> less = step.batch;
        less.erase(less.begin() + static_cast<std::ptrdiff_t>(i));
        less.swap(step.batch);
        if (!fails(program)) less.swap(step.batch);
      }
    }
    return program;
  }

 private:
  const Transport transport_ = *TransportNamed(absl::GetFlag(FLAGS_transport));
  OtherThread other_;
  bool others_only_ = false;
};

void List(Runner& runner, const Program& program) {
  std::vector<std::string> listing;
  const std::optional<Failure> failure = runner.Run(program, &listing);
  for (const std::string& line : listing) std::printf("%s\n", line.c_str());
  if (failure.has_value()) {
    std::printf("FAILED in step %zu: %s\n", failure->step, failure->what.c_str());
  }
}

int RunOne(uint64_t seed) {
  Runner runner;
  const Program program = Generate(seed, absl::GetFlag(FLAGS_steps));
  List(runner, program);
  return runner.Run(program).has_value() ? 1 : 0;
}

int RunAll() {
  Runner runner;
  Coverage coverage;
  Failure failure;
  const absl::Time begin = absl::Now();
  const int programs = absl::GetFlag(FLAGS_programs);
  if (const std::optional<uint64_t> seed = runner.RunMany(programs, coverage, failure)) {
    const Program program = Generate(*seed, absl::GetFlag(FLAGS_steps));
    std::printf("FAILED: seed %llu, step %zu: %s\n\nIt fails without other steps too:\n",
                static_cast<unsigned long long>(*seed), failure.step, failure.what.c_str());
    List(runner, runner.Shrink(program));
    std::printf("\nThe whole program: sequence_test --transport %s --seed %llu --steps %d\n",
                absl::GetFlag(FLAGS_transport).c_str(), static_cast<unsigned long long>(*seed),
                absl::GetFlag(FLAGS_steps));
    return 1;
  }
  const bool by_messages = absl::GetFlag(FLAGS_transport) != "local";
  std::printf("Each kind of step, and how often it met which outcome:\n%s",
              coverage.Table(by_messages).c_str());
  std::printf("%d programs of %d random steps: all as the model says, %s\n", programs,
              absl::GetFlag(FLAGS_steps), absl::FormatDuration(absl::Now() - begin).c_str());
  const std::vector<std::string> complaints =
      coverage.Complaints(absl::GetFlag(FLAGS_at_least), by_messages);
  for (const std::string& complaint : complaints) std::printf("FAILED: %s\n", complaint.c_str());
  return complaints.empty() ? 0 : 1;
}

#ifdef RUNLOOP_PLANTED_BUGS
using internal::PlantedBug;

int FindPlantedBugs() {
  struct Planted {
    PlantedBug bug;
    const char* name;
    const char* sign;  // by which it has to be found
  };
  const bool by_messages = absl::GetFlag(FLAGS_transport) != "local";
  std::vector<Planted> all = {
      {PlantedBug::kSwappedOrder, "swapped order", " starts, "},
      {PlantedBug::kLostOutcome, "lost outcome", "it has no outcome"},
      // A worker is told once, and of the wrong one.
      {PlantedBug::kDoubleCompletion, "double completion",
       by_messages ? "; the runtime: UNKNOWN" : "has two outcomes"},
      {PlantedBug::kLeakedHandle, "leaked handle", " is destroyed"},
      {PlantedBug::kRunAfterCancel, "run after cancel", "runs after its outcome, CANCELLED"},
      {PlantedBug::kTimerAfterCancel, "timer runs after cancel",
       "runs after its outcome, the cancel of its timer"},
      {PlantedBug::kSplitBatch, "split batch", " starts, "},
      {PlantedBug::kStarvedLine, "starved line", " starts, "},
      {PlantedBug::kLostNotification, "lost notification", "take "}};
  if (by_messages) {
    all.push_back({PlantedBug::kResumedDuplicate, "resumed duplicate",
                   "says the model; the runtime: admitted"});
  }
  const int programs = absl::GetFlag(FLAGS_programs);
  const uint64_t first = absl::GetFlag(FLAGS_first_seed);
  Runner runner;
  // By the transport, and not beside it.
  runner.SetOthersOnly(by_messages);
  bool as_wanted = true;
  for (const Planted& planted : all) {
    internal::planted_bug = planted.bug;
    Coverage coverage;
    Failure failure;
    const std::optional<uint64_t> seed = runner.RunMany(programs, coverage, failure, planted.sign);
    as_wanted = as_wanted && seed.has_value();
    if (seed.has_value()) {
      const Program shrunk = runner.Shrink(runner.MakeProgram(*seed), planted.sign);
      const std::optional<Failure> again = runner.Run(shrunk);
      std::printf("%s: found by program %llu in step %zu: %s\n  shrunk to %zu steps: %s\n",
                  planted.name, static_cast<unsigned long long>(*seed - first + 1), failure.step,
                  failure.what.c_str(), shrunk.steps.size(),
                  again.has_value() ? again->what.c_str() : "does not fail again");
    } else {
      std::printf("%s: NOT FOUND by %d programs\n", planted.name, programs);
    }
  }
  internal::planted_bug = PlantedBug::kNone;
  Coverage coverage;
  Failure failure;
  if (runner.RunMany(programs, coverage, failure).has_value()) {
    std::printf("no bug: FAILED all the same: %s\n", failure.what.c_str());
    return 1;
  }
  std::printf("no bug: none found by %d programs\n", programs);
  return as_wanted ? 0 : 1;
}
#endif

}  // namespace
}  // namespace runloop::sequence

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Runs random programs of many sessions on a runtime, and compares each step with a reference "
      "model.\nOn a failure prints the seed, the step, and the program with all steps left out "
      "that "
      "it does not need.\n\n  sequence_test                  10,000 programs\n  sequence_test "
      "--seed "
      "17        one, listed step by step");
  absl::ParseCommandLine(argc, argv);
  if (!runloop::sequence::TransportNamed(absl::GetFlag(FLAGS_transport)).has_value()) {
    std::fprintf(stderr, "--transport must be local, stream or ring\n");
    return 2;
  }
  if (absl::GetFlag(FLAGS_steps) < 50) {
    std::fprintf(stderr, "--steps must be 50 or more\n");
    return 2;
  }
#ifdef RUNLOOP_PLANTED_BUGS
  if (absl::GetFlag(FLAGS_find_planted_bugs)) return runloop::sequence::FindPlantedBugs();
#endif
  if (const std::optional<uint64_t> seed = absl::GetFlag(FLAGS_seed)) {
    return runloop::sequence::RunOne(*seed);
  }
  return runloop::sequence::RunAll();
}
