#include "runloop/daemon/connection_table.h"

#include <gtest/gtest.h>

#include "runloop/runtime/runtime.h"

namespace runloop::daemon {
namespace {

std::unique_ptr<Runtime> NewRuntime() { return *Runtime::Create({}); }

TEST(ConnectionTableTest, FindsAConnectionByTheNameThatGrpcGivesIt) {
  ConnectionTable table;
  const auto added = table.Add(71, {.pid = 1, .uid = 2, .gid = 3, .role = "camera"});
  EXPECT_EQ(table.Find("fd:71"), added);
  EXPECT_EQ(added->peer().role, "camera");
  EXPECT_EQ(table.size(), 1u);
}

TEST(ConnectionTableTest, FindsNothingByAnotherName) {
  ConnectionTable table;
  table.Add(71, {});
  for (const char* name : {"", "fd:", "fd:7", "fd:711", "fd:71x", "unix:71", "71", "fd:-1"}) {
    EXPECT_EQ(table.Find(name), nullptr) << name;
  }
}

TEST(ConnectionTableTest, AConnectionThatIsRemovedEndsItsSession) {
  const auto runtime = NewRuntime();
  ConnectionTable table;
  const auto connection = table.Add(71, {.pid = 5});
  const auto session = *connection->ImplicitSession(*runtime->core());
  EXPECT_EQ(*connection->ImplicitSession(*runtime->core()), session);
  EXPECT_EQ(session->info().peer.pid, 5);
  EXPECT_FALSE(session->ended());
  table.Remove(71, connection);
  EXPECT_TRUE(session->ended());
  EXPECT_EQ(table.Find("fd:71"), nullptr);
  EXPECT_EQ(*connection->ImplicitSession(*runtime->core()), nullptr);
}

TEST(ConnectionTableTest, ANumberThatIsGivenAgainEndsTheConnectionThatHadIt) {
  const auto runtime = NewRuntime();
  ConnectionTable table;
  const auto old = table.Add(71, {});
  const auto session = *old->ImplicitSession(*runtime->core());
  const auto next = table.Add(71, {});
  EXPECT_TRUE(session->ended());
  EXPECT_NE(next->id(), old->id());
  table.Remove(71, old);  // its end is noticed late
  EXPECT_EQ(table.Find("fd:71"), next);
}

TEST(ConnectionTableTest, ATableThatGoesEndsWhatIsLeft) {
  const auto runtime = NewRuntime();
  std::shared_ptr<Session> session;
  {
    ConnectionTable table;
    session = *table.Add(71, {})->ImplicitSession(*runtime->core());
  }
  EXPECT_TRUE(session->ended());
}

}  // namespace
}  // namespace runloop::daemon
