#include "runloop/client/cli/text.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace runloop::cli {
namespace {

// How many characters have to be put in, left out or changed.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

// `Method` of `package.Service/Method`.
std::string LastPart(const std::string& name) { return name.substr(name.find_last_of("/.") + 1); }

bool IsNumber(const std::string& cell) {
  return !cell.empty() && std::isdigit(static_cast<unsigned char>(cell[0])) != 0;
}

}  // namespace

std::string HumanDuration(absl::Duration duration) {
  if (duration == absl::ZeroDuration()) return "0";
  const absl::Duration size = absl::AbsDuration(duration);
  absl::Duration unit = absl::Nanoseconds(1);
  for (const absl::Duration step :
       {absl::Nanoseconds(10), absl::Nanoseconds(100), absl::Microseconds(1),
        absl::Microseconds(10), absl::Microseconds(100), absl::Milliseconds(1),
        absl::Milliseconds(10), absl::Milliseconds(100), absl::Seconds(1)}) {
    if (size >= 100 * step) unit = step;
  }
  if (size >= absl::Minutes(1)) unit = absl::Seconds(1);
  if (size >= absl::Hours(10)) unit = absl::Minutes(1);
  return absl::FormatDuration(absl::Trunc(duration, unit));
}

std::string HumanDuration(const google::protobuf::Duration& duration) {
  return HumanDuration(absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos()));
}

std::string HumanBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.3g %s", value, kUnits[unit]);
}

std::string Table::ToString() const {
  std::vector<size_t> widths(rows_.front().size());
  std::vector<bool> numbers(widths.size(), rows_.size() > 1);
  for (size_t i = 0; i < rows_.size(); ++i) {
    for (size_t column = 0; column < widths.size(); ++column) {
      widths[column] = std::max(widths[column], rows_[i][column].size());
      if (i > 0 && !IsNumber(rows_[i][column])) numbers[column] = false;
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (size_t column = 0; column < widths.size(); ++column) {
      const std::string padding(widths[column] - row[column].size(), ' ');
      absl::StrAppend(&line, column == 0 ? "" : "  ", numbers[column] ? padding : "", row[column],
                      numbers[column] ? "" : padding);
    }
    absl::StripTrailingAsciiWhitespace(&line);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::vector<std::string> NearNames(const std::string& name, const std::vector<std::string>& known,
                                   size_t count) {
  const std::string wanted = absl::AsciiStrToLower(name);
  const std::string wanted_last = LastPart(wanted);
  std::vector<std::pair<size_t, std::string>> near;
  for (const std::string& candidate : known) {
    const std::string lower = absl::AsciiStrToLower(candidate);
    const std::string last = LastPart(lower);
    const size_t whole = EditDistance(wanted, lower);
    if (whole <= 3 && whole < wanted.size()) {
      near.emplace_back(whole, candidate);
    } else if (EditDistance(wanted_last, last) <= wanted_last.size() / 4 ||
               (wanted.size() >= 3 && absl::StrContains(lower, wanted))) {
      near.emplace_back(whole + 1000, candidate);  // after those that are near as a whole
    }
  }
  std::sort(near.begin(), near.end());
  if (near.size() > count) near.resize(count);
  std::vector<std::string> names;
  for (auto& [distance, candidate] : near) names.push_back(std::move(candidate));
  return names;
}

}  // namespace runloop::cli
