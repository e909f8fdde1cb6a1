#include "runloop/runtime/notification_hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_topics.h"

namespace runloop::internal {
namespace {

using test::v1::Item;
using testing::ElementsAre;

class NotificationHubTest : public testing::Test {
 protected:
  void SetUp() override {
    OperationRegistry registry;
    RegisterTestTopics(registry);
    runtime_ = *Runtime::Create({.operations = std::move(registry)});
  }

  NotificationHub& hub() { return runtime_->core()->hub(); }
  std::shared_ptr<const Topic> TopicOf(const char* name) { return *hub().Find(name); }

  std::shared_ptr<Session> NewSession(bool in_process = true, std::string role = "") {
    return runtime_->core()->OpenSession(
        {.client_name = "test", .peer = {.role = std::move(role)}, .in_process = in_process});
  }
  std::shared_ptr<NotificationQueue> NewQueue(NotificationBounds bounds,
                                              std::shared_ptr<Session> session = nullptr) {
    if (session == nullptr) session = NewSession();
    return std::make_shared<NotificationQueue>(
        bounds, [this] { ++wakes_; }, std::move(session));
  }
  std::shared_ptr<NotificationQueue> NewQueue() { return NewQueue(NotificationBounds()); }

  static std::shared_ptr<const Item> NewItem(uint64_t index, size_t text = 0) {
    auto item = std::make_shared<Item>();
    item->set_index(index);
    item->set_text(std::string(text, 'x'));
    return item;
  }
  void Publish(const char* topic, uint64_t index, size_t text = 0) {
    ASSERT_EQ(hub().Publish(topic, NewItem(index, text)), absl::OkStatus());
  }

  static uint64_t IndexOf(const QueuedNotification& taken) {
    return static_cast<const Item&>(*taken.publication->message()).index();
  }
  // The indices of all that waits.
  static std::vector<uint64_t> TakeAll(NotificationQueue& queue) {
    std::vector<uint64_t> indices;
    while (const auto taken = queue.Take()) indices.push_back(IndexOf(*taken));
    return indices;
  }

  std::atomic<int> wakes_{0};
  std::unique_ptr<Runtime> runtime_;
};

TEST_F(NotificationHubTest, OneOrderHoldsOverAllTopicsOfASubscriber) {
  const auto queue = NewQueue();
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  ASSERT_TRUE(hub().Subscribe(queue, 2, TopicOf(kNewest)).ok());
  Publish(kEvery, 1);
  Publish(kNewest, 2);
  Publish(kEvery, 3);
  EXPECT_THAT(TakeAll(*queue), ElementsAre(1, 2, 3));
}

TEST_F(NotificationHubTest, OneMessageIsSharedAndSerializedOnce) {
  const auto first = NewQueue(), second = NewQueue();
  ASSERT_TRUE(hub().Subscribe(first, 1, TopicOf(kEvery)).ok());
  ASSERT_TRUE(hub().Subscribe(second, 1, TopicOf(kEvery)).ok());
  const auto item = NewItem(7);
  ASSERT_TRUE(hub().Publish(kEvery, item).ok());
  const auto one = first->Take(), other = second->Take();
  EXPECT_EQ(one->publication->message(), item);
  EXPECT_EQ(&one->publication->bytes(), &other->publication->bytes());
  EXPECT_EQ(one->publication->bytes(), item->SerializeAsString());
}

TEST_F(NotificationHubTest, WhatDoesNotFitDropsTheOldestAndTheNextTellsHowMany) {
  const auto queue = NewQueue({.items = 2, .bytes = 1000});
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  for (uint64_t i = 1; i <= 5; ++i) Publish(kEvery, i);
  const auto next = queue->Take();
  EXPECT_EQ(IndexOf(*next), 4u);
  EXPECT_EQ(next->sequence, 4u);
  EXPECT_EQ(next->dropped, 3u);
  EXPECT_EQ(queue->Take()->dropped, 0u);
  const Topic::Statistics& counts = TopicOf(kEvery)->statistics();
  EXPECT_EQ(counts.published, 5u);
  EXPECT_EQ(counts.delivered, 2u);
  EXPECT_EQ(counts.dropped, 3u);
  EXPECT_EQ(queue->session()->notifications().dropped, 3u);
}

TEST_F(NotificationHubTest, BytesAreBoundedToo) {
  const auto queue = NewQueue({.items = 100, .bytes = 250});
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  for (uint64_t i = 1; i <= 5; ++i) Publish(kEvery, i, 100);
  Publish(kEvery, 6, 1000);  // can never fit
  EXPECT_THAT(TakeAll(*queue), ElementsAre(4, 5));
  Publish(kEvery, 7);
  EXPECT_EQ(TopicOf(kEvery)->statistics().dropped, 4u);
  EXPECT_EQ(queue->Take()->sequence, 7u);
}

TEST_F(NotificationHubTest, WhatIsTooLargeIsToldByTheNextThatComesAndNotByOneThatWaits) {
  for (const char* const topic : {kEvery, kNewest}) {
    SCOPED_TRACE(topic);
    const auto queue = NewQueue({.items = 100, .bytes = 250});
    ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(topic)).ok());
    Publish(topic, 1);
    Publish(topic, 2, 1000);
    const auto first = queue->Take();
    EXPECT_EQ(first->sequence, 1u);
    EXPECT_EQ(first->dropped, 0u);
    Publish(topic, 3, 1000);
    Publish(topic, 4);
    const auto next = queue->Take();
    EXPECT_EQ(next->sequence, 4u);
    EXPECT_EQ(next->dropped, 2u);
  }
}

TEST_F(NotificationHubTest, ATopicThatFloodsCostsAnotherNothing) {
  const auto queue = NewQueue({.items = 4, .bytes = 1000});
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  ASSERT_TRUE(hub().Subscribe(queue, 2, TopicOf(kNewest)).ok());
  Publish(kNewest, 1);
  for (uint64_t i = 10; i < 100; ++i) Publish(kEvery, i);
  EXPECT_THAT(TakeAll(*queue), ElementsAre(1, 97, 98, 99));
}

TEST_F(NotificationHubTest, OfSubscriptionsThatHoldAsMuchTheOldestGoesFirst) {
  // Whatever their numbers are.
  for (uint64_t first = 1; first <= 16; ++first) {
    SCOPED_TRACE(first);
    const auto queue = NewQueue({.items = 3, .bytes = 1000});
    ASSERT_TRUE(hub().Subscribe(queue, first, TopicOf(kEvery)).ok());
    ASSERT_TRUE(hub().Subscribe(queue, 17 - first, TopicOf(kNewest)).ok());
    ASSERT_TRUE(hub().Subscribe(queue, 17 + first, TopicOf(kEvery)).ok());
    Publish(kNewest, 1);
    Publish(kEvery, 2);
    Publish(kEvery, 3);
    Publish(kEvery, 4);
    EXPECT_THAT(TakeAll(*queue), ElementsAre(3, 4, 4));
  }
}

// What a queue is to do, in a few lines, each of which looks at all that waits.
class SlowQueue {
 public:
  explicit SlowQueue(NotificationBounds bounds) : bounds_(bounds) {}

  void Push(uint64_t subscription, uint64_t sequence, size_t size, bool latest) {
    if (size > bounds_.bytes) {
      ++too_large_[subscription];
      return;
    }
    Item item{.subscription = subscription,
              .sequence = sequence,
              .dropped = std::exchange(too_large_[subscription], 0)};
    const auto newest = std::find_if(waiting_.rbegin(), waiting_.rend(), [&](const Item& waiting) {
      return waiting.subscription == subscription;
    });
    if (latest && newest != waiting_.rend()) {
      item.dropped += newest->dropped;
      *newest = item;
      while (bytes() + size > bounds_.bytes) DropOne(true);
    } else {
      while (waiting_.size() == bounds_.items || bytes() + size > bounds_.bytes) {
        DropOne(waiting_.size() < bounds_.items);
      }
      waiting_.push_back(item);
    }
    for (Item& waiting : waiting_) {
      if (waiting.subscription == subscription && waiting.sequence == sequence) waiting.size = size;
    }
  }
  // Its subscription, its sequence, and how many were dropped before it.
  std::optional<std::tuple<uint64_t, uint64_t, uint64_t>> Take() {
    if (waiting_.empty()) return std::nullopt;
    const Item item = waiting_.front();
    waiting_.pop_front();
    return std::make_tuple(item.subscription, item.sequence,
                           item.dropped + std::exchange(dropped_[item.subscription], 0));
  }
  void Forget(uint64_t subscription) {
    std::erase_if(waiting_, [&](const Item& item) { return item.subscription == subscription; });
    dropped_.erase(subscription);
    too_large_.erase(subscription);
  }

 private:
  struct Item {
    uint64_t subscription, sequence;
    size_t size = 0;
    uint64_t dropped = 0;
  };

  size_t bytes() const {
    size_t sum = 0;
    for (const Item& item : waiting_) sum += item.size;
    return sum;
  }
  void DropOne(bool by_bytes) {
    std::map<uint64_t, size_t> held;
    for (const Item& item : waiting_) held[item.subscription] += by_bytes ? item.size : 1;
    size_t most = 0;
    for (const auto& [subscription, much] : held) most = std::max(most, much);
    const auto oldest = std::find_if(waiting_.begin(), waiting_.end(), [&](const Item& item) {
      return held[item.subscription] == most;
    });
    dropped_[oldest->subscription] += 1 + oldest->dropped;
    waiting_.erase(oldest);
  }

  const NotificationBounds bounds_;
  std::deque<Item> waiting_;
  std::map<uint64_t, uint64_t> dropped_, too_large_;
};

TEST_F(NotificationHubTest, DropsWhatASlowerQueueDrops) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](size_t bound) { return static_cast<size_t>(random()) % bound; };
    const NotificationBounds bounds{.items = 1 + below(40), .bytes = 1 + below(400)};
    const size_t subscriptions = 1 + below(30);
    NotificationQueue queue(bounds, [] {});
    SlowQueue slow(bounds);
    for (uint64_t sequence = 1; sequence <= 1000; ++sequence) {
      const uint64_t subscription = 1 + below(subscriptions);
      const bool latest = subscription % 3 == 0;
      const size_t size = below(below(4) == 0 ? 100 : 20);
      switch (below(8)) {
        case 0:
          queue.Forget(subscription);
          slow.Forget(subscription);
          break;
        case 1: {
          const auto taken = queue.Take();
          const auto expected = slow.Take();
          ASSERT_EQ(taken.has_value(), expected.has_value()) << "seed " << seed;
          if (!taken.has_value()) break;
          ASSERT_EQ(std::make_tuple(taken->subscription, taken->sequence, taken->dropped),
                    *expected)
              << "seed " << seed;
          break;
        }
        default:
          (void)queue.Push({.subscription = subscription,
                            .publication = std::make_shared<const Publication>(
                                std::string(size, 'x'), absl::UnixEpoch()),
                            .sequence = sequence},
                           latest);
          slow.Push(subscription, sequence, size, latest);
      }
    }
  }
}

// So many that it ends in time only if a publication costs each of them the same, whether much
// waits or each makes room for the next.
TEST_F(NotificationHubTest, ASubscriberWithVeryManySubscriptionsThatTakesNothing) {
  constexpr uint64_t kMany = 200'000;
  for (const size_t items : {size_t{kMany}, size_t{1}}) {
    const auto queue = NewQueue({.items = items, .bytes = size_t{1} << 30});
    for (uint64_t id = 1; id <= kMany; ++id) {
      ASSERT_TRUE(hub().Subscribe(queue, id, TopicOf(kEvery)).ok());
    }
    Publish(kEvery, 1);
    Publish(kEvery, 2);
    for (size_t taken = 0; taken < items; ++taken) {
      const auto next = queue->Take();
      ASSERT_TRUE(next.has_value());
      ASSERT_EQ(IndexOf(*next), 2u);
      ASSERT_EQ(next->dropped, 1u);
    }
    EXPECT_TRUE(queue->empty());
    hub().Remove(*queue);
  }
}

TEST_F(NotificationHubTest, ANewerOneTakesThePlaceOfOneThatWaits) {
  const auto queue = NewQueue();
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kNewest)).ok());
  ASSERT_TRUE(hub().Subscribe(queue, 2, TopicOf(kEvery)).ok());
  Publish(kNewest, 1);
  Publish(kEvery, 2);
  Publish(kNewest, 3, 50);
  Publish(kNewest, 4);
  const auto newest = queue->Take();
  EXPECT_EQ(IndexOf(*newest), 4u);
  EXPECT_EQ(newest->sequence, 3u);
  EXPECT_EQ(newest->dropped, 0u);
  EXPECT_EQ(IndexOf(*queue->Take()), 2u);
  EXPECT_EQ(TopicOf(kNewest)->statistics().replaced, 2u);
  EXPECT_TRUE(queue->empty());
}

TEST_F(NotificationHubTest, ANewerOneThatIsLargerMakesOthersGoAndNotItself) {
  // Whatever the bound is that is met.
  for (const size_t items : {size_t{2}, size_t{100}}) {
    SCOPED_TRACE(items);
    const auto queue = NewQueue({.items = items, .bytes = 250});
    ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kNewest)).ok());
    ASSERT_TRUE(hub().Subscribe(queue, 2, TopicOf(kEvery)).ok());
    Publish(kNewest, 1);
    Publish(kEvery, 2, 100);
    Publish(kNewest, 3, 200);
    EXPECT_THAT(TakeAll(*queue), ElementsAre(3));
    Publish(kEvery, 4);
    EXPECT_EQ(queue->Take()->dropped, 1u);
  }
}

TEST_F(NotificationHubTest, WhatIsForOneSessionGoesToNoOther) {
  const auto session = NewSession();
  const auto its = NewQueue({}, session), other = NewQueue();
  ASSERT_TRUE(hub().Subscribe(its, 1, TopicOf(kEvery)).ok());
  ASSERT_TRUE(hub().Subscribe(other, 1, TopicOf(kEvery)).ok());
  Item item;
  item.set_index(5);
  ASSERT_TRUE(session->Publish(kEvery, item).ok());
  EXPECT_THAT(TakeAll(*its), ElementsAre(5));
  EXPECT_TRUE(other->empty());
}

TEST_F(NotificationHubTest, AnUnknownTopicAndAnotherTypeAreErrors) {
  EXPECT_EQ(ReasonOf(hub().Publish("a.B/C", NewItem(1))), v1::ERROR_REASON_UNKNOWN_TOPIC);
  EXPECT_EQ(ReasonOf(runtime_->context().Publish(kEvery, test::v1::PublishReply())),
            v1::ERROR_REASON_INVALID_REQUEST);
  OperationRegistry registry;
  EXPECT_EQ(registry.RegisterTopic<Item>("no slash").code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(registry.RegisterTopic<Item>("a.B/C").ok());
  EXPECT_EQ(registry.RegisterTopic<Item>("a.B/C").code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(NotificationHubTest, OnlyASleeperIsWokenAndOnce) {
  const auto queue = NewQueue();
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  Publish(kEvery, 1);
  EXPECT_EQ(wakes_, 0);
  EXPECT_FALSE(queue->Sleep());
  (void)TakeAll(*queue);
  ASSERT_TRUE(queue->Sleep());
  Publish(kEvery, 2);
  Publish(kEvery, 3);
  EXPECT_EQ(wakes_, 1);
}

TEST_F(NotificationHubTest, ASessionsEndTakesNoMoreAndDropsWhatWaitsForAPeer) {
  const auto session = NewSession(), of_peer = NewSession(/*in_process=*/false);
  const auto queue = NewQueue({}, session), of_peers = NewQueue({}, of_peer);
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  ASSERT_TRUE(hub().Subscribe(of_peers, 1, TopicOf(kEvery)).ok());
  Publish(kEvery, 1);
  of_peer->End();
  session->End();
  EXPECT_TRUE(of_peers->empty());
  EXPECT_EQ(ReasonOf(of_peers->status()), v1::ERROR_REASON_SESSION_ENDED);
  Publish(kEvery, 2);
  EXPECT_EQ(queue->status(), absl::OkStatus());
  EXPECT_FALSE(queue->Sleep());
  EXPECT_THAT(TakeAll(*queue), ElementsAre(1));
  EXPECT_EQ(ReasonOf(queue->status()), v1::ERROR_REASON_SESSION_ENDED);
  EXPECT_EQ(TopicOf(kEvery)->statistics().subscriptions, 0u);
  EXPECT_EQ(ReasonOf(hub().Subscribe(queue, 2, TopicOf(kEvery))), v1::ERROR_REASON_SESSION_ENDED);
  EXPECT_EQ(ReasonOf(session->Publish(kEvery, Item())), v1::ERROR_REASON_SESSION_ENDED);
}

TEST_F(NotificationHubTest, WhatWaitsWhenTheRuntimeEndsCanBeTaken) {
  for (const bool drains : {true, false}) {
    SetUp();
    const auto mine = NewQueue(), of_peers = NewQueue({}, NewSession(/*in_process=*/false));
    for (const auto& queue : {mine, of_peers}) {
      ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
      ASSERT_TRUE(queue->Sleep());
    }
    Publish(kEvery, 1);
    if (drains) runtime_->Drain(absl::InfiniteDuration());
    runtime_.reset();
    for (const auto& queue : {mine, of_peers}) {
      EXPECT_THAT(TakeAll(*queue), ElementsAre(1));
      EXPECT_EQ(ReasonOf(queue->status()),
                drains ? v1::ERROR_REASON_DRAINING : v1::ERROR_REASON_RUNTIME_STOPPED);
    }
  }
}

TEST_F(NotificationHubTest, WhoSleepsIsWokenByTheEnd) {
  const auto session = NewSession();
  const auto queue = NewQueue({}, session);
  ASSERT_TRUE(hub().Subscribe(queue, 1, TopicOf(kEvery)).ok());
  ASSERT_TRUE(queue->Sleep());
  session->End();
  EXPECT_EQ(wakes_, 1);
}

TEST_F(NotificationHubTest, SubscriptionsOfAPeerAreBoundedBySessionAndByRole) {
  const auto subscribe_all = [&](const std::shared_ptr<NotificationQueue>& queue) {
    uint64_t id = 0;
    absl::Status status;
    while ((status = hub().Subscribe(queue, id, TopicOf(kEvery))).ok()) ++id;
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_SUBSCRIPTIONS_FULL) << status;
    return static_cast<int64_t>(id);
  };
  std::vector<std::shared_ptr<NotificationQueue>> queues;
  int64_t held = 0;
  while (held < NotificationHub::kMaxRoleSubscriptions) {
    queues.push_back(NewQueue({}, NewSession(false, "camera")));
    const int64_t its = subscribe_all(queues.back());
    EXPECT_EQ(its, NotificationHub::kMaxSessionSubscriptions);
    held += its;
  }
  queues.push_back(NewQueue({}, NewSession(false, "camera")));
  EXPECT_EQ(subscribe_all(queues.back()), 0);
  // Another role has its own.
  EXPECT_TRUE(hub().Subscribe(NewQueue({}, NewSession(false, "sink")), 1, TopicOf(kEvery)).ok());
  hub().Unsubscribe(*queues[0], 0, *TopicOf(kEvery));
  EXPECT_EQ(subscribe_all(queues.back()), 1);
  for (const auto& queue : queues) queue->session()->End();
  EXPECT_EQ(subscribe_all(NewQueue({}, NewSession(false, "camera"))),
            NotificationHub::kMaxSessionSubscriptions);
}

TEST_F(NotificationHubTest, PublishersAndSubscribersMayComeAndGoAtOnce) {
  constexpr uint64_t kEach = 2000;
  constexpr uint64_t kPublishers = 3;
  const auto steady = NewQueue({.items = kEach * kPublishers, .bytes = size_t{1} << 30});
  ASSERT_TRUE(hub().Subscribe(steady, 1, TopicOf(kEvery)).ok());
  std::vector<std::thread> threads;
  for (uint64_t publisher = 0; publisher < kPublishers; ++publisher) {
    threads.emplace_back([&, publisher] {
      for (uint64_t i = 0; i < kEach; ++i) Publish(kEvery, publisher * kEach + i);
    });
  }
  threads.emplace_back([&] {
    for (int i = 0; i < 200; ++i) {
      const auto session = NewSession();
      const auto passing = NewQueue({.items = 4, .bytes = 1000}, session);
      EXPECT_TRUE(hub().Subscribe(passing, 1, TopicOf(kEvery)).ok());
      (void)passing->Take();
      if (i % 2 == 0) {
        hub().Remove(*passing);
      } else {
        session->End();
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  std::vector<uint64_t> next(kPublishers, 0);
  for (uint64_t sequence = 1; sequence <= kEach * kPublishers; ++sequence) {
    const auto taken = steady->Take();
    ASSERT_TRUE(taken.has_value());
    EXPECT_EQ(taken->sequence, sequence);
    const uint64_t publisher = IndexOf(*taken) / kEach;
    EXPECT_EQ(IndexOf(*taken) % kEach, next[publisher]++);
  }
  EXPECT_EQ(TopicOf(kEvery)->statistics().subscriptions, 1u);
}

}  // namespace
}  // namespace runloop::internal
