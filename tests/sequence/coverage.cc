#include "runloop/tests/sequence/coverage.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runloop/runtime/strings.h"

namespace runloop::sequence {
namespace {

struct Row {
  std::string_view name;
  std::vector<std::string_view> cells;
  // More cells, that only messages can meet, and that only calls can.
  std::vector<std::string_view> with_messages = {}, with_calls = {};

  std::vector<std::string_view> Cells(bool by_messages) const {
    std::vector<std::string_view> all = cells;
    const std::vector<std::string_view>& more = by_messages ? with_messages : with_calls;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

// What has not started can end in these ways, whatever it would have done.
std::vector<std::string_view> Unstarted(std::vector<std::string_view> cells) {
  for (const std::string_view cell : {"cancelled", "given up", "expired", "superseded",
                                      "session ended", "stopped", "stopped with its batch"}) {
    cells.push_back(cell);
  }
  return cells;
}

const std::vector<Row>& Possible() {
  static const auto* const rows = new std::vector<Row>{
      {"open", {"opened", "while draining"}},
      {"dispatch",
       {"queued", "with a delay", "takes another's place", "refused: draining", "refused: stopped",
        "refused: session ended", "refused: session, invocations", "refused: session, bytes",
        "refused: user, invocations", "refused: user, bytes", "refused: runtime, invocations",
        "refused: runtime, bytes", "refused: can never fit"}},
      {"dispatch a batch",
       {"queued", "waits in its lane", "longer than a lane's depth", "refused: draining",
        "refused: stopped", "refused: session ended", "refused: session, invocations",
        "refused: session, bytes", "refused: user, invocations", "refused: user, bytes",
        "refused: runtime, invocations", "refused: runtime, bytes", "refused: can never fit",
        "refused: one is unknown", "refused: one has a key"}},
      {"a batch stops",
       {"one has failed", "one that was deferred has failed", "one was cancelled",
        "one has expired"}},
      {"turn",
       {"interactive passes default", "interactive passes background", "default passes background",
        "interactive passes closures that were taken", "default has its turn",
        "closures that were taken have theirs", "background has its turn",
        "a batch goes on before what is more urgent"}},
      {"post a closure",
       {"queued", "with a delay", "refused: runtime, invocations", "refused: stopped"}},
      {"fill",
       {"refused: session, invocations", "refused: session, bytes", "refused: user, invocations",
        "refused: user, bytes", "refused: runtime, invocations", "refused: runtime, bytes",
        "refused: draining", "refused: stopped"}},
      {"cancel a timer",
       {"delayed: ends it", "queued: ends it", "running: too late", "ended: too late"}},
      {"cancel",
       {"delayed: ends it", "queued: ends it", "running: too late", "deferred: too late",
        "ended: too late"}},
      {"give up",
       {"delayed: ends it", "queued: ends it", "running", "deferred", "ended: too late"}},
      {"forget a result", {"releases objects", "made nothing that is left"}},
      {"kill",
       {"idle", "work delayed", "work queued", "work deferred", "work running", "objects held",
        "again", "after the stop"}},
      {"disconnect", {"idle", "work unfinished", "ends later"}},
      {"cut", {"a request is lost", "responses are lost"}},
      {"subscribe",
       {"to every one", "to the newest", "while draining", "refused: session ended",
        "refused: stopped"}},
      {"unsubscribe", {"nothing waits", "something waits", "it had ended"}},
      {"publish",
       {"nobody has subscribed", "to one subscription", "to several", "from the runtime thread",
        "while a task runs", "from another thread", "refused: stopped"}},
      {"publish to a session",
       {"nobody has subscribed", "to one subscription", "to several", "from the runtime thread",
        "while a task runs", "from another thread", "refused: session ended", "refused: stopped"}},
      {"take",
       {"one after the other", "one after some that were dropped", "what waited when all had ended",
        "no more", "no more: session ended", "no more: draining", "no more: stopped"},
       {"one after a gap", "one after a gap and some that were dropped",
        "no more: the worker went"}},
      {"a notification",
       {"taken", "dropped: too many", "dropped: too many bytes", "dropped: too large",
        "replaced by a newer one", "unsubscribed"},
       {"dropped on the way: too many", "dropped on the way: too many bytes",
        "dropped on the way: too large", "replaced on the way", "lost with a connection"},
       {"session ended"}},
      {"complete", {"succeeds", "fails", "drops", "makes: kept", "makes: handles full"}},
      {"complete late", {"succeeds", "fails", "drops", "makes: closed", "makes: handles full"}},
      {"say closed", {"in time", "late"}},
      {"advance",
       {"nothing is due", "delayed join the queue", "delayed expire", "queued expire",
        "deferred expire", "closing is overdue"}},
      {"run",
       {"all", "some", "nothing waits", "inside a task", "a lane is beyond its depth",
        "several lanes are beyond their depth", "in the middle of a batch"}},
      {"begin to drain", {"first", "again"}},
      {"drain", {"all done", "work is left", "objects are left", "stopped before"}},
      {"stop", {"nothing is left", "work is left", "objects are left", "stopped before"}},
      {"handle to use",
       {"own: found", "own: gone by then", "stale: unknown", "another session's: unknown",
        "of another type: unknown", "never given: unknown"}},
      {"handle to release",
       {"own: found", "own: gone by then", "stale: unknown", "another session's: unknown",
        "never given: unknown"}},
      {"an operation that succeeds", Unstarted({"succeeded"})},
      {"an operation that fails", Unstarted({"failed"})},
      {"an operation that throws", Unstarted({"failed"})},
      {"an operation that drops its completion", Unstarted({"failed"})},
      {"an operation that makes an object", Unstarted({"succeeded", "handles full"})},
      {"an operation that uses an object", Unstarted({"succeeded", "unknown handle"})},
      {"an operation that publishes", Unstarted({"succeeded", "failed"})},
      {"an operation that releases a handle",
       Unstarted({"succeeded", "unknown handle", "took too long to close", "expired, deferred",
                  "session ended, deferred", "stopped, deferred"})},
      {"an operation that defers",
       Unstarted({"succeeded", "failed", "dropped", "handles full", "expired, deferred",
                  "session ended, deferred", "stopped, deferred"})},
      // Has no deadline (Script::PrepareWork).
      {"an operation that makes an object and defers",
       {"succeeded", "failed", "dropped", "handles full", "session ended, deferred",
        "stopped, deferred", "cancelled", "given up", "superseded", "session ended", "stopped",
        "stopped with its batch"}},
      {"a closure", {"succeeded", "failed", "cancelled", "stopped"}},
  };
  return *rows;
}

}  // namespace

std::string Coverage::Table(bool by_messages) const {
  std::string table;
  for (const Row& row : Possible()) {
    absl::StrAppend(&table, View(row.name), "\n");
    const auto counted = counts_.find(row.name);
    for (const std::string_view cell : row.Cells(by_messages)) {
      int64_t count = 0;
      if (counted != counts_.end()) {
        const auto found = counted->second.find(cell);
        if (found != counted->second.end()) count = found->second;
      }
      absl::StrAppendFormat(&table, "  %9d  %s\n", count, View(cell));
    }
  }
  return table;
}

std::vector<std::string> Coverage::Complaints(int64_t at_least, bool by_messages) const {
  std::vector<std::string> complaints;
  auto left = counts_;
  for (const Row& row : Possible()) {
    auto& counted = left[row.name];
    for (const std::string_view cell : row.Cells(by_messages)) {
      const int64_t count = counted[cell];
      counted.erase(cell);
      if (count < at_least) {
        complaints.push_back(absl::StrCat("'", View(row.name), "' met '", View(cell), "' ", count,
                                          " times, less than ", at_least,
                                          ": raise its weight in program.cc"));
      }
    }
  }
  for (const auto& [row, cells] : left) {
    for (const auto& [cell, count] : cells) {
      complaints.push_back(absl::StrCat("'", View(row), "' met '", View(cell), "' ", count,
                                        " times, which coverage.cc does not list as possible"));
    }
  }
  return complaints;
}

}  // namespace runloop::sequence
