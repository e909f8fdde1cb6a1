#include "runloop/client/session_buffers.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// A daemon whose side channel answers when the test does.
class SessionBuffersTest : public testing::Test {
 protected:
  SessionBuffersTest() {
    char name[] = "/tmp/runloop-XXXXXX";
    address_.path = std::string(mkdtemp(name)) + "/s";
    listening_ = *ListenUnix(address_);
    v1::Welcome welcome;
    welcome.set_session_id("session");
    welcome.set_side_channel_token("token");
    welcome.mutable_limits()->set_max_buffer_bytes(1 << 20);
    buffers_ = std::make_shared<SessionBuffers>(address_, welcome);
  }
  ~SessionBuffersTest() override {
    std::filesystem::remove_all(std::filesystem::path(address_.path).parent_path());
  }

  // Blocks until a client has sent its request to attach.
  UniqueFd AwaitAttaching() {
    while (true) {
      UniqueFd socket(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket.valid()) {
        std::this_thread::yield();  // it does not block
        continue;
      }
      std::string magic(kSideChannelMagic.size(), '\0');
      char length[4];
      EXPECT_EQ(recv(socket.get(), magic.data(), magic.size(), MSG_WAITALL),
                static_cast<ssize_t>(magic.size()));
      EXPECT_EQ(magic, kSideChannelMagic);
      EXPECT_EQ(recv(socket.get(), length, sizeof(length), MSG_WAITALL), 4);
      return socket;
    }
  }

  Address address_;
  UniqueFd listening_;
  std::shared_ptr<SessionBuffers> buffers_;
};

TEST_F(SessionBuffersTest, TheSessionsEndDoesNotWaitForASideChannelThatIsBeingAttached) {
  absl::Status refused;
  absl::Notification done;
  std::thread asks([&] {
    refused = buffers_->New(1).status();
    done.Notify();
  });
  const UniqueFd daemon = AwaitAttaching();
  buffers_->End();
  EXPECT_FALSE(done.HasBeenNotified());  // nobody has answered
  const std::string attached = *EncodeSideChannelFrame(v1::SideChannelResponse());
  EXPECT_EQ(SendWithFds(daemon.get(), attached, {})->bytes, attached.size());
  asks.join();
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_NOT_CONNECTED) << refused;
  // It is of no use any more, and closed.
  char buffer[256];
  while (recv(daemon.get(), buffer, sizeof(buffer), 0) > 0) {
  }
  EXPECT_EQ(ReasonOf(buffers_->New(1).status()), v1::ERROR_REASON_NOT_CONNECTED);
}

}  // namespace
}  // namespace runloop::internal
