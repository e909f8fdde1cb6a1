#ifndef RUNLOOP_DAEMON_TESTING_SESSION_REQUEST_CHECK_H_
#define RUNLOOP_DAEMON_TESTING_SESSION_REQUEST_CHECK_H_

#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/session_request_reader.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// `bytes` as gRPC delivers them: in slices of `slice` bytes, or in one.
inline grpc::ByteBuffer InSlices(std::string_view bytes, size_t slice) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size() || slices.empty(); at += slice) {
    const std::string_view part = bytes.substr(at, slice);
    slices.emplace_back(part.data(), part.size());
  }
  return {slices.data(), slices.size()};
}

// Where what `reader` makes of `bytes`, which are so few that no bound is in the way, is not what
// protobuf makes of them; empty: nowhere.
inline std::string Disagreement(SessionRequestReader& reader, std::string_view bytes,
                                size_t slice) {
  grpc::ByteBuffer buffer = InSlices(bytes, slice);
  const bool read = reader.Read(buffer).ok();
  v1::SessionRequest parsed;
  if (parsed.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) != read) {
    return absl::StrCat("protobuf says ", !read, ", the reader ", read);
  }
  if (!read) return "";
  const auto count = static_cast<size_t>(parsed.dispatches_size());
  if (reader.dispatches().size() != count) {
    return absl::StrCat(reader.dispatches().size(), " dispatches, of ", count);
  }
  for (size_t i = 0; i < count; ++i) {
    const v1::Dispatch& wanted = parsed.dispatches(static_cast<int>(i));
    const DispatchView& view = reader.dispatches()[i];
    const bool by_id = wanted.operation_case() == v1::Dispatch::kOperationId;
    const bool same =
        view.invocation_id == wanted.invocation_id() &&
        view.operation_id == (by_id ? wanted.operation_id() : 0) &&
        view.request == std::string_view(wanted.request()) &&
        view.has_timeout == wanted.has_timeout() &&
        view.timeout_seconds == wanted.timeout().seconds() &&
        view.timeout_nanos == wanted.timeout().nanos() &&
        view.reply_wanted == wanted.reply_wanted() && view.call_site_id == wanted.call_site_id() &&
        view.batch_size == wanted.batch_size() && view.stop_at_failure == wanted.stop_at_failure();
    if (!same) return absl::StrCat("dispatch ", i, " is another: ", wanted.ShortDebugString());
    const bool has_more = !by_id || wanted.operation_id() == 0 || wanted.chain_size() > 0 ||
                          !wanted.coalesce_key().empty() || wanted.has_delay() ||
                          !wanted.trace_parent().empty();
    if (view.message == nullptr && has_more) return absl::StrCat("dispatch ", i, " has no message");
    if (view.message != nullptr &&
        view.message->SerializeAsString() != wanted.SerializeAsString()) {
      return absl::StrCat("the message of dispatch ", i, " is another");
    }
  }
  v1::SessionRequest rest = reader.rest();
  rest.clear_dispatches();
  parsed.clear_dispatches();
  return rest.SerializeAsString() == parsed.SerializeAsString() ? "" : "the rest is another";
}

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_TESTING_SESSION_REQUEST_CHECK_H_
