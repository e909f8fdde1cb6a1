// Where an invocation comes from: its call site and its trace context, as handlers and snapshots
// see them, over every way to a runtime.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"
#include "runloop/tests/contract/fixture.h"

namespace runloop {
namespace {

using test::v1::EchoReply;
using test::v1::HoldRequest;
using test::v1::OriginReply;
using test::v1::OriginRequest;
using testing::HasSubstr;

constexpr char kOrigin[] = "runloop.test.v1.TestOperations/Origin";
constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
constexpr char kOtherTrace[] = "00-11111111111111111111111111111111-2222222222222222-00";

OriginReply TellOrigin(OperationContext& context, const OriginRequest& request) {
  OriginReply reply;
  reply.set_call_site(context.call_site().ToString());
  reply.set_trace_parent(std::string(context.trace_parent()));
  if (request.nested()) {
    *reply.mutable_nested() =
        *context.runtime().AsRuntimeContext("nested").DispatchBlocking<OriginReply>(
            kOrigin, OriginRequest(), {.trace_parent = request.nested_trace_parent()});
  }
  return reply;
}

// `origin_test.cc:42 (`: how this file's line is named.
std::string LineName(uint32_t line) { return absl::StrCat("origin_test.cc:", line, " ("); }

// With an operation that tells where it was dispatched.
class OriginTest : public ContractTest {
 protected:
  void RegisterMore(OperationRegistry& registry) override {
    ASSERT_TRUE(
        (registry.Register<OriginRequest, OriginReply>(
             kOrigin,
             [](OperationContext& context, OriginRequest request) -> absl::StatusOr<OriginReply> {
               return TellOrigin(context, request);
             }))
            .ok());
  }
};
INSTANTIATE_TEST_SUITE_P(, OriginTest, testing::ValuesIn(kPaths), PathName);

TEST_P(OriginTest, AHandlerSeesWhereItWasDispatched) {
  Start();
  const RuntimeContext context = Context();
  const uint32_t line = SourceLocation::current().line();
  const auto blocking = context.DispatchBlocking<OriginReply>(kOrigin, OriginRequest());
  const Invocation async = context.DispatchAsync<OriginReply>(kOrigin, OriginRequest());
  ASSERT_TRUE(blocking.ok()) << blocking.status();
  EXPECT_THAT(blocking->call_site(), HasSubstr("tests/contract/" + LineName(line + 1)));
  EXPECT_THAT(blocking->call_site(), HasSubstr("TestBody"));
  EXPECT_THAT(async.AwaitReply<OriginReply>()->call_site(), HasSubstr(LineName(line + 2)));
  // And again, when it is known already.
  for (int i = 0; i < 2; ++i) {
    const uint32_t before = SourceLocation::current().line();
    const auto again = context.DispatchBlocking<OriginReply>(kOrigin, OriginRequest());
    EXPECT_THAT(again->call_site(), HasSubstr(LineName(before + 1)));
  }
}

TEST_P(OriginTest, AFunctionThatWrapsADispatchPassesItsCallersPlaceOn) {
  Start();
  const RuntimeContext context = Context();
  const SourceLocation where = SourceLocation::current();
  EXPECT_THAT(
      context.DispatchBlocking<OriginReply>(kOrigin, OriginRequest(), {}, where)->call_site(),
      HasSubstr(LineName(where.line())));
  EXPECT_EQ(context.DispatchBlocking<OriginReply>(kOrigin, OriginRequest(), {}, SourceLocation())
                ->call_site(),
            "");
}

TEST_P(OriginTest, AHandlerSeesTheTraceContextThatItWasGivenAndNoneWithout) {
  Start();
  const RuntimeContext context = Context();
  const auto traced =
      context.DispatchBlocking<OriginReply>(kOrigin, OriginRequest(), {.trace_parent = kTrace});
  ASSERT_TRUE(traced.ok()) << traced.status();
  EXPECT_EQ(traced->trace_parent(), kTrace);
  EXPECT_THAT(traced->call_site(), HasSubstr("origin_test.cc:"));
  const auto plain = context.DispatchBlocking<OriginReply>(kOrigin, OriginRequest());
  EXPECT_EQ(plain->trace_parent(), "");
}

TEST_P(OriginTest, WhatAHandlerDispatchesInheritsItsTraceContextUnlessItGivesAnother) {
  Start();
  const RuntimeContext context = Context();
  OriginRequest nested;
  nested.set_nested(true);
  auto reply = context.DispatchBlocking<OriginReply>(kOrigin, nested, {.trace_parent = kTrace});
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->nested().trace_parent(), kTrace);
  EXPECT_THAT(reply->nested().call_site(), HasSubstr("TellOrigin"));
  nested.set_nested_trace_parent(kOtherTrace);
  reply = context.DispatchBlocking<OriginReply>(kOrigin, nested, {.trace_parent = kTrace});
  EXPECT_EQ(reply->trace_parent(), kTrace);
  EXPECT_EQ(reply->nested().trace_parent(), kOtherTrace);
  // Nothing of it is left behind.
  nested.clear_nested_trace_parent();
  reply = context.DispatchBlocking<OriginReply>(kOrigin, nested);
  EXPECT_EQ(reply->nested().trace_parent(), "");
}

TEST_P(OriginTest, ATraceParentThatIsNoneIsInvalidAndDoesNotRun) {
  Start();
  const RuntimeContext context = Context();
  for (const std::string& text : {std::string("not one"), std::string(kTrace) + "0",
                                  std::string(kTrace).substr(0, 54) + "\xff"}) {
    const absl::Status refused =
        context.DispatchAsync(kRecord, Record(1, 1), {.trace_parent = text}).Await();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_INVALID_REQUEST);
  }
  EXPECT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("on")).ok());
  EXPECT_TRUE(operations_->record().empty());
}

TEST_P(OriginTest, ASnapshotNamesWhereWhatRunsWasDispatchedAndItsTrace) {
  Start();
  const RuntimeContext context = Context();
  const uint32_t line = SourceLocation::current().line();
  const Invocation hold = context.DispatchAsync(kHold, HoldRequest(), {.trace_parent = kTrace});
  operations_->AwaitHeld();
  const Runtime::Snapshot snapshot = runtime_->GetSnapshot();
  EXPECT_EQ(snapshot.current_operation, kHold);
  EXPECT_THAT(snapshot.current_call_site, HasSubstr(LineName(line + 1)));
  EXPECT_EQ(snapshot.current_trace_id, std::string(kTrace).substr(3, 32));
  operations_->LetGo();
  EXPECT_TRUE(hold.Await().ok());
  const Invocation next = Hold(context);
  EXPECT_EQ(runtime_->GetSnapshot().current_trace_id, "");
  operations_->LetGo();
  EXPECT_TRUE(next.Await().ok());
}

TEST_P(OriginTest, AClosureIsNamedByItsOwnPlaceAndByNothingOfWhatRanBefore) {
  Start();
  const RuntimeContext context = Context();
  ASSERT_TRUE(
      context.DispatchBlocking<EchoReply>(kEcho, Echo("before"), {.trace_parent = kTrace}).ok());
  const auto held = [&] { operations_->HoldThread(); };
  const uint32_t line = SourceLocation::current().line();
  const absl::Status posted = runtime_->context().RunOnRuntimeThreadAsync(held);
  ASSERT_TRUE(posted.ok());
  operations_->AwaitHeld();
  const Runtime::Snapshot snapshot = runtime_->GetSnapshot();
  EXPECT_EQ(snapshot.current_operation, "(closure)");
  EXPECT_EQ(snapshot.current_session, nullptr);
  EXPECT_EQ(snapshot.current_trace_id, "");
  EXPECT_THAT(snapshot.current_call_site, HasSubstr(LineName(line + 1)));
  operations_->LetGo();
}

TEST_P(OriginTest, ASnapshotNamesWhatIsFirstInLine) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  EXPECT_THAT(runtime_->GetSnapshot().next, testing::IsEmpty());
  const uint32_t line = SourceLocation::current().line();
  const Invocation first = context.DispatchAsync(kEcho, Echo("1"), {.trace_parent = kTrace});
  std::vector<Invocation> more;
  for (int i = 0; i < 20; ++i) more.push_back(context.DispatchAsync(kEcho, Echo("more")));
  while (runtime_->GetSnapshot().ledger.queued < 21) std::this_thread::yield();
  std::vector<InvocationStatus> next = runtime_->GetSnapshot().next;
  ASSERT_EQ(next.size(), 8u);
  EXPECT_EQ(next[0].operation, kEcho);
  EXPECT_EQ(next[0].client_name, "contract");
  EXPECT_THAT(next[0].call_site, HasSubstr(LineName(line + 1)));
  EXPECT_EQ(next[0].trace_id, std::string(kTrace).substr(3, 32));
  EXPECT_EQ(next[1].trace_id, "");
  operations_->LetGo();
  for (const Invocation& each : more) EXPECT_TRUE(each.Await().ok());
  const Invocation again = Hold(context);
  const auto posted = runtime_->context().RunOnRuntimeThreadAsync([] {});
  ASSERT_TRUE(posted.ok());
  next = runtime_->GetSnapshot().next;
  ASSERT_EQ(next.size(), 1u);
  EXPECT_EQ(next[0].operation, "(closure)");
  EXPECT_THAT(next[0].call_site, HasSubstr("origin_test.cc:"));
  operations_->LetGo();
  EXPECT_TRUE(again.Await().ok());
}
}  // namespace
}  // namespace runloop
