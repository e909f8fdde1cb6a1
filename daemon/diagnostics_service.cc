#include "runloop/daemon/diagnostics_service.h"

#include <unistd.h>

#include <utility>

#include "runloop/daemon/durations.h"
#include "runloop/daemon/limits.h"
#include "runloop/daemon/process_info.h"
#include "runloop/daemon/request_call.h"
#include "runloop/ipc/priority_codec.h"

namespace runloop::daemon {
namespace {

using State = Runtime::Snapshot::State;

v1::RuntimeThread::State ToProto(State state) {
  switch (state) {
    case State::kNotStarted:
      return v1::RuntimeThread::STATE_NOT_STARTED;
    case State::kIdle:
      return v1::RuntimeThread::STATE_IDLE;
    case State::kRunning:
      return v1::RuntimeThread::STATE_RUNNING;
    case State::kStalled:
      return v1::RuntimeThread::STATE_STALLED;
    case State::kStopped:
      return v1::RuntimeThread::STATE_STOPPED;
  }
  return v1::RuntimeThread::STATE_UNSPECIFIED;
}

void FillInvocation(const InvocationStatus& invocation, v1::InvocationStatus& status) {
  status.set_operation(invocation.operation);
  status.set_session_id(invocation.session_id);
  status.set_client_name(invocation.client_name);
  status.set_peer_pid(invocation.pid);
  status.set_role(invocation.role);
  status.set_call_site(invocation.call_site);
  status.set_trace_id(invocation.trace_id);
  if (invocation.queue_wait > absl::ZeroDuration()) {
    *status.mutable_queue_wait() = daemon::ToProto(invocation.queue_wait);
  }
}

void FillThread(const Runtime::Snapshot& snapshot, v1::RuntimeThread& thread) {
  thread.set_state(ToProto(snapshot.state));
  thread.set_loop(snapshot.loop);
  thread.set_current_operation(snapshot.current_operation);
  if (snapshot.current_session != nullptr) {
    const Session::Info& info = snapshot.current_session->info();
    thread.set_current_session(info.id);
    thread.set_current_client(info.client_name);
    thread.set_current_pid(info.peer.pid);
  }
  thread.set_waits_for(snapshot.waits_for);
  thread.set_current_call_site(snapshot.current_call_site);
  thread.set_current_trace_id(snapshot.current_trace_id);
  for (const InvocationStatus& next : snapshot.next) FillInvocation(next, *thread.add_next());
  *thread.mutable_current_age() = daemon::ToProto(snapshot.current_age);
  thread.set_notice(snapshot.notice);
}

void FillLedger(const Ledger::Counts& counts, v1::Ledger& ledger) {
  ledger.set_admitted(counts.admitted);
  ledger.set_succeeded(counts.succeeded);
  ledger.set_failed(counts.failed);
  ledger.set_cancelled(counts.cancelled);
  ledger.set_expired(counts.expired);
  ledger.set_superseded(counts.superseded);
  ledger.set_abandoned(counts.abandoned);
  ledger.set_queued(counts.queued);
  ledger.set_running(counts.running);
  ledger.set_deferred(counts.deferred);
  ledger.set_refused(counts.refused);
  ledger.set_given_up(counts.given_up);
  ledger.set_delayed(counts.delayed);
}

void FillSlow(const InvocationStatus& slow, absl::Time now, v1::InvocationStatus& status) {
  FillInvocation(slow, status);
  *status.mutable_execution() = daemon::ToProto(slow.execution);
  *status.mutable_age() = daemon::ToProto(now - slow.ended);
}

void FillBound(const BoundStatus& bound, v1::Bound& status) {
  status.set_holder(bound.holder);
  status.set_items(bound.held.items);
  status.set_max_items(bound.bound.items);
  status.set_bytes(bound.held.bytes);
  status.set_max_bytes(bound.bound.bytes);
}

void FillSession(const Session& session, const Bound& buffers, v1::SessionStatus& status) {
  const Session::Info& info = session.info();
  const Session::Counts counts = session.counts();
  status.set_session_id(info.id);
  status.set_client_name(info.client_name);
  status.set_priority(ToProto(info.priority));
  status.set_peer_pid(info.peer.pid);
  status.set_peer_uid(info.peer.uid);
  status.set_role(info.peer.role);
  const Session::Transport transport = session.transport();
  status.set_transport(transport.name == "stream" ? v1::TRANSPORT_STREAM
                       : transport.name == "ring" ? v1::TRANSPORT_RING
                                                  : v1::TRANSPORT_UNSPECIFIED);
  status.set_transport_reason(transport.why);
  status.set_queued(counts.queued);
  status.set_running(counts.running);
  status.set_finished(counts.finished);
  status.set_handles(counts.handles);
  status.set_bytes(counts.bytes);
  status.set_closing(session.ended());
  status.set_buffers(buffers.items);
  status.set_buffer_bytes(buffers.bytes);
  *status.mutable_start_time() = daemon::ToProto(info.start_time);
  const Session::Notifications& notifications = session.notifications();
  status.set_subscriptions(notifications.subscriptions.load());
  status.set_notifications_delivered(notifications.delivered.load());
  status.set_notifications_dropped(notifications.dropped.load());
}

void FillTopic(const Topic& topic, v1::TopicStatus& status) {
  const Topic::Statistics& statistics = topic.statistics();
  status.set_name(topic.name());
  status.set_message_type(topic.type().full_name());
  status.set_latest(topic.latest());
  status.set_subscriptions(statistics.subscriptions.load());
  status.set_published(statistics.published.load());
  status.set_delivered(statistics.delivered.load());
  status.set_dropped(statistics.dropped.load());
  status.set_replaced(statistics.replaced.load());
}

void FillLatency(const LatencyHistogram& histogram, v1::Latency& latency) {
  const LatencyHistogram::Summary summary = histogram.Summarize();
  latency.set_count(summary.count);
  *latency.mutable_mean() = daemon::ToProto(summary.mean);
  *latency.mutable_p50() = daemon::ToProto(summary.p50);
  *latency.mutable_p99() = daemon::ToProto(summary.p99);
  *latency.mutable_max() = daemon::ToProto(summary.max);
}

void FillOperation(const Operation& operation, v1::OperationStatus& status) {
  const Operation::Statistics& statistics = operation.statistics();
  status.set_name(operation.name());
  status.set_request_type(operation.method().input_type()->full_name());
  status.set_reply_type(operation.method().output_type()->full_name());
  status.set_succeeded(statistics.succeeded.load());
  status.set_failed(statistics.failed.load());
  status.set_not_started(statistics.not_started.load(std::memory_order_relaxed));
  status.set_queued(statistics.queued());
  FillLatency(statistics.queue_wait, *status.mutable_queue_wait());
  FillLatency(statistics.run_time, *status.mutable_run_time());
}

}  // namespace

std::unique_ptr<CallHandler> DiagnosticsService::NewGetStatus(Call& call) const {
  return NewRequestCall<v1::GetStatusRequest, v1::GetStatusResponse>(
      call, [this](Call& asked, const v1::GetStatusRequest&, v1::GetStatusResponse& response) {
        absl::Status allowed = options_.callers->CheckMainSocket(asked.context());
        if (allowed.ok()) FillStatus(response);
        return allowed;
      });
}

std::unique_ptr<CallHandler> DiagnosticsService::NewListOperations(Call& call) const {
  return NewRequestCall<v1::ListOperationsRequest, v1::ListOperationsResponse>(
      call,
      [this](Call& asked, const v1::ListOperationsRequest&, v1::ListOperationsResponse& response) {
        absl::Status allowed = options_.callers->CheckMainSocket(asked.context());
        if (!allowed.ok()) return allowed;
        for (const Operation* operation : options_.core->operations().List()) {
          FillOperation(*operation, *response.add_operations());
        }
        return absl::OkStatus();
      });
}

void DiagnosticsService::FillStatus(v1::GetStatusResponse& response) const {
  const Runtime::Snapshot snapshot = options_.core->GetSnapshot();
  response.set_version(Version());
  response.set_runtime_id(options_.core->id());
  response.set_pid(getpid());
  *response.mutable_start_time() = daemon::ToProto(options_.core->start_time());
  FillThread(snapshot, *response.mutable_thread());
  FillLedger(snapshot.ledger, *response.mutable_ledger());
  response.mutable_ledger()->set_slow(snapshot.slow);
  for (const InvocationStatus& slow : snapshot.recent_slow) {
    FillSlow(slow, options_.core->clock().Now(), *response.mutable_ledger()->add_recent_slow());
  }
  for (const std::shared_ptr<const Session>& session : snapshot.sessions) {
    FillSession(*session, options_.core->buffers().HeldBy(*session), *response.add_sessions());
  }
  for (const std::shared_ptr<const Topic>& topic : snapshot.topics) {
    FillTopic(*topic, *response.add_topics());
  }
  response.set_connections(static_cast<uint32_t>(options_.connections->size()));
  for (const std::string& address : options_.addresses) response.add_addresses(address);
  *response.mutable_limits() =
      LimitsOf(*options_.core, options_.max_message_bytes, options_.max_unfinished);
  for (const BoundStatus& bound : snapshot.bounds) {
    FillBound(bound, *response.add_bounds());
  }
  for (const BoundStatus& bound : options_.core->buffers().GetBounds()) {
    FillBound(bound, *response.add_buffer_bounds());
  }
  response.set_refused_buffers(options_.core->buffers().refused());
  response.set_draining(snapshot.draining);
  response.set_open_files(CountOpenFiles());
  response.set_threads(CountThreads());
  response.set_rejected_connections(
      options_.connections->rejected_connections.load(std::memory_order_relaxed));
  response.set_refused_peers(options_.connections->refused_peers.load(std::memory_order_relaxed));
}

}  // namespace runloop::daemon
