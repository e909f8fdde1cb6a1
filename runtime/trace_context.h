#ifndef RUNLOOP_RUNTIME_TRACE_CONTEXT_H_
#define RUNLOOP_RUNTIME_TRACE_CONTEXT_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace runloop::internal {

// W3C trace context, level 1, version 00, as in the HTTP header `traceparent`:
// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`: version, trace id, parent id, flags.
// This library carries it and makes none: whoever dispatches without one has none.
//
// Operations alone carry one. A closure that is queued or delayed has none, also if a handler has
// handed it over, and what it dispatches inherits none: its node is one cache line, which is full
// (closure_node.h), and floods of closures, of which hardly any dispatches, would pay for it. One
// that does is to keep a copy of OperationContext::trace_parent, and to name it in DispatchOptions.
// What runs in place, inside a handler, is part of that.

// Digits of hexadecimal, in lower case; neither id all zeros.
bool IsTraceParent(std::string_view text);
// INVALID_ARGUMENT (INVALID_REQUEST) unless it is one, or empty.
absl::Status CheckTraceParent(std::string_view text);
// The 32 digits that name the trace; empty if `trace_parent` is.
std::string_view TraceIdOf(std::string_view trace_parent);

// The same as a number, its first half first, and back; zeros stand for none.
std::array<uint64_t, 2> PackTraceId(std::string_view trace_parent);
std::string UnpackTraceId(const std::array<uint64_t, 2>& id);

// What a task keeps; null: none.
using TraceParent = std::unique_ptr<const std::string>;
inline TraceParent KeepTraceParent(std::string text) {
  return text.empty() ? nullptr : std::make_unique<const std::string>(std::move(text));
}

inline std::string_view TextOf(const TraceParent& kept) {
  return kept == nullptr ? std::string_view() : *kept;
}
inline TraceParent Copy(const TraceParent& kept) {
  return KeepTraceParent(std::string(TextOf(kept)));
}

// `given`, or, if it is empty, that of the operation whose handler runs on this thread.
TraceParent TraceParentOr(const std::string& given);

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_TRACE_CONTEXT_H_
