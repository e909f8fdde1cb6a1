#include "runloop/runtime/call_site.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/common.h"

namespace runloop {
namespace {

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The end of a path that tells files of one program apart.
std::string_view Tail(std::string_view path) {
  constexpr int kParts = 3;
  size_t begin = path.size();
  for (int parts = 0; parts < kParts && begin != 0 && begin != std::string_view::npos; ++parts) {
    begin = path.find_last_of('/', begin - 1);
  }
  return begin == std::string_view::npos ? path : path.substr(begin + (begin < path.size()));
}

const internal::CallSiteText& Told(uintptr_t bits) {
  return *reinterpret_cast<const internal::CallSiteText*>(bits & ~uintptr_t{1});
}

}  // namespace

std::string_view CallSite::file() const {
  return told() ? std::string_view(Told(bits_).file)
                : Tail(std::bit_cast<SourceLocation>(bits_).file_name());
}

uint32_t CallSite::line() const {
  return told() ? Told(bits_).line : std::bit_cast<SourceLocation>(bits_).line();
}

std::string_view CallSite::function() const {
  return told() ? std::string_view(Told(bits_).function)
                : std::bit_cast<SourceLocation>(bits_).function_name();
}

std::string CallSite::ToString() const {
  if (!known()) return "";
  std::string text = internal::CleanText(file(), internal::kMaxCallSiteText);
  if (line() != 0) absl::StrAppend(&text, ":", line());
  const std::string name = internal::CleanText(function(), internal::kMaxCallSiteText);
  if (!name.empty()) absl::StrAppend(&text, " (", name, ")");
  return text;
}

namespace internal {

KeptSourceLocation KeptSourceLocation::current(const char* file, const char* function,
                                               uint32_t line) {
  struct Table {
    absl::Mutex mutex;
    std::set<Place> places ABSL_GUARDED_BY(mutex);
  };
  static Table& table = *new Table;
  KeptSourceLocation location;
  absl::MutexLock lock(&table.mutex);
  location.place_ =
      &*table.places.insert({.file = file, .function = function, .line = line, .column = 0}).first;
  return location;
}

std::string CleanText(std::string_view text, size_t most) {
  if (text.size() > most) {
    while (most > 0 && Continues(text[most])) --most;
    text = text.substr(0, most);
  }
  const bool utf8 = google::protobuf::internal::IsStructurallyValidUTF8(
      text.data(), static_cast<int>(text.size()));
  std::string clean;
  clean.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // The characters from U+0080 to U+009F are C2 80 to C2 9F in UTF-8.
    const bool c1 = utf8 && byte == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    const bool bad = c1 || byte < 0x20 || byte == 0x7F || (!utf8 && byte >= 0x80);
    clean.push_back(bad ? '?' : text[i]);
    if (c1) ++i;
  }
  return clean;
}

const CallSiteText* CallSiteTable::Keep(std::string_view file, uint32_t line,
                                        std::string_view function) {
  CallSiteText site{.file = CleanText(file, kMaxCallSiteText),
                    .line = line,
                    .function = CleanText(function, kMaxCallSiteText)};
  absl::MutexLock lock(&mutex_);
  if (sites_.size() == kMost) {
    const auto known = sites_.find(site);
    return known != sites_.end() ? &*known : nullptr;
  }
  return &*sites_.insert(std::move(site)).first;
}

}  // namespace internal
}  // namespace runloop
