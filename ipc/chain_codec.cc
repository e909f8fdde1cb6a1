#include "runloop/ipc/chain_codec.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

constexpr size_t kLongestId = 64;

}  // namespace

void WriteChain(const internal::Chain& chain,
                google::protobuf::RepeatedPtrField<v1::ChainLink>& links) {
  for (const internal::ChainLink& link : chain) {
    v1::ChainLink& added = *links.Add();
    added.set_runtime_id(link.runtime_id);
    added.set_operation(link.operation);
    added.set_wait(link.wait);
  }
}

absl::StatusOr<internal::Chain> ReadChain(
    const google::protobuf::RepeatedPtrField<v1::ChainLink>& links) {
  auto bad = [](const std::string& what) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     absl::StrCat("the chain of those that wait ", what));
  };
  if (static_cast<size_t>(links.size()) > internal::kMaxChainLinks) {
    return bad(absl::StrCat("has ", links.size(), " links, at most ", internal::kMaxChainLinks,
                            " are followed"));
  }
  size_t bytes = 0;
  internal::Chain chain;
  for (const v1::ChainLink& link : links) {
    if (link.runtime_id().empty() || link.runtime_id().size() > kLongestId ||
        link.operation().size() > internal::kMaxLinkOperation) {
      return bad("has a link whose runtime_id or operation is too long or missing");
    }
    bytes += link.runtime_id().size() + link.operation().size();
    if (bytes > internal::kMaxChainBytes) {
      return bad(absl::StrCat("has more than ", internal::kMaxChainBytes, " bytes"));
    }
    chain.push_back(
        {.runtime_id = link.runtime_id(), .operation = link.operation(), .wait = link.wait()});
  }
  return chain;
}

}  // namespace runloop
