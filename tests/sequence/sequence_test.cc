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
#include "runloop/tests/sequence/driver.h"
#include "runloop/tests/sequence/other_thread.h"
#include "runloop/tests/sequence/program.h"

ABSL_FLAG(int, programs, 10'000, "random programs to run");
ABSL_FLAG(int, steps, 80, "random steps of each, at least 50");
ABSL_FLAG(uint64_t, first_seed, 1, "seed of the first; they count up");
ABSL_FLAG(std::optional<uint64_t>, seed, std::nullopt,
          "run the program of this seed alone, and list what it does; give --steps as it failed");
ABSL_FLAG(int, at_least, 100,
          "how often each kind of step has to meet each of its outcomes; less is a failure");
#ifdef RUNLOOP_PLANTED_BUGS
ABSL_FLAG(bool, find_planted_bugs, false,
          "instead: plant one bug after another in the runtime, and fail unless each is found");
#endif

namespace runloop::sequence {
namespace {

class Runner {
 public:
  std::optional<Failure> Run(const Program& program, std::vector<std::string>* listing = nullptr) {
    Coverage none;
    return RunProgram(program, other_, none, listing);
  }

  // Runs `count` programs; the seed of the first that fails, with `sign` in what it says.
  std::optional<uint64_t> RunMany(int count, Coverage& coverage, Failure& failure,
                                  absl::string_view sign = "") {
    const uint64_t first = absl::GetFlag(FLAGS_first_seed);
    for (uint64_t seed = first; seed < first + static_cast<uint64_t>(count); ++seed) {
      const Program program = Generate(seed, absl::GetFlag(FLAGS_steps));
      std::optional<Failure> failed = RunProgram(program, other_, coverage);
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
    }
    return program;
  }

 private:
  OtherThread other_;
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
    std::printf("\nThe whole program: sequence_test --seed %llu --steps %d\n",
                static_cast<unsigned long long>(*seed), absl::GetFlag(FLAGS_steps));
    return 1;
  }
  std::printf("Each kind of step, and how often it met which outcome:\n%s",
              coverage.Table().c_str());
  std::printf("%d programs of %d random steps: all as the model says, %s\n", programs,
              absl::GetFlag(FLAGS_steps), absl::FormatDuration(absl::Now() - begin).c_str());
  const std::vector<std::string> complaints = coverage.Complaints(absl::GetFlag(FLAGS_at_least));
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
  constexpr Planted kPlanted[] = {
      {PlantedBug::kSwappedOrder, "swapped order", " starts, "},
      {PlantedBug::kLostOutcome, "lost outcome", "it has no outcome"},
      {PlantedBug::kDoubleCompletion, "double completion", "has two outcomes"},
      {PlantedBug::kLeakedHandle, "leaked handle", " is destroyed"},
      {PlantedBug::kRunAfterCancel, "run after cancel", "runs after its outcome, CANCELLED"}};
  const int programs = absl::GetFlag(FLAGS_programs);
  const uint64_t first = absl::GetFlag(FLAGS_first_seed);
  Runner runner;
  bool as_wanted = true;
  for (const Planted& planted : kPlanted) {
    internal::planted_bug = planted.bug;
    Coverage coverage;
    Failure failure;
    const std::optional<uint64_t> seed = runner.RunMany(programs, coverage, failure, planted.sign);
    as_wanted = as_wanted && seed.has_value();
    if (seed.has_value()) {
      const Program shrunk =
          runner.Shrink(Generate(*seed, absl::GetFlag(FLAGS_steps)), planted.sign);
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
