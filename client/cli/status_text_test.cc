#include "runloop/client/cli/status_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runloop/client/cli/daemon.h"

namespace runloop::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(StatusTextTest, ShowsWhatMattersOnAPage) {
  v1::GetStatusResponse status;
  status.set_version("1.2.3");
  status.set_pid(42);
  status.mutable_start_time()->set_seconds(1000);
  status.add_addresses("unix:/run/a");
  status.mutable_thread()->set_state(v1::RuntimeThread::STATE_STALLED);
  status.mutable_thread()->set_loop("glib");
  status.mutable_thread()->set_current_operation("a.B/C");
  status.mutable_thread()->set_current_session("s1");
  status.mutable_thread()->mutable_current_age()->set_seconds(5);
  status.mutable_thread()->set_notice("stuck for 5 s");
  status.mutable_ledger()->set_admitted(10);
  status.mutable_ledger()->set_succeeded(8);
  status.mutable_ledger()->set_running(2);
  status.mutable_limits()->set_max_message_bytes(64 << 20);
  status.mutable_limits()->set_max_unfinished(100'000);
  v1::SessionStatus& session = *status.add_sessions();
  session.set_session_id("s1");
  session.set_client_name("evil\x1B[2J");
  session.set_peer_pid(77);
  session.set_peer_uid(1000);
  session.set_role("recorder");
  session.set_transport(v1::TRANSPORT_STREAM);
  session.set_transport_reason("no room for\x1B a ring");
  session.set_queued(3);
  session.mutable_start_time()->set_seconds(1060);

  const std::string text = StatusText(status, absl::FromUnixSeconds(1192));
  EXPECT_THAT(text, HasSubstr("runloopd 1.2.3, pid 42, up 3m12s, at unix:/run/a\n"));
  EXPECT_THAT(text, HasSubstr("NOTICE   stuck for 5 s\n"));
  EXPECT_THAT(text, HasSubstr("thread   stalled: a.B/C of session s1, for 5s (loop: glib)\n"));
  EXPECT_THAT(text, HasSubstr("ledger   10 admitted = 8 succeeded + 2 running; 0 refused\n"));
  EXPECT_THAT(text, HasSubstr("limits   64 MiB a message; a session: 100000 unfinished "
                              "invocations\n"));
  EXPECT_THAT(text, HasSubstr("s1       evil?[2J   77  1000  recorder  stream  default        3"));
  EXPECT_THAT(text, HasSubstr("via      1 session by the stream: no room for? a ring\n"));
  EXPECT_THAT(text, HasSubstr("2m12s\n"));
  EXPECT_THAT(text, Not(HasSubstr("bounds")));
  EXPECT_THAT(text, Not(HasSubstr("closing")));
  EXPECT_THAT(text, Not(HasSubstr("\x1B")));
}

TEST(StatusTextTest, NamesTheWorkerWhoseWorkRunsAndWhatThatWaitsFor) {
  v1::RuntimeThread thread;
  EXPECT_EQ(CurrentText(thread), "");
  thread.set_current_operation("(closure)");
  thread.mutable_current_age()->set_seconds(2);
  EXPECT_EQ(CurrentText(thread), "(closure), for 2s");
  thread.set_current_operation("a.B/C");
  thread.set_current_session("s1");
  thread.set_current_pid(77);
  EXPECT_EQ(CurrentText(thread), "a.B/C of session s1 (pid 77), for 2s");
  thread.set_current_client("evil\x1B[2J");
  thread.set_waits_for("d.E/F at\x1B[2J");
  EXPECT_EQ(CurrentText(thread),
            "a.B/C of session s1 (client evil?[2J, pid 77), for 2s, waiting for d.E/F at?[2J");
  thread.set_current_call_site("a.cc:7 (f\x1B)");
  thread.set_current_trace_id("4bf9\x1B");
  thread.clear_waits_for();
  EXPECT_EQ(CurrentText(thread),
            "a.B/C of session s1 (client evil?[2J, pid 77), called at a.cc:7 (f?), trace 4bf9?, "
            "for 2s");
  v1::GetStatusResponse status;
  *status.mutable_thread() = thread;
  status.mutable_thread()->set_state(v1::RuntimeThread::STATE_RUNNING);
  status.mutable_thread()->set_loop("epoll");
  EXPECT_THAT(StatusText(status, absl::UnixEpoch()),
              HasSubstr("thread   running: " + CurrentText(thread) + " (loop: epoll)\n"));
}

TEST(StatusTextTest, NamesWhatIsFirstInLine) {
  v1::GetStatusResponse status;
  v1::InvocationStatus& operation = *status.mutable_thread()->add_next();
  operation.set_operation("a.B/C");
  operation.set_session_id("s1");
  operation.set_call_site("a.cc:7 (f)");
  operation.mutable_queue_wait()->set_seconds(2);
  status.mutable_thread()->add_next()->set_operation("(closure)");
  EXPECT_THAT(StatusText(status, absl::UnixEpoch()),
              HasSubstr("next     a.B/C of session s1, called at a.cc:7 (f), waiting for 2s\n"
                        "         (closure)\n"));
}

TEST(StatusTextTest, NamesWhatWaitedOrRanForLong) {
  v1::GetStatusResponse status;
  EXPECT_THAT(StatusText(status, absl::UnixEpoch()), Not(HasSubstr("slow")));
  v1::Ledger& ledger = *status.mutable_ledger();
  ledger.set_slow(70);
  v1::InvocationStatus& operation = *ledger.add_recent_slow();
  operation.set_operation("a.B/C");
  operation.set_session_id("s1");
  operation.set_client_name("evil\x1B[2J");
  operation.set_peer_pid(77);
  operation.set_call_site("a.cc:7 (f)");
  operation.set_trace_id("4bf9");
  operation.mutable_queue_wait()->set_seconds(2);
  operation.mutable_execution()->set_seconds(3);
  operation.mutable_age()->set_seconds(4);
  v1::InvocationStatus& closure = *ledger.add_recent_slow();
  closure.set_operation("(closure)");
  closure.mutable_execution()->set_seconds(1);
  EXPECT_THAT(StatusText(status, absl::UnixEpoch()),
              HasSubstr("slow     70 so far; the latest:\n"
                        "         a.B/C of session s1 (client evil?[2J, pid 77), called at a.cc:7 "
                        "(f), trace 4bf9, waited for 2s, ran for 3s, 4s ago\n"
                        "         (closure), ran for 1s, 0"));
}

TEST(StatusTextTest, SaysWhatHasNotEnded) {
  v1::Ledger ledger;
  ledger.set_succeeded(5);
  EXPECT_EQ(UnfinishedText(ledger), "nothing unfinished");
  ledger.set_queued(3);
  ledger.set_running(1);
  ledger.set_deferred(2);
  EXPECT_EQ(UnfinishedText(ledger), "3 queued, 1 running, 2 deferred");
  ledger.set_delayed(4);
  EXPECT_EQ(UnfinishedText(ledger), "4 delayed, 3 queued, 1 running, 2 deferred");
}

TEST(StatusTextTest, ShowsWhatBoundsUnfinishedWorkAndWhatSessionsHold) {
  v1::GetStatusResponse status;
  status.mutable_ledger()->set_given_up(4);
  v1::Bound& all = *status.add_bounds();
  all.set_holder("runtime");
  all.set_items(12);
  all.set_max_items(1000);
  all.set_bytes(1536);
  all.set_max_bytes(256 << 20);
  status.add_bounds()->set_holder("role evil\x1B[2J");
  v1::Bound& buffers = *status.add_buffer_bounds();
  buffers.set_holder("runtime");
  buffers.set_items(2);
  buffers.set_max_items(100);
  buffers.set_bytes(8192);
  buffers.set_max_bytes(1 << 30);
  status.set_refused_buffers(5);
  status.mutable_limits()->set_max_unfinished(7);
  status.mutable_limits()->set_max_unfinished_bytes(128 << 20);
  status.mutable_limits()->set_max_handles(1000);
  v1::SessionStatus& session = *status.add_sessions();
  session.set_session_id("s1");
  session.set_bytes(2048);
  session.set_handles(3);
  session.set_buffers(2);
  session.set_buffer_bytes(8192);
  session.set_closing(true);
  session.mutable_start_time()->set_seconds(1060);
  const std::string text = StatusText(status, absl::FromUnixSeconds(1065));
  EXPECT_THAT(text, HasSubstr("0 refused, 4 told that it still runs\n"));
  EXPECT_THAT(text, HasSubstr("bounds   runtime: 12 of 1000 unfinished, 1.5 KiB of 256 MiB\n"
                              "         role evil?[2J: 0 of 0 unfinished, 0 bytes of 0 bytes\n"));
  EXPECT_THAT(text, HasSubstr("buffers  runtime: 2 of 100, 8 KiB of 1 GiB; 5 refused\n"));
  EXPECT_THAT(text, HasSubstr("a session: 7 unfinished invocations of 128 MiB, 1000 handles\n"));
  EXPECT_THAT(text, HasSubstr("2 KiB        3  2 (8 KiB)  5s closing\n"));
  EXPECT_THAT(text, HasSubstr("s1       -         0    0  -     -"));  // no name, no role
}

TEST(StatusTextTest, ShowsTopicsAndWhoIsSlowToTakeWhatIsPublished) {
  v1::GetStatusResponse status;
  v1::SessionStatus& idle = *status.add_sessions();
  idle.set_session_id("s0");
  idle.set_notifications_delivered(4);
  EXPECT_THAT(StatusText(status, absl::UnixEpoch()), Not(HasSubstr("topics")));
  v1::TopicStatus& topic = *status.add_topics();
  topic.set_name("a.B/C\x1B[2J");
  topic.set_subscriptions(2);
  topic.set_published(10);
  topic.set_delivered(15);
  topic.set_dropped(3);
  topic.set_replaced(1);
  status.add_topics()->set_name("a.B/D");
  v1::SessionStatus& subscribed = *status.add_sessions();
  subscribed.set_session_id("s1");
  subscribed.set_subscriptions(2);
  subscribed.set_notifications_delivered(15);
  v1::SessionStatus& slow = *status.add_sessions();
  slow.set_session_id("s2\x1B");
  slow.set_notifications_dropped(3);
  EXPECT_THAT(
      StatusText(status, absl::UnixEpoch()),
      HasSubstr("topics   a.B/C?[2J: 2 subscribed; 10 published, 15 delivered, 3 dropped, 1 "
                "replaced\n"
                "         a.B/D: 0 subscribed; 0 published, 0 delivered, 0 dropped, 0 replaced\n"
                "         session s1: 2 subscribed; 15 delivered, 0 dropped\n"
                "         session s2?: 0 subscribed; 0 delivered, 3 dropped\n"));
}

TEST(StatusTextTest, JsonHasEveryFieldEvenThoseThatAreZero) {
  v1::GetStatusResponse status;
  status.add_bounds()->set_holder("runtime");
  status.mutable_thread()->set_current_client("recorder");
  status.mutable_ledger();
  status.add_sessions()->set_handles(3);
  testing::internal::CaptureStdout();
  ASSERT_TRUE(PrintJson(status).ok());
  const std::string json = testing::internal::GetCapturedStdout();
  for (const char* field :
       {"\"holder\": \"runtime\"", "\"maxItems\": \"0\"", "\"currentClient\": \"recorder\"",
        "\"currentPid\": 0", "\"waitsFor\": \"\"", "\"givenUp\": \"0\"", "\"handles\": \"3\"",
        "\"bytes\": \"0\"", "\"closing\": false"}) {
    EXPECT_THAT(json, HasSubstr(field));
  }
}

TEST(StatusTextTest, SaysWhatToDoWithoutOperations) {
  EXPECT_THAT(OperationsText({}), HasSubstr("--plugin"));
}

}  // namespace
}  // namespace runloop::cli
