// The contract of notifications, run over every way to a runtime.

#include "absl/synchronization/notification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "runloop/client/connect.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_operations.h"
#include "runloop/tests/testing/test_topics.h"

namespace runloop {
namespace {

using test::v1::Item;
using test::v1::PublishReply;
using test::v1::PublishRequest;
using testing::ElementsAre;

constexpr absl::Duration kLong = absl::Seconds(60);

enum class Path { kLocal, kStream, kRing };

class NotificationTest : public testing::TestWithParam<Path> {
 protected:
  void Start() {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    RegisterTestTopics(registry);
    runtime_ = *Runtime::Create({.operations = std::move(registry),
                                 .thread = RuntimeThread::kSpawn,
                                 .log = [](LogSeverity, std::string_view) {}});
    if (GetParam() == Path::kLocal) return;
    if (directory_.empty()) {
      directory_ = testing::TempDir() + "/runloop-notes-XXXXXX";
      ASSERT_NE(mkdtemp(directory_.data()), nullptr);
      // By its own name this process reaches it in process; by another it goes through the socket.
      std::filesystem::create_symlink(directory_ + "/s", directory_ + "/other-name");
    }
    absl::StatusOr<std::unique_ptr<Host>> host = Host::Start(
        *runtime_, {.listen = directory_ + "/s", .log = [](LogSeverity, std::string_view) {}});
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
  }

  void TearDown() override {
    if (operations_) operations_->LetGo();
    host_.reset();
    runtime_.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  RuntimeContext Context() {
    if (GetParam() == Path::kLocal) return runtime_->context().AsRuntimeContext("notes");
    const absl::StatusOr<RuntimeContext> context = Connect({.address = directory_ + "/other-name",
                                                            .client_name = "notes",
                                                            .connect_timeout = kLong,
                                                            .ring = GetParam() == Path::kRing});
    if (!context.ok()) throw std::runtime_error(context.status().ToString());
    return *context;
  }

  // Returns once they are published.
  static void Publish(const RuntimeContext& context, std::string topic, uint64_t first,
                      uint64_t count = 1, bool to_session = false) {
    PublishRequest request;
    request.set_topic(std::move(topic));
    request.set_first(first);
    request.set_count(count);
    request.set_to_session(to_session);
    const auto reply = context.DispatchBlocking<PublishReply>(kPublish, request);
    ASSERT_TRUE(reply.ok()) << reply.status();
  }

  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Host> host_;
  std::string directory_;
};

INSTANTIATE_TEST_SUITE_P(, NotificationTest,
                         testing::Values(Path::kLocal, Path::kStream, Path::kRing),
                         [](const testing::TestParamInfo<Path>& path) {
                           switch (path.param) {
                             case Path::kLocal:
                               return "Local";
                             case Path::kStream:
                               return "Stream";
                             case Path::kRing:
                               return "Ring";
                           }
                           return "";
                         });

TEST_P(NotificationTest, WhatADispatchPublishesReachesWhoSubscribedBefore) {
  Start();
  const RuntimeContext context = Context();
  auto subscription = context.Subscribe<Item>(kEvery);
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  EXPECT_FALSE(subscription->Poll().has_value());
  Publish(context, kEvery, 10, 3);
  for (uint64_t i = 0; i < 3; ++i) {
    const auto next = subscription->Next(kLong);
    ASSERT_TRUE(next.has_value()) << subscription->status();
    EXPECT_EQ(next->message->index(), 10 + i);
    EXPECT_EQ(next->sequence, 1 + i);
    EXPECT_EQ(next->dropped, 0u);
    EXPECT_FALSE(next->gap);
    EXPECT_LT(absl::AbsDuration(absl::Now() - next->publish_time), absl::Hours(1));
  }
  EXPECT_FALSE(subscription->Poll().has_value());
  EXPECT_EQ(subscription->dropped(), 0u);
}

TEST_P(NotificationTest, HostCodePublishesFromAnyThread) {
  Start();
  const RuntimeContext context = Context();
  auto subscription = context.Subscribe<Item>(kEvery);
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  Publish(context, kEvery, 0);  // it stands
  ASSERT_TRUE(subscription->Next(kLong).has_value());
  std::thread([&] {
    Item item;
    item.set_index(1);
    EXPECT_TRUE(runtime_->context().Publish(kEvery, item).ok());
  }).join();
  const auto next = subscription->Next(kLong);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->message->index(), 1u);
}

TEST_P(NotificationTest, WhatIsForOneSessionGoesToNoOther) {
  Start();
  const RuntimeContext context = Context(), other = Context();
  auto its = context.Subscribe<Item>(kEvery), others = other.Subscribe<Item>(kEvery);
  ASSERT_TRUE(its.ok() && others.ok());
  Publish(other, kEvery, 1);
  Publish(context, kEvery, 2, 1, /*to_session=*/true);
  Publish(context, kEvery, 3);
  EXPECT_EQ(others->Next(kLong)->message->index(), 1u);
  EXPECT_EQ(others->Next(kLong)->message->index(), 3u);
}

TEST_P(NotificationTest, AnUnknownTopicAndAnotherTypeAreRefused) {
  Start();
  const RuntimeContext context = Context();
  const absl::Status unknown = context.Subscribe<Item>("a.B/C").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound) << unknown;
  EXPECT_EQ(ReasonOf(unknown), v1::ERROR_REASON_UNKNOWN_TOPIC);
  const absl::Status other = context.Subscribe<PublishReply>(kEvery).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument) << other;
}

TEST_P(NotificationTest, ACallbackGetsThemInOrderOnAThreadThatIsNotTheRuntimes) {
  Start();
  const RuntimeContext context = Context();
  absl::Mutex mutex;
  std::vector<uint64_t> indices;
  bool on_runtime_thread = false;
  auto subscription = context.Subscribe<Item>(kEvery, [&](const Notification<Item>& got) {
    absl::MutexLock lock(&mutex);
    on_runtime_thread |= runtime_->context().OnRuntimeThread();
    indices.push_back(got.message->index());
  });
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  Publish(context, kEvery, 0, 200);
  const auto all = [&] { return indices.size() == 200; };
  absl::MutexLock lock(&mutex);
  ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&all), kLong));
  for (uint64_t i = 0; i < 200; ++i) EXPECT_EQ(indices[i], i);
  EXPECT_FALSE(on_runtime_thread);
}

TEST_P(NotificationTest, AnExecutorChoosesTheThread) {
  Start();
  const RuntimeContext context = Context();
  absl::Mutex mutex;
  std::deque<absl::AnyInvocable<void() &&>> posted;
  int calls = 0;
  auto subscription =
      context.Subscribe<Item>(kEvery, [&](const Notification<Item>&) { ++calls; },
                              {.executor = [&](absl::AnyInvocable<void() &&> closure) {
                                absl::MutexLock lock(&mutex);
                                posted.push_back(std::move(closure));
                              }});
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  Publish(context, kEvery, 0, 100);
  while (calls < 100) {  // this thread is the one that is chosen
    absl::AnyInvocable<void() &&> closure;
    {
      absl::MutexLock lock(&mutex);
      const auto has_posted = [&] { return !posted.empty(); };
      ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&has_posted), kLong));
      closure = std::move(posted.front());
      posted.pop_front();
    }
    std::move(closure)();
  }
  EXPECT_EQ(calls, 100);
}

TEST_P(NotificationTest, WhatAnExecutorDropsIsHandedOverAgainWithTheNextNotification) {
  Start();
  const RuntimeContext context = Context();
  absl::Mutex mutex;
  std::deque<absl::AnyInvocable<void() &&>> posted;
  int turns = 0;
  std::vector<uint64_t> indices;
  auto subscription = context.Subscribe<Item>(
      kEvery, [&](const Notification<Item>& got) { indices.push_back(got.message->index()); },
      {.bounds = {.items = 10'000}, .executor = [&](absl::AnyInvocable<void() &&> closure) {
         absl::MutexLock lock(&mutex);
         if (++turns > 3) posted.push_back(std::move(closure));
       }});
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  uint64_t published = 0;
  const auto has_posted = [&] { return !posted.empty(); };
  // What comes before one has been dropped asks for no other.
  for (bool posts = false; !posts;) {
    Publish(context, kEvery, published++);
    absl::MutexLock lock(&mutex);
    posts = has_posted();
  }
  EXPECT_TRUE(indices.empty());
  while (indices.size() < published) {  // on this thread
    absl::AnyInvocable<void() &&> closure;
    {
      absl::MutexLock lock(&mutex);
      ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&has_posted), kLong));
      closure = std::move(posted.front());
      posted.pop_front();
    }
    std::move(closure)();
  }
  for (uint64_t i = 0; i < published; ++i) EXPECT_EQ(indices[i], i);
}

TEST_P(NotificationTest, ASubscriptionThatHasItsWorkDroppedEndsAtOnce) {
  Start();
  const auto captured = std::make_shared<int>();
  absl::Mutex mutex;
  bool dropped = false;
  {
    const RuntimeContext context = Context();
    auto subscription = context.Subscribe<Item>(
        kEvery, [captured](const Notification<Item>&) { ADD_FAILURE() << "it was dropped"; },
        {.executor = [&](absl::AnyInvocable<void() &&>) {
          absl::MutexLock lock(&mutex);
          dropped = true;
        }});
    ASSERT_TRUE(subscription.ok()) << subscription.status();
    Publish(context, kEvery, 0, 3);
    absl::MutexLock lock(&mutex);
    ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&dropped), kLong));
  }
  host_.reset();
  runtime_.reset();
  EXPECT_EQ(captured.use_count(), 1);
}

TEST_P(NotificationTest, ASubscriptionMayEndInItsCallback) {
  Start();
  const RuntimeContext context = Context();
  std::optional<Subscription<Item>> subscription;
  absl::Mutex mutex;
  absl::Notification ended;
  int calls = 0;
  {
    absl::MutexLock lock(&mutex);
    auto made = context.Subscribe<Item>(kEvery, [&](const Notification<Item>&) {
      {
        absl::MutexLock until_it_is_there(&mutex);
        ++calls;
      }
      subscription.reset();
      ended.Notify();
    });
    ASSERT_TRUE(made.ok()) << made.status();
    subscription = *std::move(made);
  }
  Publish(context, kEvery, 0, 10);
  ASSERT_TRUE(ended.WaitForNotificationWithTimeout(kLong));
  Publish(context, kEvery, 0, 10);
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(calls, 1);
}

TEST_P(NotificationTest, WhoDoesNotPollLosesTheOldestAndIsToldHowMany) {
  Start();
  const RuntimeContext context = Context();
  auto slow = context.Subscribe<Item>(kEvery, {.bounds = {.items = 4, .bytes = 1000}});
  auto quick = context.Subscribe<Item>(kEvery, {.bounds = {.items = 10'000}});
  ASSERT_TRUE(slow.ok() && quick.ok());
  // Fewer at once than wait in the daemon.
  for (uint64_t i = 0; i < 1000; i += 100) Publish(context, kEvery, i, 100);
  uint64_t last = 0, taken = 0;
  while (last != 999) {
    const auto next = quick->Next(kLong);
    ASSERT_TRUE(next.has_value());
    last = next->message->index();
    ++taken;
  }
  EXPECT_EQ(taken + quick->dropped(), 1000u);
  const auto next = slow->Next(kLong);
  ASSERT_TRUE(next.has_value());
  EXPECT_GE(next->dropped, 990u);
  EXPECT_EQ(next->sequence, next->dropped + 1);
}

TEST_P(NotificationTest, OnlyTheNewestWaitsOfATopicThatKeepsTheNewest) {
  Start();
  const RuntimeContext context = Context();
  auto newest = context.Subscribe<Item>(kNewest), every = context.Subscribe<Item>(kEvery);
  ASSERT_TRUE(newest.ok() && every.ok());
  Publish(context, kNewest, 0, 1000);
  Publish(context, kEvery, 1);
  ASSERT_TRUE(every->Next(kLong).has_value());  // all others have come by then
  const auto next = newest->Next(kLong);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->message->index(), 999u);
  EXPECT_EQ(next->sequence, 1000u);
  EXPECT_EQ(next->dropped, 0u);
  EXPECT_FALSE(newest->Poll().has_value());
}

TEST_P(NotificationTest, ThereAreManySubscriptionsAndTheirEndIsKnown) {
  Start();
  const RuntimeContext context = Context();
  for (int round = 0; round < 20; ++round) {
    std::vector<Subscription<Item>> subscriptions;
    for (int i = 0; i < 200; ++i) {
      auto subscription = context.Subscribe<Item>(kEvery);
      ASSERT_TRUE(subscription.ok()) << subscription.status();
      subscriptions.push_back(*std::move(subscription));
    }
    Publish(context, kEvery, round);
    for (Subscription<Item>& subscription : subscriptions) {
      const auto next = subscription.Next(kLong);
      ASSERT_TRUE(next.has_value()) << subscription.status();
      EXPECT_EQ(next->message->index(), static_cast<uint64_t>(round));
    }
  }
  Publish(context, kEvery, 0);
  EXPECT_EQ(runtime_->GetSnapshot().topics[0]->statistics().subscriptions, 0u);
}

TEST_P(NotificationTest, AfterTheDaemonCameAgainItIsSubscribedAndTheGapIsTold) {
  if (GetParam() == Path::kLocal) GTEST_SKIP() << "in process nothing is lost";
  Start();
  const RuntimeContext context = Context();
  auto subscription = context.Subscribe<Item>(kEvery);
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  Publish(context, kEvery, 1);
  EXPECT_FALSE(subscription->Next(kLong)->gap);
  host_.reset();
  runtime_.reset();
  Start();
  // It waits for the new session, and comes after the subscription.
  absl::StatusOr<PublishReply> reply;
  do {
    PublishRequest request;
    request.set_topic(kEvery);
    request.set_first(2);
    request.set_count(1);
    reply = context.DispatchBlocking<PublishReply>(kPublish, request);
  } while (ReasonOf(reply.status()) == v1::ERROR_REASON_SESSION_LOST ||
           ReasonOf(reply.status()) == v1::ERROR_REASON_NOT_CONNECTED);
  ASSERT_TRUE(reply.ok()) << reply.status();
  const auto next = subscription->Next(kLong);
  ASSERT_TRUE(next.has_value()) << subscription->status();
  EXPECT_EQ(next->message->index(), 2u);
  EXPECT_TRUE(next->gap);
}

TEST_P(NotificationTest, WhatWaitsWhenTheLastWorkOfADrainIsDoneIsDelivered) {
  constexpr uint64_t kMany = 200;
  Start();
  const RuntimeContext context = Context();
  auto subscription = context.Subscribe<Item>(kEvery, {.bounds = {.items = kMany}});
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  const Invocation held = context.DispatchAsync(kHold, test::v1::HoldRequest());
  operations_->AwaitHeld();
  PublishRequest last;
  last.set_topic(kEvery);
  last.set_count(kMany);
  last.set_text(std::string(3000, 'x'));  // more than one message holds
  const Invocation published = context.DispatchAsync(kPublish, last);
  while (runtime_->GetSnapshot().ledger.queued == 0) std::this_thread::yield();
  Runtime::DrainResult result;
  std::thread drain(
      [&] { result = host_ != nullptr ? host_->Drain(kLong) : runtime_->Drain(kLong); });
  operations_->LetGo();
  drain.join();
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(published.Await(kLong), absl::OkStatus());
  for (uint64_t i = 0; i < kMany; ++i) {
    EXPECT_EQ(subscription->status(), absl::OkStatus());
    const auto next = subscription->Next(kLong);
    ASSERT_TRUE(next.has_value()) << i << ": " << subscription->status();
    ASSERT_EQ(next->message->index(), i);
  }
  if (GetParam() != Path::kLocal) return;  // else the client waits for another daemon
  EXPECT_FALSE(subscription->Next(kLong).has_value());
  EXPECT_EQ(ReasonOf(subscription->status()), v1::ERROR_REASON_DRAINING);
}

TEST_P(NotificationTest, ASubscriptionEndsWithItsContext) {
  Start();
  std::optional<RuntimeContext> context = Context();
  auto subscription = context->Subscribe<Item>(kEvery);
  ASSERT_TRUE(subscription.ok()) << subscription.status();
  context.reset();
  EXPECT_FALSE(subscription->Next(kLong).has_value());
  EXPECT_FALSE(subscription->status().ok());
}

}  // namespace
}  // namespace runloop
