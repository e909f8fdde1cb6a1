#include "runloop/ipc/address.h"

#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace runloop {
namespace {

// Sets a variable of the environment, or unsets it, for as long as it lives.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name); before != nullptr) before_ = before;
    Set(value);
  }
  ~ScopedVariable() { Set(before_ ? before_->c_str() : nullptr); }

 private:
  void Set(const char* value) {
    if (value != nullptr) {
      setenv(name_, value, 1);
    } else {
      unsetenv(name_);
    }
  }

  const char* const name_;
  std::optional<std::string> before_;
};

TEST(AddressTest, TakesAPathWithAndWithoutScheme) {
  EXPECT_EQ(ParseAddress("unix:/run/a.sock")->path, "/run/a.sock");
  EXPECT_EQ(ParseAddress("/run/a.sock")->path, "/run/a.sock");
  EXPECT_EQ(ParseAddress("/run/a.sock")->ToString(), "unix:/run/a.sock");
}

TEST(AddressTest, WritesOneFileInOneWay) {
  for (const char* text :
       {"unix:///run/a.sock", "/run//a.sock", "/run/./a.sock", "/run/x/../a.sock"}) {
    EXPECT_EQ(ParseAddress(text)->path, "/run/a.sock") << text;
  }
}

TEST(AddressTest, ARelativePathIsTakenFromTheWorkingDirectory) {
  char directory[4096];
  ASSERT_NE(getcwd(directory, sizeof(directory)), nullptr);
  EXPECT_EQ(ParseAddress("a.sock")->path, std::string(directory) + "/a.sock");
  EXPECT_EQ(ParseAddress("./dir:1/a.sock")->path, std::string(directory) + "/dir:1/a.sock");
}

TEST(AddressTest, RefusesWhatIsNoUnixSocket) {
  for (const std::string& text :
       {std::string("localhost:50051"), std::string("tcp://1.2.3.4:5"), std::string("unix:"),
        std::string(), std::string("/run/"), std::string("/run/a\0b", 8)}) {
    EXPECT_EQ(ParseAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(AddressTest, APathMayBeAsLongAsTheKernelTakes) {
  EXPECT_TRUE(ParseAddress("/" + std::string(106, 'a')).ok());
  EXPECT_EQ(ParseAddress("/" + std::string(107, 'a')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(AddressTest, TheEnvironmentNamesTheDefault) {
  ScopedVariable address("RUNLOOP_ADDRESS", "unix:/tmp/x.sock");
  EXPECT_EQ(DefaultAddress()->path, "/tmp/x.sock");
}

TEST(AddressTest, WithoutRunloopAddressTheDefaultGoesByTheUser) {
  ScopedVariable address("RUNLOOP_ADDRESS", nullptr);
  ScopedVariable directory("XDG_RUNTIME_DIR", "/run/user/7");
  EXPECT_EQ(DefaultAddress()->path,
            geteuid() == 0 ? "/run/runloop/runloopd.sock" : "/run/user/7/runloop/runloopd.sock");
}

}  // namespace
}  // namespace runloop
