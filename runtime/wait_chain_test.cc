// Runtimes that block on each other (D8): a cycle is an error, in whatever order its waits begin.

#include "runloop/runtime/wait_chain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "runloop/runtime/error.h"
#include "runloop/tests/testing/remote_session.h"
#include "runloop/v1/handles.pb.h"

namespace runloop {
namespace {

using internal::Chain;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using testing::HasSubstr;

// A runtime whose Echo calls back into the test, on its runtime thread.
class Node {
 public:
  explicit Node(std::function<absl::Status()> echo) {
    OperationRegistry registry;
    EXPECT_TRUE((registry.Register<EchoRequest, EchoReply>(
                     kEcho,
                     [echo = std::move(echo)](OperationContext&,
                                              const EchoRequest&) -> absl::StatusOr<EchoReply> {
                       if (absl::Status status = echo(); !status.ok()) return status;
                       return EchoReply();
                     }))
                    .ok());
    runtime = *Runtime::Create({.operations = std::move(registry),
                                .thread = RuntimeThread::kSpawn,
                                .log = [](LogSeverity, std::string_view) {}});
    context = std::make_unique<RuntimeContext>(runtime->context().AsRuntimeContext());
  }
  absl::Status Echo() {
    return context->DispatchBlocking<EchoReply>(kEcho, EchoRequest()).status();
  }
  absl::Status EchoAndAwait() {
    return context->DispatchAsync<EchoReply>(kEcho, EchoRequest())
        .AwaitReply<EchoReply>(kDefaultTimeout)
        .status();
  }

  std::unique_ptr<Runtime> runtime;
  std::unique_ptr<RuntimeContext> context;
};

TEST(Deadlock, ADispatchBackIntoARuntimeThatWaitsForItIsAnErrorWithTheCycleInWords) {
  Node* first = nullptr;
  absl::Status back;
  Node b([&] {
    back = first->Echo();
    return absl::OkStatus();
  });
  Node a([&] { return b.Echo(); });
  first = &a;
  EXPECT_TRUE(a.Echo().ok());
  EXPECT_EQ(back.code(), absl::StatusCode::kFailedPrecondition) << back;
  EXPECT_EQ(ReasonOf(back), v1::ERROR_REASON_DEADLOCK);
  EXPECT_THAT(std::string(back.message()), HasSubstr(a.runtime->id().substr(0, 8)));
  EXPECT_THAT(std::string(back.message()), HasSubstr(b.runtime->id().substr(0, 8)));
  EXPECT_EQ(a.runtime->GetSnapshot().ledger.refused, 1u) << "found only after it was queued";
}

TEST(Deadlock, ATriangleIsOneToo) {
  Node* first = nullptr;
  absl::Status back;
  Node c([&] {
    back = first->Echo();
    return absl::OkStatus();
  });
  Node b([&] { return c.Echo(); });
  Node a([&] { return b.Echo(); });
  first = &a;
  EXPECT_TRUE(a.Echo().ok());
  EXPECT_EQ(ReasonOf(back), v1::ERROR_REASON_DEADLOCK) << back;
  EXPECT_EQ(a.runtime->GetSnapshot().ledger.refused, 1u) << "found only after it was queued";
}

TEST(Deadlock, ClosuresTakePartInIt) {
  auto a = *Runtime::Create({.thread = RuntimeThread::kSpawn});
  auto b = *Runtime::Create({.thread = RuntimeThread::kSpawn});
  absl::Status back;
  const absl::Status out = a->context().RunOnRuntimeThreadBlocking([&] {
    return b->context().RunOnRuntimeThreadBlocking(
        [&] { back = a->context().RunOnRuntimeThreadBlocking([] {}); });
  });
  EXPECT_TRUE(out.ok()) << out;
  EXPECT_EQ(ReasonOf(back), v1::ERROR_REASON_DEADLOCK) << back;
  EXPECT_EQ(a->GetSnapshot().ledger.refused, 1u) << "found only after it was queued";
}

// Runtimes in a ring, each of which has begun to wait for the next before it can know of the
// others: no dispatch carries the whole chain, and without passing them on all would hang.
void WaitInARing(size_t size, absl::Status (Node::*echo)() = &Node::Echo) {
  absl::Barrier all_inside(static_cast<int>(size));
  std::vector<std::unique_ptr<Node>> nodes(size);
  std::vector<absl::Status> results(size);
  std::atomic<int> leaving{0};
  for (size_t i = 0; i < size; ++i) {
    nodes[i] = std::make_unique<Node>([&, i] {
      // The second visit, of what was queued behind the first, does nothing.
      if (leaving.fetch_add(1) >= static_cast<int>(size)) return absl::OkStatus();
      auto* const barrier = &all_inside;
      if (barrier->Block()) (void)0;
      results[i] = (*nodes[(i + 1) % size].*echo)();
      return absl::OkStatus();
    });
  }
  std::vector<std::thread> threads;
  for (auto& node : nodes) threads.emplace_back([&node] { EXPECT_TRUE(node->Echo().ok()); });
  for (std::thread& thread : threads) thread.join();
  int deadlocks = 0;
  for (const absl::Status& result : results) {
    if (ReasonOf(result) == v1::ERROR_REASON_DEADLOCK) ++deadlocks;
    EXPECT_TRUE(result.ok() || ReasonOf(result) == v1::ERROR_REASON_DEADLOCK) << result;
  }
  EXPECT_GE(deadlocks, 1);
}

TEST(Deadlock, TwoThatBeganToWaitForEachOtherAreFound) { WaitInARing(2); }
TEST(Deadlock, ThreeThatBeganToWaitInARingAreFound) { WaitInARing(3); }
TEST(Deadlock, SevenThatBeganToWaitInARingAreFound) { WaitInARing(7); }
TEST(Deadlock, TwoThatAwaitEachOtherAreFound) { WaitInARing(2, &Node::EchoAndAwait); }
TEST(Deadlock, ThreeThatAwaitEachOtherInARingAreFound) { WaitInARing(3, &Node::EchoAndAwait); }

TEST(Deadlock, ClosuresThatBeganToWaitForEachOtherAreFound) {
  auto a = *Runtime::Create({.thread = RuntimeThread::kSpawn});
  auto b = *Runtime::Create({.thread = RuntimeThread::kSpawn});
  absl::Barrier inside(2);
  absl::Status results[2];
  auto wait_for = [&](Runtime& other, absl::Status& result) {
    (void)inside.Block();
    result = other.context().RunOnRuntimeThreadBlocking([] {});
  };
  std::thread first([&] {
    EXPECT_TRUE(a->context().RunOnRuntimeThreadBlocking([&] { wait_for(*b, results[0]); }).ok());
  });
  EXPECT_TRUE(b->context().RunOnRuntimeThreadBlocking([&] { wait_for(*a, results[1]); }).ok());
  first.join();
  EXPECT_TRUE(ReasonOf(results[0]) == v1::ERROR_REASON_DEADLOCK ||
              ReasonOf(results[1]) == v1::ERROR_REASON_DEADLOCK)
      << results[0] << results[1];
}

TEST(Deadlock, AWaitPassesOnWhoWaitedBeforeItBegan) {
  std::optional<RemoteSession> session;
  std::shared_ptr<RemoteSession::Call> behind;
  std::vector<Chain> passed_on;
  Node node([&] {
    if (behind != nullptr) return absl::OkStatus();
    behind = session->Dispatch(kEcho, EchoRequest(), {.chain = {{.runtime_id = "another"}}});
    const internal::WaitScope wait("a test",
                                   [&](Chain chain) { passed_on.push_back(std::move(chain)); });
    return absl::OkStatus();
  });
  session.emplace(*node.runtime);
  EXPECT_TRUE(node.Echo().ok());
  EXPECT_TRUE(behind->Await().ok());
  ASSERT_EQ(passed_on.size(), 1u);
  ASSERT_EQ(passed_on[0].size(), 2u);
  EXPECT_EQ(passed_on[0][0].runtime_id, "another");
  EXPECT_EQ(passed_on[0][1].runtime_id, node.runtime->id());
}

TEST(Deadlock, AWaitThatIsOverIsInNoCycle) {
  absl::Notification over;
  absl::Status back;
  Node* first = nullptr;
  Node b([&] {
    over.WaitForNotification();
    back = first->Echo();
    return absl::OkStatus();
  });
  std::optional<Invocation> given_up;
  Node a([&] {
    if (given_up.has_value()) return absl::OkStatus();
    given_up = b.context->DispatchAsync(kEcho, EchoRequest());
    EXPECT_EQ(ReasonOf(given_up->Await(absl::Milliseconds(1))), v1::ERROR_REASON_STILL_RUNNING);
    return absl::OkStatus();
  });
  first = &a;
  EXPECT_TRUE(a.Echo().ok());
  over.Notify();
  EXPECT_TRUE(given_up->Await().ok());
  EXPECT_TRUE(back.ok()) << back;
}

TEST(Deadlock, ALookThatDoesNotWaitIsInNoCycle) {
  absl::Barrier inside(2);
  Node* other = nullptr;
  Node b([&] {
    (void)inside.Block();
    // Blocks on the first one, which looks at what is queued here.
    return other->runtime->context().RunOnRuntimeThreadBlocking([] {});
  });
  Invocation queued = b.context->DispatchAsync(kEcho, EchoRequest());
  Node a([&] {
    (void)inside.Block();
    const Invocation behind =
        b.context->DispatchAsync("runloop.v1.Handles/Release", v1::ReleaseRequest());
    EXPECT_EQ(ReasonOf(behind.Await(absl::ZeroDuration())), v1::ERROR_REASON_STILL_RUNNING);
    queued = behind;
    return absl::OkStatus();
  });
  other = &a;
  EXPECT_TRUE(a.Echo().ok());
  EXPECT_EQ(ReasonOf(queued.Await()), v1::ERROR_REASON_UNKNOWN_HANDLE);
}

TEST(Deadlock, AChainThatWouldBeTooLongForAPeerIsCutToItsEnd) {
  const internal::ChainLink last{.runtime_id = "r", .operation = std::string(1000, 'x'), .wait = 3};
  Chain chain;
  for (size_t i = 0; i < internal::kMaxChainLinks - 1; ++i) chain.push_back({.runtime_id = "a"});
  EXPECT_EQ(internal::Longer(chain, last).size(), internal::kMaxChainLinks);
  chain.push_back({.runtime_id = "a"});
  const Chain cut = internal::Longer(chain, last);
  ASSERT_EQ(cut.size(), 1u);
  EXPECT_EQ(cut[0].operation.size(), internal::kMaxLinkOperation);
  EXPECT_EQ(cut[0].wait, 3u);
  EXPECT_EQ(internal::Longer({{.runtime_id = std::string(8000, 'y')}}, last).size(), 1u);
}

TEST(Deadlock, AClosureThatWasEndedAsItsCallersTimeWasUpIsNotSaidToRunOn) {
  auto runtime = *Runtime::Create({});
  internal::InPlaceTask task;
  ASSERT_TRUE(runtime->core()->EnterInPlace(task).ok());
  EXPECT_EQ(ReasonOf(internal::TimedOut(*runtime->core(), task, absl::Seconds(1))),
            v1::ERROR_REASON_STILL_RUNNING);
  runtime->core()->LeaveInPlace(task, true);
  EXPECT_TRUE(internal::TimedOut(*runtime->core(), task, absl::Seconds(1)).ok())
      << "the caller waits for the outcome, which is on its way";
}

TEST(Deadlock, AChainThatAPeerMadeUpRefusesOnlyItsOwnDispatch) {
  Node node([] { return absl::OkStatus(); });
  RemoteSession session(*node.runtime);
  const Chain lie = {{.runtime_id = node.runtime->id(), .operation = "a/B"}};
  EXPECT_EQ(ReasonOf(session.Dispatch(kEcho, EchoRequest(), {.chain = lie})->Await()),
            v1::ERROR_REASON_DEADLOCK);
  EXPECT_TRUE(session.Dispatch(kEcho, EchoRequest())->Await().ok());
  EXPECT_TRUE(node.Echo().ok());
}

TEST(Deadlock, StatusSaysWhatTheThreadWaitsFor) {
  auto other = *Runtime::Create({.thread = RuntimeThread::kSpawn});
  std::string seen;
  Node* self = nullptr;
  Node node([&] {
    return other->context().RunOnRuntimeThreadBlocking([&] {
      // The caller may be on its way from posting this to waiting for it.
      while ((seen = self->runtime->GetSnapshot().waits_for).empty()) std::this_thread::yield();
    });
  });
  self = &node;
  EXPECT_TRUE(node.Echo().ok());
  EXPECT_THAT(seen, HasSubstr(other->id()));
  EXPECT_EQ(node.runtime->GetSnapshot().waits_for, "");
}

}  // namespace
}  // namespace runloop
