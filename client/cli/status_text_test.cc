#include "runloop/client/cli/status_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

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
  v1::SessionStatus& session = *status.add_sessions();
  session.set_session_id("s1");
  session.set_client_name("evil\x1B[2J");
  session.set_peer_pid(77);
  session.set_peer_uid(1000);
  session.set_role("recorder");
  session.set_transport(v1::TRANSPORT_STREAM);
  session.set_queued(3);
  session.mutable_start_time()->set_seconds(1060);

  const std::string text = StatusText(status, absl::FromUnixSeconds(1192));
  EXPECT_THAT(text, HasSubstr("runloopd 1.2.3, pid 42, up 3m12s, at unix:/run/a\n"));
  EXPECT_THAT(text, HasSubstr("NOTICE   stuck for 5 s\n"));
  EXPECT_THAT(text, HasSubstr("thread   stalled: a.B/C of session s1, for 5s (loop: glib)\n"));
  EXPECT_THAT(text, HasSubstr("ledger   10 admitted = 8 succeeded + 2 running; 0 refused\n"));
  EXPECT_THAT(text, HasSubstr("64 MiB a message"));
  EXPECT_THAT(text, HasSubstr("s1       evil?[2J   77  1000  recorder  stream       3"));
  EXPECT_THAT(text, HasSubstr("2m12s\n"));
  EXPECT_THAT(text, Not(HasSubstr("\x1B")));
}

TEST(StatusTextTest, SaysWhatToDoWithoutOperations) {
  EXPECT_THAT(OperationsText({}), HasSubstr("--plugin"));
}

}  // namespace
}  // namespace runloop::cli
