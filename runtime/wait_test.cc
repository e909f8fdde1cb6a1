#include "runloop/runtime/wait.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "runloop/runtime/error.h"

namespace runloop {
namespace {

using internal::InvocationState;

std::vector<Invocation> Make(size_t count) {
  std::vector<Invocation> made;
  for (size_t i = 0; i < count; ++i) {
    made.emplace_back(std::make_shared<InvocationState>());
  }
  return made;
}

class CountingWaiter final : public InvocationState::Waiter {
 public:
  void Tell() override { ++told; }
  int told = 0;
};

TEST(WaiterTest, IsToldOnceUnlessItWasRemoved) {
  InvocationState state;
  CountingWaiter stays, goes;
  EXPECT_TRUE(state.Add(stays));
  EXPECT_TRUE(state.Add(goes));
  state.Remove(goes);
  state.Remove(goes);
  state.Finish(absl::AbortedError(""));
  EXPECT_EQ(stays.told, 1);
  EXPECT_EQ(goes.told, 0);
  EXPECT_FALSE(state.Add(goes));
  state.Remove(stays);
}

TEST(WaitAnyTest, GivesTheFirstThatIsDone) {
  const std::vector<Invocation> all = Make(3);
  for (const absl::Duration timeout : {absl::ZeroDuration(), absl::Milliseconds(1)}) {
    const absl::Status late = WaitAny(all, timeout).status();
    EXPECT_EQ(ReasonOf(late), v1::ERROR_REASON_STILL_RUNNING) << late;
  }
  std::thread finisher([&] { internal::StateOf(all[2])->Finish(absl::AbortedError("")); });
  EXPECT_EQ(*WaitAny(all), 2u);
  finisher.join();
  internal::StateOf(all[1])->Finish(absl::AbortedError(""));
  EXPECT_EQ(*WaitAny(all), 1u);
  EXPECT_EQ(*WaitAny({all[0], all[2], all[2]}), 1u);
}

TEST(WaitAnyTest, MissesNothingThatEndsAsItBegins) {
  for (int round = 0; round < 1000; ++round) {
    const std::vector<Invocation> all = Make(4);
    std::thread finisher(
        [&] { internal::StateOf(all[round % 4])->Finish(absl::AbortedError("")); });
    EXPECT_EQ(*WaitAny(all), static_cast<size_t>(round % 4));
    finisher.join();
  }
}

TEST(WaitAllTest, GivesTheFirstErrorOnceAllAreDone) {
  const std::vector<Invocation> all = Make(3);
  internal::StateOf(all[0])->Finish(internal::Reply());
  internal::StateOf(all[2])->Finish(absl::AbortedError("third"));
  const absl::Status late = WaitAll(all, absl::ZeroDuration());
  EXPECT_EQ(ReasonOf(late), v1::ERROR_REASON_STILL_RUNNING) << late;
  std::thread finisher([&] { internal::StateOf(all[1])->Finish(absl::NotFoundError("second")); });
  EXPECT_EQ(WaitAll(all), absl::NotFoundError("second"));
  finisher.join();
}

}  // namespace
}  // namespace runloop
