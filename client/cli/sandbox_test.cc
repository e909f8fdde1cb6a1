#include "runloop/client/cli/sandbox.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace runloop::cli {
namespace {

using testing::HasSubstr;

class SandboxTest : public testing::Test {
 protected:
  SandboxTest() {
    std::string pattern = testing::TempDir() + "/sandbox-XXXXXX";
    directory_ = std::filesystem::canonical(mkdtemp(pattern.data())).string();
    program_ = directory_ + "/program";
    std::ofstream(program_) << "#!/bin/sh\n";
    chmod(program_.c_str(), 0755);
    std::ofstream(directory_ + "/data") << "x";
  }
  ~SandboxTest() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<std::string> Plan(const RunOptions& options) {
    absl::StatusOr<SandboxPlan> plan =
        PlanSandbox("/usr/bin/bwrap", program_, "/run/x", options, "/home/me", daemon_, 9);
    if (!plan.ok()) return plan.status();
    return absl::StrJoin(plan->argv, " ");
  }

  std::string directory_;
  std::string program_;
  Address daemon_{"/run/runloop/runloopd.sock"};
};

TEST_F(SandboxTest, AProgramIsFoundAsAShellFindsIt) {
  std::filesystem::create_symlink(program_, directory_ + "/link");
  EXPECT_EQ(*FindProgram("program", "/nowhere:" + directory_), program_);
  EXPECT_EQ(*FindProgram(directory_ + "/link", ""), program_);
  EXPECT_TRUE(absl::IsNotFound(FindProgram("program", "/nowhere").status()));
  EXPECT_TRUE(absl::IsNotFound(FindProgram("", directory_).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(FindProgram(directory_, "").status()));
}

TEST_F(SandboxTest, AProgramOutsideTheSystemBringsItsDirectoryUnlessThatHoldsOtherThings) {
  EXPECT_EQ(ProgramBind("/usr/bin/env", "/home/me", daemon_), std::nullopt);
  EXPECT_EQ(ProgramBind("/opt/acme/bin/worker", "/home/me", daemon_), "/opt/acme/bin");
  EXPECT_EQ(ProgramBind("/home/me/work/bin/worker", "/home/me", daemon_), "/home/me/work/bin");
  for (const char* program : {"/home/me/worker", "/home/worker", "/tmp/worker", "/worker"}) {
    EXPECT_EQ(ProgramBind(program, "/home/me", daemon_), program);
  }
  daemon_.path = "/opt/acme/bin/run/daemon.sock";
  EXPECT_EQ(ProgramBind("/opt/acme/bin/worker", "/home/me", daemon_), "/opt/acme/bin/worker");
  EXPECT_EQ(ProgramBind("/opt/acme/bin2/worker", "/home/me", daemon_), "/opt/acme/bin2");
}

TEST_F(SandboxTest, TheSandboxHasItsOwnEverythingAndSeesTheSocketReadOnly) {
  const absl::StatusOr<std::string> line = Plan({.command = {"program", "--flag", "a b"}});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(*line,
              HasSubstr("/usr/bin/bwrap --unshare-all --die-with-parent --new-session --clearenv "
                        "--cap-drop ALL"));
  EXPECT_THAT(*line, HasSubstr("--ro-bind /run/x /run/runloop"));
  EXPECT_THAT(*line, HasSubstr("--setenv RUNLOOP_ADDRESS unix:/run/runloop/runloopd.sock"));
  EXPECT_THAT(*line, HasSubstr("--ro-bind " + directory_ + " " + directory_));
  EXPECT_TRUE(line->ends_with(program_ + " --flag a b")) << *line;
  EXPECT_THAT(*line, testing::Not(HasSubstr("--share-net")));
}

TEST_F(SandboxTest, BindsAndVariablesComeAsAskedFor) {
  const std::string data = directory_ + "/data";
  const absl::StatusOr<std::string> line = Plan({.read_only_binds = {"/etc/hostname"},
                                                 .binds = {data},
                                                 .environment = {"A=b=c"},
                                                 .command = {"program"}});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(*line, HasSubstr("--ro-bind /etc/hostname /etc/hostname"));
  EXPECT_THAT(*line, HasSubstr(" --bind " + data + " " + data));
  EXPECT_THAT(*line, HasSubstr("--setenv A b=c"));
}

TEST_F(SandboxTest, NothingThatHoldsTheDaemonsSocketIsBound) {
  std::filesystem::create_directory(directory_ + "/run");
  std::filesystem::create_symlink(directory_ + "/run", directory_ + "/link");
  daemon_.path = directory_ + "/link/daemon.sock";
  std::ofstream(daemon_.path) << "x";
  const absl::StatusOr<std::string> line = Plan({.command = {"program"}});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(*line, HasSubstr("--ro-bind " + program_ + " " + program_));
  for (const std::string& path : {std::string("/"), directory_, directory_ + "/./",
                                  directory_ + "/run", directory_ + "/link", daemon_.path}) {
    const absl::Status writable = Plan({.binds = {path}, .command = {"program"}}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(writable)) << path;
    EXPECT_THAT(std::string(writable.message()), HasSubstr("the daemon's own socket"));
    EXPECT_TRUE(
        absl::IsInvalidArgument(Plan({.read_only_binds = {path}, .command = {"program"}}).status()))
        << path;
  }
  EXPECT_TRUE(Plan({.binds = {directory_ + "/data"}, .command = {"program"}}).ok());
}

TEST_F(SandboxTest, WhatIsNotThereCannotBeBound) {
  EXPECT_TRUE(absl::IsInvalidArgument(
      Plan({.binds = {directory_ + "/none"}, .command = {"program"}}).status()));
}

TEST_F(SandboxTest, WhereSomethingIsNotFoundItSaysWhatToBind) {
  const auto hint = [this](const RunOptions& options) {
    return std::string(
        NothingFound(directory_ + "/bin/program", directory_ + "/own/bin/runloopctl", options)
            .message());
  };
  const std::string lib = directory_ + "/lib", own_lib = directory_ + "/own/lib";
  std::filesystem::create_directories(directory_ + "/bin");
  std::filesystem::create_directories(directory_ + "/own/bin");
  EXPECT_TRUE(hint({}).ends_with("with --ro-bind DIRECTORY")) << hint({});
  std::filesystem::create_directories(lib);
  std::filesystem::create_directories(own_lib);
  EXPECT_TRUE(hint({}).ends_with("with --ro-bind " + lib + " --ro-bind " + own_lib)) << hint({});
  EXPECT_TRUE(hint({.read_only_binds = {lib}}).ends_with("with --ro-bind " + own_lib));
  EXPECT_TRUE(hint({.binds = {directory_}}).ends_with("with --ro-bind DIRECTORY"));
}

}  // namespace
}  // namespace runloop::cli
