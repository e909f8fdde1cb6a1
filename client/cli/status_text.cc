#include "runloop/client/cli/status_text.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/timestamp.pb.h"
#include "runloop/client/cli/text.h"
#include "runloop/ipc/priority_codec.h"

namespace runloop::cli {
namespace {

std::string Age(const google::protobuf::Timestamp& start, absl::Time now) {
  const absl::Time time = absl::FromUnixSeconds(start.seconds()) + absl::Nanoseconds(start.nanos());
  return HumanDuration(absl::Trunc(std::max(now - time, absl::ZeroDuration()), absl::Seconds(1)));
}

std::string ThreadText(const v1::RuntimeThread& thread) {
  std::string state = v1::RuntimeThread::State_Name(thread.state());
  state = absl::AsciiStrToLower(state.substr(state.find('_') + 1));
  for (char& c : state) {
    if (c == '_') c = ' ';
  }
  const std::string current = CurrentText(thread);
  return absl::StrCat(state, current.empty() ? "" : ": ", current,
                      " (loop: ", Printable(thread.loop()), ")");
}

// ` of session s1 (client recorder, pid 7)`, as far as it is known.
std::string WorkerText(const std::string& session, const std::string& client, int pid) {
  std::string text = session.empty() ? "" : absl::StrCat(" of session ", Printable(session));
  std::vector<std::string> worker;
  if (!client.empty()) worker.push_back(absl::StrCat("client ", Printable(client)));
  if (pid != 0) worker.push_back(absl::StrCat("pid ", pid));
  if (!worker.empty()) absl::StrAppend(&text, " (", absl::StrJoin(worker, ", "), ")");
  return text;
}

// `, called at a.cc:1 (f), trace 4bf9...`, as far as it is known.
std::string OriginText(const std::string& call_site, const std::string& trace_id) {
  return absl::StrCat(call_site.empty() ? "" : ", called at " + Printable(call_site),
                      trace_id.empty() ? "" : ", trace " + Printable(trace_id));
}

std::string LedgerText(const v1::Ledger& ledger) {
  std::vector<std::string> places;
  const auto add = [&places](uint64_t count, const char* name) {
    if (count != 0) places.push_back(absl::StrCat(count, " ", name));
  };
  add(ledger.succeeded(), "succeeded");
  add(ledger.failed(), "failed");
  add(ledger.cancelled(), "cancelled");
  add(ledger.expired(), "expired");
  add(ledger.superseded(), "superseded");
  add(ledger.abandoned(), "abandoned");
  add(ledger.delayed(), "delayed");
  add(ledger.queued(), "queued");
  add(ledger.running(), "running");
  add(ledger.deferred(), "deferred");
  return absl::StrCat(ledger.admitted(), " admitted", places.empty() ? "" : " = ",
                      absl::StrJoin(places, " + "), "; ", ledger.refused(), " refused",
                      ledger.given_up() == 0
                          ? ""
                          : absl::StrCat(", ", ledger.given_up(), " told that it still runs"));
}

// What it is, whose and where from, and how long it waited.
std::string InvocationText(const v1::InvocationStatus& invocation, const char* waited) {
  return absl::StrCat(
      Printable(invocation.operation()),
      WorkerText(invocation.session_id(), invocation.client_name(), invocation.peer_pid()),
      OriginText(invocation.call_site(), invocation.trace_id()),
      invocation.has_queue_wait()
          ? absl::StrCat(", ", waited, " ", HumanDuration(invocation.queue_wait()))
          : "");
}

// What is first in line, a line each; empty if nothing is.
std::string NextText(const v1::RuntimeThread& thread) {
  std::string text;
  for (const v1::InvocationStatus& next : thread.next()) {
    absl::StrAppend(&text, text.empty() ? "next     " : "         ",
                    InvocationText(next, "waiting for"), "\n");
  }
  return text;
}

// What waited or ran for long: how much, and the latest of it, a line each; empty if nothing did.
std::string SlowText(const v1::Ledger& ledger) {
  if (ledger.slow() == 0) return "";
  std::string text = absl::StrCat("slow     ", ledger.slow(), " so far");
  if (ledger.recent_slow_size() > 0) text += "; the latest:";
  text += '\n';
  for (const v1::InvocationStatus& slow : ledger.recent_slow()) {
    absl::StrAppend(&text, "         ", InvocationText(slow, "waited for"), ", ran for ",
                    HumanDuration(slow.execution()), ", ", HumanDuration(slow.age()), " ago\n");
  }
  return text;
}

std::string TransportText(v1::Transport transport) {
  const std::string name = v1::Transport_Name(transport);
  if (transport == v1::TRANSPORT_UNSPECIFIED || name.empty()) return "-";
  return absl::AsciiStrToLower(name.substr(name.find('_') + 1));
}

std::string NameOrDash(const std::string& name) { return name.empty() ? "-" : Printable(name); }

std::string LimitsText(const v1::Limits& limits) {
  std::string text =
      absl::StrCat(HumanBytes(limits.max_message_bytes()),
                   " a message; a session: ", limits.max_unfinished(), " unfinished invocations");
  // 0: not stated.
  if (limits.max_unfinished_bytes() != 0) {
    absl::StrAppend(&text, " of ", HumanBytes(limits.max_unfinished_bytes()));
  }
  if (limits.max_handles() != 0) absl::StrAppend(&text, ", ", limits.max_handles(), " handles");
  return text;
}

// What there is in buffers, if there is or was anything.
std::string BuffersText(const v1::GetStatusResponse& status) {
  std::string text;
  for (const v1::Bound& bound : status.buffer_bounds()) {
    if (bound.items() == 0 && bound.bytes() == 0 &&
        (&bound != &status.buffer_bounds(0) || status.refused_buffers() == 0)) {
      continue;
    }
    absl::StrAppend(&text, text.empty() ? "buffers  " : "         ", Printable(bound.holder()),
                    ": ", bound.items(), " of ", bound.max_items(), ", ", HumanBytes(bound.bytes()),
                    " of ", HumanBytes(bound.max_bytes()));
    if (&bound == &status.buffer_bounds(0)) {
      absl::StrAppend(&text, "; ", status.refused_buffers(), " refused");
    }
    text += '\n';
  }
  return text;
}

// How full what bounds unfinished work is: a line each.
std::string BoundsText(const v1::GetStatusResponse& status) {
  std::string text;
  for (const v1::Bound& bound : status.bounds()) {
    absl::StrAppend(&text, text.empty() ? "bounds   " : "         ", Printable(bound.holder()),
                    ": ", bound.items(), " of ", bound.max_items(), " unfinished, ",
                    HumanBytes(bound.bytes()), " of ", HumanBytes(bound.max_bytes()), "\n");
  }
  return text;
}

// How the messages of sessions travel, and why those of some do not by rings; empty if there is
// nothing to say.
std::string TopicsText(const v1::GetStatusResponse& status) {
  std::vector<std::string> lines;
  for (const v1::TopicStatus& topic : status.topics()) {
    lines.push_back(absl::StrCat(Printable(topic.name()), ": ", topic.subscriptions(),
                                 " subscribed; ", topic.published(), " published, ",
                                 topic.delivered(), " delivered, ", topic.dropped(), " dropped, ",
                                 topic.replaced(), " replaced"));
  }
  for (const v1::SessionStatus& session : status.sessions()) {
    if (session.subscriptions() == 0 && session.notifications_dropped() == 0) continue;
    lines.push_back(absl::StrCat("session ", Printable(session.session_id()), ": ",
                                 session.subscriptions(), " subscribed; ",
                                 session.notifications_delivered(), " delivered, ",
                                 session.notifications_dropped(), " dropped"));
  }
  return lines.empty() ? "" : absl::StrCat("topics   ", absl::StrJoin(lines, "\n         "), "\n");
}

std::string TransportsText(const v1::GetStatusResponse& status) {
  std::map<std::string, int> counts;
  for (const v1::SessionStatus& session : status.sessions()) {
    if (session.transport() != v1::TRANSPORT_STREAM || session.transport_reason().empty()) continue;
    ++counts[Printable(session.transport_reason())];
  }
  std::vector<std::string> lines;
  for (const auto& [reason, count] : counts) {
    lines.push_back(
        absl::StrCat(count, count == 1 ? " session" : " sessions", " by the stream: ", reason));
  }
  return lines.empty() ? "" : absl::StrCat("via      ", absl::StrJoin(lines, "\n         "), "\n");
}

}  // namespace

std::string CurrentText(const v1::RuntimeThread& thread) {
  if (thread.current_operation().empty()) return "";
  std::string text = absl::StrCat(
      Printable(thread.current_operation()),
      WorkerText(thread.current_session(), thread.current_client(), thread.current_pid()),
      OriginText(thread.current_call_site(), thread.current_trace_id()), ", for ",
      HumanDuration(thread.current_age()));
  if (!thread.waits_for().empty()) {
    absl::StrAppend(&text, ", waiting for ", Printable(thread.waits_for()));
  }
  return text;
}

std::string UnfinishedText(const v1::Ledger& ledger) {
  std::vector<std::string> places;
  if (ledger.delayed() != 0) places.push_back(absl::StrCat(ledger.delayed(), " delayed"));
  if (ledger.queued() != 0) places.push_back(absl::StrCat(ledger.queued(), " queued"));
  if (ledger.running() != 0) places.push_back(absl::StrCat(ledger.running(), " running"));
  if (ledger.deferred() != 0) places.push_back(absl::StrCat(ledger.deferred(), " deferred"));
  return places.empty() ? "nothing unfinished" : absl::StrJoin(places, ", ");
}

std::string StatusText(const v1::GetStatusResponse& status, absl::Time now) {
  std::vector<std::string> addresses;
  for (const std::string& address : status.addresses()) addresses.push_back(Printable(address));
  std::string text =
      absl::StrCat("runloopd ", Printable(status.version()), ", pid ", status.pid(), ", up ",
                   Age(status.start_time(), now), ", at ", absl::StrJoin(addresses, " "),
                   status.draining() ? ", draining" : "", "\n");
  if (!status.thread().notice().empty()) {
    absl::StrAppend(&text, "NOTICE   ", Printable(status.thread().notice()), "\n");
  }
  absl::StrAppend(&text, "thread   ", ThreadText(status.thread()), "\n", NextText(status.thread()));
  absl::StrAppend(&text, "ledger   ", LedgerText(status.ledger()), "\n", SlowText(status.ledger()));
  absl::StrAppend(&text, "process  ", status.threads(), " threads, ", status.open_files(),
                  " open files, ", status.connections(),
                  " connections; turned away: ", status.refused_peers(), " by identity, ",
                  status.rejected_connections(), " by protocol\n");
  absl::StrAppend(&text, "limits   ", LimitsText(status.limits()), "\n", BoundsText(status),
                  BuffersText(status), TransportsText(status), TopicsText(status));
  if (status.sessions().empty()) return absl::StrCat(text, "\nno sessions\n");
  Table table({"SESSION", "CLIENT", "PID", "UID", "ROLE", "VIA", "PRIORITY", "QUEUED", "RUNNING",
               "FINISHED", "BYTES", "HANDLES", "BUFFERS", "AGE"});
  for (const v1::SessionStatus& session : status.sessions()) {
    table.Add({Printable(session.session_id()), NameOrDash(session.client_name()),
               absl::StrCat(session.peer_pid()), absl::StrCat(session.peer_uid()),
               NameOrDash(session.role()), TransportText(session.transport()),
               std::string(NameOf(FromProto(session.priority()))), absl::StrCat(session.queued()),
               absl::StrCat(session.running()), absl::StrCat(session.finished()),
               HumanBytes(session.bytes()), absl::StrCat(session.handles()),
               session.buffers() == 0
                   ? "0"
                   : absl::StrCat(session.buffers(), " (", HumanBytes(session.buffer_bytes()), ")"),
               absl::StrCat(Age(session.start_time(), now), session.closing() ? " closing" : "")});
  }
  return absl::StrCat(text, "\n", table.ToString());
}

std::string OperationsText(const v1::ListOperationsResponse& operations) {
  if (operations.operations().empty()) {
    return "no operations: start the daemon with --plugin=FILE.so\n";
  }
  Table table({"OPERATION", "SUCCEEDED", "FAILED", "NOT STARTED", "QUEUED", "WAIT P50", "P99",
               "RUN P50", "P99", "MAX"});
  for (const v1::OperationStatus& operation : operations.operations()) {
    table.Add({Printable(operation.name()), absl::StrCat(operation.succeeded()),
               absl::StrCat(operation.failed()), absl::StrCat(operation.not_started()),
               absl::StrCat(operation.queued()), HumanDuration(operation.queue_wait().p50()),
               HumanDuration(operation.queue_wait().p99()),
               HumanDuration(operation.run_time().p50()), HumanDuration(operation.run_time().p99()),
               HumanDuration(operation.run_time().max())});
  }
  return table.ToString();
}

}  // namespace runloop::cli
