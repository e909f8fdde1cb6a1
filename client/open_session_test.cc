#include "runloop/client/open_session.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/support/proto_buffer_reader.h"
#include "gtest/gtest.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// Another place in the source for each.
template <size_t kIndex>
CallSite Place() {
#ifdef __cpp_lib_source_location
  return CallSite(SourceLocation::current());
#else
  // The names of functions have no template arguments then.
  return CallSite(SourceLocation::current("place.cc", "Place", kIndex + 1));
#endif
}
template <size_t... kIndices>
std::vector<CallSite> Places(std::index_sequence<kIndices...>) {
  return {Place<kIndices>()...};
}

class OpenSessionTest : public testing::Test {
 protected:
  absl::Status Add(OpenSession& session, size_t bytes = 10, CallSite call_site = {}) {
    auto invocation = std::make_shared<RemoteInvocation>(nullptr, false);
    invocation->id = ++last_id_;
    RequestWriter::Dispatch dispatch{.invocation_id = last_id_,
                                     .operation_name = "a.B/C",
                                     .call_site = call_site,
                                     .request = grpc::Slice(std::string(bytes, 'x'))};
    last_ = invocation;
    return session.Add({&invocation, 1}, {&dispatch, 1});
  }
  static v1::SessionRequest Sent(OpenSession& session) {
    std::optional<OpenSession::Outgoing> outgoing = session.NextOutgoing();
    v1::SessionRequest request;
    if (!outgoing.has_value() || outgoing->half_close) return request;
    grpc::ByteBuffer bytes = outgoing->message->Share();
    session.Sent(false);
    grpc::ProtoBufferReader reader(&bytes);
    EXPECT_TRUE(request.ParseFromZeroCopyStream(&reader));
    return request;
  }
  static v1::SessionResponse Outcome(uint64_t id) {
    v1::SessionResponse response;
    response.add_outcomes()->set_invocation_id(id);
    response.mutable_outcomes(0)->set_reply("");
    return response;
  }

  v1::Welcome welcome_;
  uint64_t last_id_ = 0;
  std::shared_ptr<RemoteInvocation> last_;
};

TEST_F(OpenSessionTest, WhoElseWaitsIsToldOnceLessIsUnsent) {
  OpenSession session(welcome_);
  EXPECT_TRUE(Add(session).ok());
  const std::shared_ptr<RemoteInvocation> first = last_;
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(Add(session, size_t{1} << 20).ok());
  session.AddWaiting(*first, {{.runtime_id = "r", .operation = "a.B/C"}});
  int told = 0;
  for (int messages = 0; messages < 10; ++messages) {
    told += Sent(session).waiting_size();
    session.Written();
  }
  EXPECT_EQ(told, 1);
}

TEST_F(OpenSessionTest, APlaceIsToldOnceAndBeforeWhatNamesIt) {
  OpenSession session(welcome_);
  const CallSite first = Place<0>(), second = Place<1>();
  for (const CallSite site : {first, first, second, first, CallSite()}) {
    ASSERT_TRUE(Add(session, 10, site).ok());
  }
  const v1::SessionRequest request = Sent(session);
  session.Written();
  ASSERT_EQ(request.call_sites_size(), 2);
  EXPECT_EQ(request.call_sites(0).id(), 1u);
  EXPECT_EQ(request.call_sites(0).file(), first.file());
  EXPECT_EQ(request.call_sites(0).line(), first.line());
  EXPECT_EQ(request.call_sites(0).function(), CleanText(first.function(), kMaxCallSiteText));
  EXPECT_EQ(request.call_sites(1).id(), 2u);
  const std::vector<uint32_t> ids = {1, 1, 2, 1, 0};
  ASSERT_EQ(request.dispatches_size(), 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(request.dispatches(i).call_site_id(), ids[i]) << i;

  ASSERT_TRUE(Add(session, 10, second).ok());
  const v1::SessionRequest later = Sent(session);
  EXPECT_EQ(later.call_sites_size(), 0);
  EXPECT_EQ(later.dispatches(0).call_site_id(), 2u);
}

TEST_F(OpenSessionTest, NoMorePlacesAreToldThanTheDaemonKeeps) {
  OpenSession session(welcome_);
  constexpr size_t kMost = CallSiteTable::kMost;
  const std::vector<CallSite> places = Places(std::make_index_sequence<kMost + 5>());
  for (const CallSite place : places) ASSERT_TRUE(Add(session, 10, place).ok());
  ASSERT_TRUE(Add(session, 10, places[0]).ok());
  const v1::SessionRequest request = Sent(session);
  EXPECT_EQ(static_cast<size_t>(request.call_sites_size()), kMost);
  EXPECT_EQ(request.dispatches(kMost - 1).call_site_id(), kMost);
  EXPECT_EQ(request.dispatches(kMost).call_site_id(), 0u);
  EXPECT_EQ(request.dispatches(kMost + 5).call_site_id(), 1u);
}

TEST_F(OpenSessionTest, WhatIsRefusedTellsNoPlaceAndANewSessionTellsAllAgain) {
  welcome_.mutable_limits()->set_max_message_bytes(500);
  OpenSession session(welcome_);
  EXPECT_EQ(ReasonOf(Add(session, 600, Place<0>())), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EXPECT_FALSE(session.HasOutgoing());
  OpenSession next(welcome_);
  for (OpenSession* const each : {&session, &next}) {
    ASSERT_TRUE(Add(*each, 10, Place<1>()).ok());
    const v1::SessionRequest request = Sent(*each);
    ASSERT_EQ(request.call_sites_size(), 1);
    EXPECT_EQ(request.call_sites(0).id(), 1u);
  }
}

TEST_F(OpenSessionTest, WhatNeverFitsIsTooLargeThoughThereIsNoRoomEither) {
  welcome_.mutable_limits()->set_max_unfinished(1);
  welcome_.mutable_limits()->set_max_unfinished_bytes(100);
  OpenSession session(welcome_);
  EXPECT_TRUE(Add(session).ok());
  EXPECT_EQ(ReasonOf(Add(session)), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(ReasonOf(Add(session, 101)), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
}

TEST_F(OpenSessionTest, AtTheEndWhatWasSentIsToldFromWhatWasNot) {
  OpenSession session(welcome_);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Add(session).ok());
  EXPECT_EQ(Sent(session).dispatches_size(), 3);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Add(session).ok());
  EXPECT_FALSE(session.NextOutgoing().has_value());  // the first is not yet written
  OpenSession::Finished finished;
  v1::SessionResponse outcome = Outcome(2);
  EXPECT_TRUE(session.Receive(outcome, finished).ok());
  const OpenSession::Rest rest = session.TakeRest();
  ASSERT_EQ(rest.sent.size(), 2u);
  EXPECT_EQ(rest.sent[0]->id, 1u);
  EXPECT_EQ(rest.sent[1]->id, 3u);
  EXPECT_EQ(session.OperationOf(*rest.sent[1]), "a.B/C");
  ASSERT_EQ(rest.unsent.size(), 2u);
  EXPECT_EQ(rest.unsent[0]->id, 4u);
  EXPECT_TRUE(session.writing());
}

TEST_F(OpenSessionTest, TheDaemonsBoundOnBytesCountsWhatIsUnfinished) {
  welcome_.mutable_limits()->set_max_unfinished_bytes(100);
  OpenSession session(welcome_);
  EXPECT_TRUE(Add(session, 60).ok());
  EXPECT_TRUE(Add(session, 40).ok());
  EXPECT_TRUE(session.HasRoom({.request_bytes = 0}));
  EXPECT_FALSE(session.HasRoom({.request_bytes = 1}));
  --last_id_;
  EXPECT_EQ(ReasonOf(Add(session, 1)), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(ReasonOf(session.CheckRoom({.request_bytes = 101})),
            v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  Sent(session);
  OpenSession::Finished finished;
  v1::SessionResponse outcome = Outcome(1);
  EXPECT_TRUE(session.Receive(outcome, finished).ok());
  EXPECT_TRUE(session.HasRoom({.request_bytes = 60}));
  EXPECT_FALSE(session.HasRoom({.request_bytes = 61}));
}

TEST_F(OpenSessionTest, ACancelAndAGivingUpAreSaidOnceEach) {
  OpenSession session(welcome_);
  EXPECT_TRUE(Add(session).ok());
  for (int i = 0; i < 2; ++i) {
    session.AddCancel(*last_, /*give_up=*/false);
    session.AddCancel(*last_, /*give_up=*/true);
  }
  const v1::SessionRequest request = Sent(session);
  ASSERT_EQ(request.cancels_size(), 2);
  EXPECT_FALSE(request.cancels(0).give_up());
  EXPECT_TRUE(request.cancels(1).give_up());
}

TEST_F(OpenSessionTest, NoMessageHoldsMoreCancelsThanTheProtocolAllows) {
  OpenSession session(welcome_);
  for (int i = 0; i < 3000; ++i) {
    EXPECT_TRUE(Add(session).ok());
    session.AddCancel(*last_, false);
  }
  int cancels = 0;
  while (cancels < 3000) {
    const v1::SessionRequest request = Sent(session);
    ASSERT_GT(request.cancels_size(), 0);
    EXPECT_LE(request.cancels_size(), 1024);
    cancels += request.cancels_size();
    session.Written();
  }
}

TEST_F(OpenSessionTest, AfterCloseItSendsTheRestAndHalfCloses) {
  OpenSession session(welcome_);
  EXPECT_TRUE(Add(session).ok());
  session.Close();
  EXPECT_EQ(Sent(session).dispatches_size(), 1);
  session.Written();
  EXPECT_TRUE(session.NextOutgoing()->half_close);
  session.Written();
  session.AddCancel(*last_, false);
  EXPECT_FALSE(session.NextOutgoing().has_value());
}

}  // namespace
}  // namespace runloop::internal
