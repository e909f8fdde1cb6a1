#ifndef RUNLOOP_TESTS_SEQUENCE_COVERAGE_H_
#define RUNLOOP_TESTS_SEQUENCE_COVERAGE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace runloop::sequence {

// How often each kind of step met each outcome that it can have. What is possible is listed in
// coverage.cc, so that a path that the programs no longer take is noticed, and so is one that
// nobody thought of.
class Coverage {
 public:
  // Both of static storage.
  void Count(std::string_view row, std::string_view cell, int64_t times = 1) {
    counts_[row][cell] += times;
  }

  // `by_messages`: sessions are carried by messages, not by calls. The table, for people.
  std::string Table(bool by_messages) const;

  // Lines that say which possible cells were met less than `at_least` times, and which were met
  // that are not listed.
  std::vector<std::string> Complaints(int64_t at_least, bool by_messages) const;

 private:
  std::map<std::string_view, std::map<std::string_view, int64_t>> counts_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_COVERAGE_H_
