#include "runloop/daemon/plugin_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "runloop/daemon/process_info.h"

namespace runloop {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class PluginLoaderTest : public ::testing::Test {
 protected:
  static std::string Plugin(const std::string& kind) {
    return std::string(RUNLOOP_TEST_PLUGINS) + "/runloop_daemon_" + kind + "_plugin.so";
  }

  // What a loader says of `path`, with the good plugin loaded before.
  static absl::Status Load(const std::string& path) {
    OperationRegistry operations;
    PluginLoader loader({.probe_command = {RUNLOOP_TEST_RUNLOOPD}});
    const absl::Status good = loader.Load(Plugin("good"), operations);
    EXPECT_TRUE(good.ok()) << good;
    EXPECT_NE(operations.Find("runloop.daemon_test.v1.PluginOperations/Nothing"), nullptr);
    return loader.Load(path, operations);
  }

  static void ExpectRefused(const absl::Status& status, const std::string& path,
                            const std::string& why) {
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(path), HasSubstr(why), Not(HasSubstr("\n"))));
  }
};

TEST_F(PluginLoaderTest, RefusesAPluginThatIsMissing) {
  ExpectRefused(Load("no/such.so"), "no/such.so", "there is no such file");
}

TEST_F(PluginLoaderTest, RefusesAFileThatIsNoLibrary) {
  const std::string path = testing::TempDir() + "/text.so";
  std::ofstream(path) << "not a library";
  ExpectRefused(Load(path), path, "no shared library");
  std::ofstream(path) << "\177ELF and no more";
  ExpectRefused(Load(path), path, "cannot be loaded");
  ExpectRefused(Load(testing::TempDir()), testing::TempDir(), "no shared library");
  std::filesystem::remove(path);
}

TEST_F(PluginLoaderTest, RefusesALibraryWithoutTheEntryPoint) {
  ExpectRefused(Load(Plugin("without_symbol")), "without_symbol", "no symbol runloop_plugin");
}

TEST_F(PluginLoaderTest, RefusesAnotherVersionAndSaysBoth) {
  ExpectRefused(Load(Plugin("other_version")), "other_version",
                "of plugin version 8, this daemon takes version 1");
}

TEST_F(PluginLoaderTest, RefusesAProtoFileThatIsLoadedAndNamesIt) {
  ExpectRefused(Load(Plugin("colliding")), "colliding", "its proto file plugin.proto");
}

TEST_F(PluginLoaderTest, OutlivesAPluginThatCrashes) {
  ExpectRefused(Load(Plugin("crashing")), "crashing", "crashed while it was loaded");
}

TEST_F(PluginLoaderTest, DoesNotWaitForAPluginThatHangs) {
  const uint32_t files = daemon::CountOpenFiles();
  OperationRegistry operations;
  PluginLoader loader(
      {.probe_command = {RUNLOOP_TEST_RUNLOOPD}, .probe_timeout = absl::Milliseconds(300)});
  ExpectRefused(loader.Load(Plugin("hanging"), operations), "hanging", "did not finish loading");
  EXPECT_EQ(daemon::CountOpenFiles(), files);
}

TEST_F(PluginLoaderTest, PassesOnWhatRegisteringSaid) {
  ExpectRefused(Load(Plugin("failing")), "failing", "the device is not there");
}

TEST_F(PluginLoaderTest, RefusesTheSamePluginTwice) {
  ExpectRefused(Load(Plugin("good")), "good", "did not register");
}

}  // namespace
}  // namespace runloop
