#include "runloop/tests/testing/test_buffers.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "runloop/test/v1/test_buffers.pb.h"

namespace runloop {
namespace {

using namespace test::v1;  // NOLINT(google-build-using-namespace): the messages of this file's
                           // operations

void Must(const absl::Status& status) {
  if (!status.ok()) throw std::logic_error(status.ToString());
}

uint64_t Sum(absl::Span<const uint8_t> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), uint64_t{0});
}

}  // namespace

void RegisterTestBuffers(OperationRegistry& registry) {
  Must(registry.Register<SumRequest, SumReply>(
      kSum, [](OperationContext& context, SumRequest request) -> absl::StatusOr<SumReply> {
        const bool in_message = request.buffer().has_bytes();
        const absl::StatusOr<Buffer> buffer =
            context.OpenBuffer(std::move(*request.mutable_buffer()));
        if (!buffer.ok()) return buffer.status();
        SumReply reply;
        reply.set_sum(Sum(buffer->data()));
        reply.set_size(buffer->size());
        reply.set_in_message(in_message);
        return reply;
      }));

  Must(registry.Register<HoldBufferRequest, HoldBufferReply>(
      kHoldBuffer,
      [held = std::make_shared<Buffer>()](
          OperationContext& context, HoldBufferRequest request) -> absl::StatusOr<HoldBufferReply> {
        absl::StatusOr<Buffer> buffer = context.OpenBuffer(request.buffer());
        if (!buffer.ok()) return buffer.status();
        HoldBufferReply reply;
        reply.set_sum_before(Sum(held->data()));
        *held = *std::move(buffer);
        return reply;
      }));

  Must(registry.Register<MakeBufferRequest, MakeBufferReply>(
      kMakeBuffer,
      [](OperationContext& context, MakeBufferRequest request) -> absl::StatusOr<MakeBufferReply> {
        const absl::StatusOr<Buffer> buffer = context.NewBuffer(request.size());
        if (!buffer.ok()) return buffer.status();
        Buffer writable = *buffer;
        std::fill(writable.mutable_data().begin(), writable.mutable_data().end(),
                  static_cast<uint8_t>(request.fill()));
        MakeBufferReply reply;
        *reply.mutable_buffer() = buffer->ref();
        return reply;
      }));

  Must(registry.Register<ReadDescriptorRequest, ReadDescriptorReply>(
      kReadDescriptor,
      [](OperationContext& context,
         ReadDescriptorRequest request) -> absl::StatusOr<ReadDescriptorReply> {
        const absl::StatusOr<UniqueFd> fd = context.TakeDescriptor(request.descriptor_id());
        if (!fd.ok()) return fd.status();
        char text[64];
        const ssize_t got = read(fd->get(), text, sizeof(text));
        ReadDescriptorReply reply;
        if (got > 0) reply.set_text(text, static_cast<size_t>(got));
        return reply;
      }));
}

}  // namespace runloop
