// The guide's chapter on asio.

#include "runloop/runtime/asio.h"

#include <asio.hpp>
#include <future>

#include "runloop/tests/guide/fixture.h"

// Of the compilers that build this only g++ has coroutines that this asio knows.
#ifdef ASIO_HAS_CO_AWAIT

namespace acme {
namespace {

// [asio]
asio::awaitable<uint32_t> Width(runloop::RuntimeContext context) {
  DescribeRequest request;
  request.set_name("front");
  absl::StatusOr<DescribeReply> reply = co_await runloop::AsyncDispatch<DescribeReply>(
      context, "acme.v1.Camera/Describe", request, asio::use_awaitable);
  co_return reply.ok() ? reply->width() : 0;
}
// [/asio]

TEST_F(GuideTest, AsioAwaitsAReply) {
  Start();
  asio::io_context io;
  std::future<uint32_t> width = asio::co_spawn(io, Width(Connect()), asio::use_future);
  io.run();
  EXPECT_EQ(width.get(), 1920u);
}

}  // namespace
}  // namespace acme

#endif  // ASIO_HAS_CO_AWAIT
