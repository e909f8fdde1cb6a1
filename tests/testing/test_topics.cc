#include "runloop/tests/testing/test_topics.h"

#include <stdexcept>

#include "runloop/runtime/local_context.h"

namespace runloop {
namespace {

using test::v1::Item;
using test::v1::PublishReply;
using test::v1::PublishRequest;

void Must(const absl::Status& status) {
  if (!status.ok()) throw std::logic_error(status.ToString());
}

absl::StatusOr<PublishReply> Publish(OperationContext& context, const PublishRequest& request) {
  for (uint64_t i = 0; i < request.count(); ++i) {
    Item item;
    item.set_index(request.first() + i);
    item.set_text(request.text());
    absl::Status published = request.to_session()
                                 ? context.session()->Publish(request.topic(), item)
                                 : context.runtime().Publish(request.topic(), item);
    if (!published.ok()) return published;
  }
  return PublishReply();
}

}  // namespace

void RegisterTestTopics(OperationRegistry& registry) {
  Must(registry.RegisterTopic<Item>(kEvery));
  Must(registry.RegisterTopic<Item>(kNewest, {.latest = true}));
  Must(registry.Register<PublishRequest, PublishReply>(kPublish, Publish));
}

}  // namespace runloop
