#include "runloop/runtime/hosted_addresses.h"

#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace runloop {
namespace {

struct Table {
  absl::Mutex mutex;
  std::map<std::string, LocalRuntimeContext, std::less<>> contexts ABSL_GUARDED_BY(mutex);
};

Table& GetTable() {
  static Table* const table = new Table;  // never destroyed: threads may outlive main
  return *table;
}

}  // namespace

void AddHostedAddress(std::string address, LocalRuntimeContext context) {
  Table& table = GetTable();
  absl::MutexLock lock(&table.mutex);
  table.contexts.insert_or_assign(std::move(address), std::move(context));
}

void RemoveHostedAddress(std::string_view address) {
  Table& table = GetTable();
  absl::MutexLock lock(&table.mutex);
  if (const auto found = table.contexts.find(address); found != table.contexts.end()) {
    table.contexts.erase(found);
  }
}

std::optional<LocalRuntimeContext> FindHostedAddress(std::string_view address) {
  Table& table = GetTable();
  absl::MutexLock lock(&table.mutex);
  const auto found = table.contexts.find(address);
  if (found == table.contexts.end()) return std::nullopt;
  return found->second;
}

}  // namespace runloop
