#ifndef RUNLOOP_CLIENT_CLI_TEXT_H_
#define RUNLOOP_CLIENT_CLI_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "runloop/client/printable.h"

namespace runloop::cli {

// What people read on a terminal.

// What a peer chose must not steer the terminal.
using internal::Printable;

// Three digits or so and one unit, such as `1.25ms`, `3m12s`.
std::string HumanDuration(absl::Duration duration);
std::string HumanDuration(const google::protobuf::Duration& duration);
// Such as `64 MiB`.
std::string HumanBytes(uint64_t bytes);

// Columns as wide as their widest cell. Cells that are numbers stand right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  // As many cells as the header has.
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Those of `known` that somebody who wrote `name` may have meant, best first, at most `count`.
std::vector<std::string> NearNames(const std::string& name, const std::vector<std::string>& known,
                                   size_t count = 3);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_TEXT_H_
