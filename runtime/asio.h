#ifndef RUNLOOP_RUNTIME_ASIO_H_
#define RUNLOOP_RUNTIME_ASIO_H_

#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "runloop/runtime/pending.h"
#include "runloop/runtime/runtime_context.h"

// Dispatches as asynchronous operations of standalone asio, 1.19 or newer. runloop itself does not
// need asio: this header alone includes it, and only who includes this has to have it.

namespace runloop {

// Dispatches the operation and completes with `void(Outcome<Reply>)`, that is with
// absl::StatusOr<Reply>, or absl::Status where Reply is void. Any completion token will do:
//
//   absl::StatusOr<OpenReply> reply = co_await runloop::AsyncDispatch<OpenReply>(
//       context, "acme.media.v1.Mp4Writer/Open", request, asio::use_awaitable);
//
// It is dispatched when it is initiated: at once with a callback or use_future, with use_awaitable
// by `co_await`. The handler is posted to its associated executor, never called in place; the
// executor has work until then, and must live until then. A handler without one is called on
// asio::system_executor's threads.
//
// Cancellation: by the token's cancellation slot, as by DispatchOptions::stop_token of Dispatch.
// What has not started never runs: CANCELLED. If it has, `terminal` and `partial` cancellation
// complete it with CANCELLED (STILL_RUNNING), and `total` changes nothing. The slot, as all of
// asio's, is used on the handler's executor.
template <typename Reply = void, typename Request, typename Token>
auto AsyncDispatch(RuntimeContext context, std::string operation, Request request,
                   const DispatchOptions& options, Token&& token,
                   SourceLocation where = SourceLocation::current()) {
  auto initiate = [where](auto handler, const RuntimeContext& to, const std::string& name,
                          Request message, const DispatchOptions& how) {
    Pending<Reply> pending = to.Dispatch<Reply>(name, std::move(message), how, where);
    auto executor = asio::get_associated_executor(handler);
    auto slot = asio::get_associated_cancellation_slot(handler);
    if (slot.is_connected()) {
      slot.assign([weak = std::weak_ptr<internal::InvocationState>(internal::StateOf(pending))](
                      asio::cancellation_type type) {
        const std::shared_ptr<internal::InvocationState> state = weak.lock();
        if (state == nullptr) return;
        constexpr auto kStops =
            asio::cancellation_type::terminal | asio::cancellation_type::partial;
        const bool stops = (type & kStops) != asio::cancellation_type::none;
        stops ? state->Stop() : state->Cancel();
      });
    }
    std::move(pending)
        .On([executor, work = asio::make_work_guard(executor)](absl::AnyInvocable<void() &&> run) {
          asio::post(executor, [run = std::move(run)]() mutable { std::move(run)(); });
        })
        .Then([handler = std::move(handler), slot](Outcome<Reply> outcome) mutable {
          if (slot.is_connected()) slot.clear();
          std::move(handler)(std::move(outcome));
        });
  };
  return asio::async_initiate<Token, void(Outcome<Reply>)>(std::move(initiate), token,
                                                           std::move(context), std::move(operation),
                                                           std::move(request), options);
}

template <typename Reply = void, typename Request, typename Token>
auto AsyncDispatch(RuntimeContext context, std::string operation, Request request, Token&& token,
                   SourceLocation where = SourceLocation::current()) {
  const DispatchOptions defaults;
  return AsyncDispatch<Reply>(std::move(context), std::move(operation), std::move(request),
                              defaults, std::forward<Token>(token), where);
}

#if RUNLOOP_OPTIONS_NEED_A_NAME
template <typename Reply = void, typename Request, typename Token>
auto AsyncDispatch(RuntimeContext context, std::string operation, Request request,
                   DispatchOptions&& options, Token&& token) = delete;
#endif

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_ASIO_H_
